"""Find the configurations that come with the package by their names.

A name is the path below ``configs/``, with or without ``.yaml``:
``camvid/semantic-segmentation/freqfusion_semantic_fpn_lite0``.
"""

from __future__ import annotations

from pathlib import Path

from freqfusion.messages import nearest

_SUFFIX = ".yaml"


def list_configs() -> list[str]:
    """Return the names of all configurations that can be trained, in order."""
    root = _root()
    files = (path.relative_to(root).with_suffix("") for path in root.rglob(f"*{_SUFFIX}"))
    return sorted(
        name.as_posix()
        for name in files
        if name.parts[0] != "common" and not name.name.startswith("Base-")
    )


def get_config_file(name: str) -> str:
    """Return the path of a configuration.

    Raises:
        ValueError: if there is none of that name, with similar names.
    """
    known = list_configs()
    short = name.removesuffix(_SUFFIX)
    if short in known:
        return str(_root() / f"{short}{_SUFFIX}")
    # People remember the last part.
    by_last = {one.rpartition("/")[2]: one for one in known}
    near = nearest(short.rpartition("/")[2], by_last, count=1)
    hint = f": did you mean {by_last[near[0]]}?" if near else ""
    raise ValueError(
        f"there is no configuration {name}{hint} (freqfusion.model_zoo.list_configs() names all)"
    )


def find_config(name_or_file: str) -> str:
    """Return a file as it is, and the path of a configuration that is given by its name."""
    path = Path(name_or_file)
    is_file = path.suffix or path.exists() or "://" in name_or_file
    return name_or_file if is_file else get_config_file(name_or_file)


def _root() -> Path:
    """Return the folder of the configurations: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"
