"""Which scenes make up the train, the val and the tune split of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from freqfusion.data.synthetic.arguments import check_index

SPLITS = ("train", "val", "tune")

VAL_START = 1_000_000_000
"""Index of the first val scene; train scenes start at 0."""

TUNE_START = 2_000_000_000
"""Index of the first tune scene: for choices, such as a learning rate, that val must not make."""

_FIRST = {"train": 0, "val": VAL_START, "tune": TUNE_START}
_LIMIT = {"train": VAL_START, "val": TUNE_START - VAL_START}


@dataclass(frozen=True, slots=True)
class SceneNumber:
    """A scene of a data set: its split, position there from 0 on, and ``make_scene`` numbers."""

    split: str
    position: int
    seed: int
    index: int


def check_splits(num_train: int, num_val: int, num_tune: int = 0) -> dict[str, int]:
    """Number of scenes of each split that is not empty; ValueError for impossible numbers."""
    given = zip(SPLITS, (num_train, num_val, num_tune), strict=True)
    counts = {split: check_index(f"num_{split}", count) for split, count in given}
    if not any(counts.values()):
        raise ValueError("num_train and num_val are both 0; ask for at least one scene")
    for split, most in _LIMIT.items():
        if counts[split] > most:
            raise ValueError(f"num_{split} must be at most {most}, not {counts[split]}")
    return {split: count for split, count in counts.items() if count}


def scene_numbers(seed: int, splits: dict[str, int]) -> list[SceneNumber]:
    """All scenes of the splits, in order."""
    return [
        SceneNumber(split, position, seed, _FIRST[split] + position)
        for split, count in splits.items()
        for position in range(count)
    ]
