"""The folder a data set is written to: what may be there, and a note on how it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from freqfusion.data.synthetic.difficulty import Difficulty

NOTE = "synthetic.json"


def prepare_root(
    root: str | Path,
    folders: Sequence[str],
    note: dict[str, Any],
    *,
    owned: Sequence[str],
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


def scene_note(
    layout: str,
    seed: int,
    size: tuple[int, int],
    splits: dict[str, int],
    detail: str,
    difficulty: Difficulty,
) -> dict[str, Any]:
    """What the note of any layout says: all that the scenes depend on."""
    return {
        "layout": layout,
        "seed": seed,
        "size": list(size),
        **{f"num_{split}": count for split, count in splits.items()},
        "detail": detail,
        "difficulty": asdict(difficulty),
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
