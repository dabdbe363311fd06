"""Write scenes as a data set: its splits, its folder, and the note on how it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from freqfusion.data.synthetic.canvas import (
    Difficulty,
    check_choice,
    check_difficulty,
    check_index,
    check_size,
)
from freqfusion.data.synthetic.categories import SPLITS
from freqfusion.data.synthetic.scenes import DETAILS, Scene, make_scene
from freqfusion.data.workers import check_workers, run_in_order

VAL_START = 1_000_000_000
"""Index of the first val scene; train scenes start at 0."""

TUNE_START = 2_000_000_000
"""Index of the first tune scene: for choices, such as a learning rate, that val must not make."""

NOTE = "synthetic.json"

_FIRST = {"train": 0, "val": VAL_START, "tune": TUNE_START}
_LIMIT = {"train": VAL_START, "val": TUNE_START - VAL_START}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SceneSet:
    """All that the scenes of a data set depend on; ``splits`` has the number of scenes of each."""

    seed: int
    size: tuple[int, int]
    splits: dict[str, int]
    detail: str
    difficulty: Difficulty


@dataclass(frozen=True, slots=True)
class SceneJob:
    """One scene to be painted and written below ``root``; ``position`` counts from 0 in a split."""

    root: Path
    scenes: SceneSet
    split: str
    position: int
    mask_format: str | None

    @property
    def index(self) -> int:
        """Return the number of the scene among all of its seed, as ``make_scene`` has it."""
        return _FIRST[self.split] + self.position

    def paint(self) -> Scene:
        """Return the scene."""
        key = self.scenes.seed, self.index, self.scenes.size
        return make_scene(*key, detail=self.scenes.detail, difficulty=self.scenes.difficulty)


def check_scenes(
    counts: Sequence[int],
    size: tuple[int, int],
    seed: int,
    detail: str,
    difficulty: Difficulty | None,
) -> SceneSet:
    """Return the scenes of a data set; ValueError for impossible arguments.

    ``counts`` are the numbers of train, val and tune scenes, the rest is as in ``make_scene``.
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


def write_scenes(
    write: Callable[[SceneJob], Result],
    layout: str,
    root: str | Path,
    scenes: SceneSet,
    *,
    folders: Iterable[str],
    owned: Iterable[str],
    workers: int | None,
    overwrite: bool,
    progress: bool,
    mask_format: str | None = None,
) -> tuple[Path, dict[str, list[Result]]]:
    """Call ``write`` for every scene; return the root and the results by split, in order.

    ``folders`` are made below ``root``, synthetic.json says how the data set was made. A root that
    holds anything is an error unless ``overwrite`` is set. Even then only a data set of the same
    layout that this package wrote is replaced: its folders, ``owned``, are removed first, other
    files stay.
    """
    processes = check_workers(workers)
    path = Path(root)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give the path of a folder")
    if path.is_dir() and any(path.iterdir()):
        _check_replaceable(path, layout, overwrite)
        for folder in owned:
            if (path / folder).is_dir():
                shutil.rmtree(path / folder)
    for folder in folders:
        (path / folder).mkdir(parents=True, exist_ok=True)
    write_json(path / NOTE, _note(layout, scenes, mask_format))
    jobs = [
        SceneJob(path, scenes, split, position, mask_format)
        for split, count in scenes.splits.items()
        for position in range(count)
    ]
    title = f"{layout} scenes"
    results = run_in_order(write, jobs, workers=processes, title=title, progress=progress)
    records: dict[str, list[Result]] = {split: [] for split in scenes.splits}
    for job, result in zip(jobs, results, strict=True):
        records[job.split].append(result)
    return path, records


def _note(layout: str, scenes: SceneSet, mask_format: str | None) -> dict[str, Any]:
    return {
        "layout": layout,
        "seed": scenes.seed,
        "size": list(scenes.size),
        **{f"num_{split}": count for split, count in scenes.splits.items()},
        "detail": scenes.detail,
        "difficulty": asdict(scenes.difficulty),
        **({} if mask_format is None else {"mask_format": mask_format}),
    }


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
