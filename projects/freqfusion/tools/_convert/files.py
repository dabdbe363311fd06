"""Read checkpoints without running code from them, and write Detectron2's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqfusion.files import (
    HEURISTICS,
    INSTALL,
    VERSIONS,
    read_checkpoint,
    with_versions,
    write_whole,
)
from freqfusion.tools._convert.rules import State

AUTHOR = "freqfusion.convert_checkpoint"
# Where Detectron2 keeps weights, and Swin's original release; what those have that are taken from
# there: a Mask2Former, a Swin and an InternImage.
_SUFFIXES = (".pth", ".safetensors")
_INSIDE, _KNOWN = "model", ("sem_seg_head.", "patch_embed.")


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, see ``freqfusion.files.read_checkpoint``.

    It may be bare, under ``"state_dict"``, or, for a Mask2Former, a Swin and an InternImage, under
    ``"model"``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything else, or objects that only running code could rebuild.
    """
    return _tensors(_state_dict(read_checkpoint(path)), path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds a {type(value).__name__} under {name!r}; a state dict, bare or "
                'under "state_dict", has tensors only'
            )
    return dict(content)


def _state_dict(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    if isinstance(content.get("state_dict"), dict):
        return content["state_dict"]
    inside = content.get(_INSIDE)
    if isinstance(inside, dict) and any(str(name).startswith(_KNOWN) for name in inside):
        return inside
    return content


def check_output(path: Path, *, source: Path, overwrite: bool) -> None:
    """Refuse a place where the result must not be written.

    Raises:
        ValueError: if the name does not end in ``.pth`` or ``.safetensors``, or is the input's.
        FileExistsError: if something is there and may not be replaced.
    """
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"the output must be named *.pth, as Detectron2 expects, or *.safetensors; got {path}"
        )
    if path.resolve() == source.resolve():
        raise ValueError(f"the output {path} is the input")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} exists; give --overwrite to replace a file")


def write(
    path: Path,
    state: State,
    *,
    versions: Mapping[str, int] | None = None,
    author: str = AUTHOR,
    heuristics: bool = False,
) -> None:
    """Save for a checkpointer, in the format of the name; an interruption leaves no half file.

    Args:
        path: The file.
        state: The weights.
        versions: Of modules, by their names; a module may treat weights without one as old.
        author: Whose names the weights have.
        heuristics: Whether Detectron2 is to guess which of its names are meant.
    """

    def save(partial: Path) -> None:
        if path.suffix == ".safetensors":
            write_safetensors(
                partial, state, author=author, versions=versions, heuristics=heuristics
            )
        else:
            weights = with_versions(state, versions or {})
            torch.save({"model": weights, "__author__": author, HEURISTICS: heuristics}, partial)

    write_whole(path, save)


def write_safetensors(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    *,
    author: str,
    versions: Mapping[str, int] | None = None,
    heuristics: bool = False,
) -> None:
    """Write weights; tensors that share memory are written one by one.

    Args:
        path: The file.
        weights: By their names.
        author: Who wrote it.
        versions: Of modules, by their names; a module may treat weights without one as old.
        heuristics: Whether Detectron2 is to guess which of its names are meant.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ValueError(f"{path} needs the package safetensors: {INSTALL}") from error
    notes = {"format": "pt", "author": author, HEURISTICS: str(heuristics)}
    if versions:
        notes[VERSIONS] = json.dumps(dict(versions))
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    save_file(own, path, metadata=notes)
