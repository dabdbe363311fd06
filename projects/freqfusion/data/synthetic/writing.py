"""Write scenes as a data set: its splits, its folder, and the note on how it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from freqfusion.data.synthetic.scenes import Scene, check_scene, make_scene
from freqfusion.data.workers import check_workers, run_in_order

VAL_START = 1_000_000_000
"""Index of the first val scene; train scenes start at 0."""

TUNE_START = 2_000_000_000
"""Index of the first tune scene: for choices, such as a learning rate, that val must not make."""

NOTE = "synthetic.json"

_FIRST = {"train": 0, "val": VAL_START, "tune": TUNE_START}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SceneSet:
    """All that the scenes of a data set depend on; ValueError for what is not possible."""

    num_train: int
    num_val: int
    num_tune: int
    seed: int
    size: tuple[int, int]
    detail: str
    line_thickness: int | None

    def __post_init__(self) -> None:
        check_scene(self.seed, self.size, self.detail, self.line_thickness)
        for split in _FIRST:
            count = getattr(self, f"num_{split}")
            if count < 0:
                raise ValueError(f"num_{split} must be 0 or more, not {count}")
        if not self.splits:
            raise ValueError("num_train and num_val are both 0; ask for at least one scene")

    @property
    def splits(self) -> dict[str, int]:
        """Return the number of scenes of each split that has any."""
        counts = {split: getattr(self, f"num_{split}") for split in _FIRST}
        return {split: count for split, count in counts.items() if count}


@dataclass(frozen=True, slots=True)
class SceneJob:
    """One scene to be painted and written below ``root``; ``position`` counts from 0 in a split."""

    root: Path
    scenes: SceneSet
    split: str
    position: int

    def paint(self) -> Scene:
        """Return the scene."""
        s, index = self.scenes, _FIRST[self.split] + self.position
        return make_scene(s.seed, index, s.size, detail=s.detail, line_thickness=s.line_thickness)


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
    write_json(path / NOTE, {"layout": layout, **asdict(scenes)})
    records: dict[str, list[Result]] = {}
    for split, count in scenes.splits.items():
        jobs = [SceneJob(path, scenes, split, position) for position in range(count)]
        title = f"{layout} scenes, {split}"
        records[split] = run_in_order(write, jobs, workers=processes, title=title, shown=progress)
    return path, records


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
        found = None
    if found != layout:
        raise ValueError(
            f"{path} holds no synthetic data set in {layout} layout (see {NOTE}), so it is not"
            " overwritten; choose another folder or empty it yourself"
        )
