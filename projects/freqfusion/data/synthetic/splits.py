"""Which scenes make up the train and the val split of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from freqfusion.data.synthetic.arguments import check_index

SPLITS = ("train", "val")

VAL_START = 1_000_000_000
"""Index of the first val scene; train scenes start at 0."""


@dataclass(frozen=True, slots=True)
class SceneNumber:
    """A scene of a data set: its split, position there from 0 on, and ``make_scene`` numbers."""

    split: str
    position: int
    seed: int
    index: int


def check_splits(num_train: int, num_val: int) -> dict[str, int]:
    """Number of scenes of each split that is not empty; ValueError for impossible numbers."""
    counts = {"train": check_index("num_train", num_train), "val": check_index("num_val", num_val)}
    if not any(counts.values()):
        raise ValueError("num_train and num_val are both 0; ask for at least one scene")
    if counts["train"] > VAL_START:
        raise ValueError(f"num_train must be at most {VAL_START}, not {counts['train']}")
    return {split: count for split, count in counts.items() if count}


def scene_numbers(seed: int, splits: dict[str, int]) -> list[SceneNumber]:
    """All scenes of the splits, in order."""
    first = {"train": 0, "val": VAL_START}
    return [
        SceneNumber(split, position, seed, first[split] + position)
        for split, count in splits.items()
        for position in range(count)
    ]
