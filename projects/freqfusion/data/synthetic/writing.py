"""Write scenes as a data set: its splits, its folder, and the note on how it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from freqfusion.data.synthetic.parallel import run_in_order
from freqfusion.data.synthetic.scenes import DETAILS, Scene, make_scene
from freqfusion.data.synthetic.settings import (
    Difficulty,
    check_choice,
    check_difficulty,
    check_index,
    check_size,
)

SPLITS = ("train", "val", "tune")

VAL_START = 1_000_000_000
"""Index of the first val scene; train scenes start at 0."""

TUNE_START = 2_000_000_000
"""Index of the first tune scene: for choices, such as a learning rate, that val must not make."""

NOTE = "synthetic.json"

_FIRST = {"train": 0, "val": VAL_START, "tune": TUNE_START}
_LIMIT = {"train": VAL_START, "val": TUNE_START - VAL_START}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SceneNumber:
    """A scene of a data set: its split, position there from 0 on, and ``make_scene`` numbers."""

    split: str
    position: int
    seed: int
    index: int


@dataclass(frozen=True, slots=True)
class SceneSet:
    """All that the scenes of a data set depend on; ``splits`` has the number of scenes of each."""

    seed: int
    size: tuple[int, int]
    splits: dict[str, int]
    detail: str
    difficulty: Difficulty

    def note(self, layout: str) -> dict[str, Any]:
        """Return what synthetic.json says in any layout."""
        return {
            "layout": layout,
            "seed": self.seed,
            "size": list(self.size),
            **{f"num_{split}": count for split, count in self.splits.items()},
            "detail": self.detail,
            "difficulty": asdict(self.difficulty),
        }


@dataclass(frozen=True, slots=True)
class SceneJob:
    """One scene that a process paints and writes below ``root``."""

    root: Path
    number: SceneNumber
    scenes: SceneSet
    mask_format: str = "polygon"

    def paint(self) -> Scene:
        """Return the scene."""
        key = self.number.seed, self.number.index, self.scenes.size
        return make_scene(*key, detail=self.scenes.detail, difficulty=self.scenes.difficulty)


def check_scenes(
    counts: Sequence[int],
    size: tuple[int, int],
    seed: int,
    detail: str,
    difficulty: Difficulty | None,
) -> SceneSet:
    """Return a data set's scenes; ValueError for impossible arguments.

    Args:
        counts: Number of train, val and tune scenes.
        size: (height, width).
        seed: The series of scenes.
        detail: As ``make_scene`` has it.
        difficulty: As ``make_scene`` has it; None for the default.
    """
    return SceneSet(
        check_index("seed", seed),
        check_size(size),
        check_splits(*counts),
        check_choice("detail", detail, DETAILS),
        check_difficulty(Difficulty() if difficulty is None else difficulty),
    )


def check_splits(num_train: int, num_val: int, num_tune: int = 0) -> dict[str, int]:
    """Return the number of scenes of each split that has any; ValueError for impossible ones."""
    given = zip(SPLITS, (num_train, num_val, num_tune), strict=True)
    counts = {split: check_index(f"num_{split}", count) for split, count in given}
    if not any(counts.values()):
        raise ValueError("num_train and num_val are both 0; ask for at least one scene")
    for split, most in _LIMIT.items():
        if counts[split] > most:
            raise ValueError(f"num_{split} must be at most {most}, not {counts[split]}")
    return {split: count for split, count in counts.items() if count}


def scene_numbers(seed: int, splits: dict[str, int]) -> list[SceneNumber]:
    """Return all scenes of the splits, in order."""
    return [
        SceneNumber(split, position, seed, _FIRST[split] + position)
        for split, count in splits.items()
        for position in range(count)
    ]


def write_scenes(
    write: Callable[[SceneJob], Result],
    root: Path,
    scenes: SceneSet,
    *,
    workers: int,
    title: str,
    progress: bool,
    mask_format: str = "polygon",
) -> dict[str, list[Result]]:
    """Call ``write`` for every scene and return what it returns, by split and in order."""
    numbers = scene_numbers(scenes.seed, scenes.splits)
    jobs = [SceneJob(root, number, scenes, mask_format) for number in numbers]
    results = run_in_order(write, jobs, workers=workers, title=title, progress=progress)
    records: dict[str, list[Result]] = {split: [] for split in scenes.splits}
    for number, result in zip(numbers, results, strict=True):
        records[number.split].append(result)
    return records


def prepare_root(
    root: str | Path,
    folders: Iterable[str],
    note: dict[str, Any],
    *,
    owned: Iterable[str],
    overwrite: bool,
) -> Path:
    """Make ``root`` with empty ``folders`` in it and write ``note`` to synthetic.json.

    A folder that holds anything is an error unless ``overwrite`` is set. Even then only a data set
    of the same layout that this package wrote (it has the note) is replaced: the folders ``owned``
    by the layout are removed first, other files stay.
    """
    path = Path(root)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give the path of a folder")
    if path.is_dir() and any(path.iterdir()):
        _check_replaceable(path, note["layout"], overwrite)
        for folder in owned:
            if (path / folder).is_dir():
                shutil.rmtree(path / folder)
    for folder in folders:
        (path / folder).mkdir(parents=True, exist_ok=True)
    write_json(path / NOTE, note)
    return path


def write_json(path: Path, content: Any) -> None:
    """Write JSON on one line, keys in the given order."""
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _check_replaceable(path: Path, layout: str, overwrite: bool) -> None:
    if not overwrite:
        raise ValueError(
            f"{path} is not empty; choose another folder, or set overwrite to replace the data set"
            " in it"
        )
    try:
        found = json.loads((path / NOTE).read_text(encoding="utf-8"))["layout"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} holds no synthetic data set (no readable {NOTE}), so it is not overwritten;"
            " choose another folder or empty it yourself"
        ) from None
    if found != layout:
        raise ValueError(
            f"{path} holds a data set in {found} layout, which {layout} files would not replace;"
            " choose another folder or empty it yourself"
        )
