"""Read checkpoints without running code from them, and write Detectron2's."""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqfusion.tools._convert.pickled import read_pickle
from freqfusion.tools._convert.rules import State

AUTHOR = "freqfusion.convert_checkpoint"
# Where Detectron2 keeps weights, and Swin's original release; what those have that are taken from
# there: a Mask2Former, a Swin and an InternImage.
_INSIDE, _KNOWN = "model", ("sem_seg_head.", "patch_embed.")


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of ``torch.save``, or in a pickle of arrays named ``*.pkl``.

    It may be bare, under ``"state_dict"``, or, for a Mask2Former, a Swin and an InternImage, under
    ``"model"``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything else, or objects that only running code could rebuild.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    # torch.save writes archives; a pickle under its own name may still be one.
    pickled = path.suffix == ".pkl" and not zipfile.is_zipfile(path)
    content = _state_dict(read_pickle(path) if pickled else _read_saved(path))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds a {type(value).__name__} under {name!r}; a state dict, bare or "
                'under "state_dict", has tensors only'
            )
    return dict(content)


def _read_saved(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} cannot be read without running code that it names, which is refused, or it "
            "is no checkpoint at all. Where the file is trusted, save its state dict alone with "
            "torch.save and convert that"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"{path} is no checkpoint of torch.save, or is damaged: {error}"
        ) from error


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
        ValueError: if the name does not end in ``.pth`` or is the input's.
        FileExistsError: if something is there and may not be replaced.
    """
    if path.suffix != ".pth":
        raise ValueError(f"the output must be named *.pth, as Detectron2 expects; got {path}")
    if path.resolve() == source.resolve():
        raise ValueError(f"the output {path} is the input")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} exists; give --overwrite to replace a file")


def write(path: Path, state: State, *, versions: Mapping[str, int] | None = None) -> None:
    """Save for Detectron2's ``DetectionCheckpointer``; an interruption leaves no half file.

    Args:
        path: The file.
        state: The weights.
        versions: Of modules, by their names; a module may treat weights without one as old.
    """
    weights = OrderedDict(state)
    if versions:
        # Where ``Module.state_dict`` and ``load_state_dict`` keep them; torch saves and reads it.
        vars(weights)["_metadata"] = {name: {"version": n} for name, n in versions.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        content = {"model": weights, "__author__": AUTHOR, "matching_heuristics": False}
        torch.save(content, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
