"""A trained model on images of your own, in three lines of Python.

::

    predictor = freqfusion.Predictor("coco/panoptic-segmentation/freqfusion_panoptic_fpn_r50_1x",
                                     weights="model_final.pth")
    output = predictor("street.jpg")
    predictor.draw("street.jpg").save("prediction.png")

The tools that run a model on images do it by this class as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from freqfusion.files import check_checkpoint

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]
"""A file, an image of Pillow, or an array: height x width x 3 in RGB, or height x width in grey."""

SeveralImages: TypeAlias = list[Any] | tuple[Any, ...]

_DRAWN_FIRST = ("panoptic", "instance", "semantic")


class Predictor:
    """Run a model on images, resized as in Detectron2's evaluation.

    Several threads may call one predictor.

    Args:
        config: The name of one of our configurations (``freqfusion.model_zoo.list_configs()``), a
            YAML file, or a ``CfgNode``.
        weights: A file or address; None takes ``MODEL.WEIGHTS`` of the configuration.
        device: Where the model runs; None takes ``MODEL.DEVICE``, or the CPU if there is no GPU.
        overrides: ``KEY, VALUE`` pairs that change the configuration.
        model: Taken as it is instead of building the configuration's.

    Attributes:
        cfg: The configuration.
        model: The model, in evaluation mode.
        metadata: Names and colors of the classes, from the data set of ``DATASETS.TEST``.

    Raises:
        ValueError: for a configuration, weights or a device that cannot be used.
    """

    def __init__(
        self,
        config: str | Path | Any,
        weights: str | Path | None = None,
        *,
        device: str | None = None,
        overrides: Sequence[Any] = (),
        model: Any | None = None,
    ) -> None:
        from detectron2.data.transforms import ResizeShortestEdge

        self.cfg = read_config(config, weights, overrides, device=device)
        self.model = build_model(self.cfg) if model is None else model
        self.metadata = metadata_of(self.cfg)
        shortest = [self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MIN_SIZE_TEST]
        self._resize = ResizeShortestEdge(shortest, self.cfg.INPUT.MAX_SIZE_TEST)

    @overload
    def __call__(self, images: ImageLike, batch_size: int = 1) -> dict[str, Any]: ...

    @overload
    def __call__(self, images: SeveralImages, batch_size: int = 1) -> list[dict[str, Any]]: ...

    def __call__(self, images: Any, batch_size: int = 1) -> Any:
        """Return Detectron2's result of an image at its size, or a list of them for several images.

        A result is a dict with ``sem_seg``, ``instances`` and ``panoptic_seg``, as far as the model
        has them.

        Args:
            images: One, or a list of them.
            batch_size: How many images of a list run at once. The smaller ones are padded for it,
                which can change their result a little.

        Raises:
            ValueError: for an image that cannot be read.
        """
        if not _is_list(images):
            return self._run([images])[0]
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        starts = range(0, len(images), batch_size)
        return [one for at in starts for one in self._run(images[at : at + batch_size])]

    @overload
    def draw(
        self, images: ImageLike, *, task: str | None = None, score_threshold: float = 0.5
    ) -> Image.Image: ...

    @overload
    def draw(
        self, images: SeveralImages, *, task: str | None = None, score_threshold: float = 0.5
    ) -> list[Image.Image]: ...

    def draw(
        self,
        images: Any,
        *,
        task: str | None = None,
        score_threshold: float = 0.5,
    ) -> Any:
        """Return an image with the prediction drawn over it (Pillow's), or a list of them.

        Args:
            images: One, or a list of them.
            task: ``panoptic``, ``instance`` or ``semantic``; None takes the first that there is.
            score_threshold: The score from which on instances are drawn.

        Raises:
            ValueError: for an image that cannot be read, or a task that the model does not have.
        """
        if _is_list(images):
            draw = self.draw
            return [draw(one, task=task, score_threshold=score_threshold) for one in images]
        from freqfusion.evaluation.overlays import draw_output

        pixels = read_pixels(images)
        drawn = draw_output(pixels, self(pixels), self.metadata, score_threshold=score_threshold)
        wanted = [name for name in _DRAWN_FIRST if name in drawn]
        if task is not None and task not in wanted:
            raise ValueError(f"the model gives {', '.join(wanted) or 'nothing to draw'}, no {task}")
        if not wanted:
            raise ValueError("the model gives nothing that can be drawn")
        return Image.fromarray(drawn[task or wanted[0]])

    def inputs(self, image: ImageLike) -> dict[str, Any]:
        """Return what the model takes of an image, as a data set dict with a tensor."""
        from detectron2.data.detection_utils import convert_PIL_to_numpy

        pixels = read_pixels(image)
        height, width = pixels.shape[:2]
        channels = convert_PIL_to_numpy(Image.fromarray(pixels), self.cfg.INPUT.FORMAT)
        resized = self._resize.get_transform(channels).apply_image(channels)
        planes = np.ascontiguousarray(resized.transpose(2, 0, 1)).astype(np.float32)
        return {"image": torch.from_numpy(planes), "height": height, "width": width}

    @torch.no_grad()
    def _run(self, images: Sequence[ImageLike]) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = self.model([self.inputs(image) for image in images])
        return outputs


def read_pixels(image: ImageLike) -> NDArray[np.uint8]:
    """Return an image as height x width x 3 in RGB, read as training reads it.

    Raises:
        ValueError: if it cannot be read, or would lose more than 8 bits of grey.
    """
    from freqfusion.data import reading

    if isinstance(image, str | Path):
        return reading.read_image(image, "RGB")[0].copy()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise ValueError(
                "an image must be uint8 from 0 to 255, height x width x 3 in RGB or height x width"
                f" in grey; got {image.dtype} of shape {image.shape}"
            )
        if not image.size:
            raise ValueError(f"the image has no pixels: its shape is {image.shape}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"an image must be a path, an image of Pillow or an array; got {type(image).__name__}"
        )
    reading.check_depth(image.mode, "the image")
    return np.array(reading.pixels_of(image, "RGB"))


def read_config(
    config: str | Path | Any,
    weights: str | Path | None = None,
    overrides: Sequence[Any] = (),
    *,
    device: str | None = None,
    unsafe: bool = False,
) -> Any:
    """Return a configuration on a device that is there; registers all data sets.

    Args:
        config: A name of ``freqfusion.model_zoo``, a YAML file, a ``CfgNode``, or "" for the
            defaults.
        weights: Come before ``MODEL.WEIGHTS``, unless None.
        overrides: ``KEY, VALUE`` pairs that change it.
        device: Comes before ``MODEL.DEVICE``, unless None.
        unsafe: Tags of the file may run code.

    Raises:
        ValueError: for a file, key, value or device that does not exist.
    """
    from freqfusion.data.registration import register_datasets
    from freqfusion.engine.config_file import merge_overrides
    from freqfusion.engine.setup import fit_device, load_config

    try:
        if isinstance(config, str | Path):
            cfg = load_config(str(config), overrides, unsafe=unsafe)
        else:
            cfg = config.clone()
            cfg.defrost()
            merge_overrides(cfg, overrides)
    except AssertionError as error:  # yacs, for a key without a value
        raise ValueError(str(error)) from error
    if weights is not None:
        cfg.MODEL.WEIGHTS = str(weights)
    if device is not None:
        cfg.MODEL.DEVICE = str(device)
    if fit_device(cfg) and device is not None:
        raise ValueError(f"there is no GPU for device {device}; leave it out, or take cpu")
    register_datasets(cfg.DATASETS.DECLARED)
    return cfg


def load_model(
    config: str | Path, weights: str | None, overrides: Sequence[str] = (), *, unsafe: bool = False
) -> tuple[Any, Any]:
    """Return the configuration and its model, in evaluation mode with its weights.

    The arguments are those of ``read_config``; where ``weights`` is the empty string, the model
    stays as it was initialized, and nothing is downloaded.

    Raises:
        ValueError: for a configuration or weights that cannot be read.
    """
    cfg = read_config(config, weights, overrides, unsafe=unsafe)
    if weights == "":
        cfg.MODEL.TIMM.PRETRAINED = False
    return cfg, build_model(cfg, needs_weights=weights != "")


def build_model(cfg: Any, *, needs_weights: bool = True) -> Any:
    """Return the model of a configuration with its weights, in evaluation mode.

    Raises:
        ValueError: if there are no weights though they are needed, no such file, or too few
            parameters of the model in it.
    """
    from detectron2.modeling import build_model

    from freqfusion.engine.checkpoint import SafeCheckpointer
    from freqfusion.modeling import with_memory_format

    if needs_weights or cfg.MODEL.WEIGHTS:
        check_weights(cfg.MODEL.WEIGHTS)
    model = with_memory_format(build_model(cfg.clone()), cfg).eval()
    if cfg.MODEL.WEIGHTS:
        checkpointer = SafeCheckpointer(model)
        checkpointer.load(cfg.MODEL.WEIGHTS)
        checkpointer.check_loaded(cfg.MODEL.WEIGHTS, every=False)
    return model


def check_weights(weights: str) -> None:
    """Raise ValueError where no weights are named, or a file is not there or is refused."""
    if not weights:
        raise ValueError(
            "there are no weights to predict with: give a file of them (--weights FILE), or set"
            " MODEL.WEIGHTS"
        )
    if "://" not in weights and not Path(weights).is_file():
        raise ValueError(f"there is no file of weights {weights}")
    if "://" not in weights:
        check_checkpoint(weights)


def metadata_of(cfg: Any) -> Any:
    """Return the metadata of the data set to test on, which name the model's classes."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if name in DatasetCatalog.list():
            return MetadataCatalog.get(name)
    logger.warning("DATASETS.TEST names no registered data set: classes are called by numbers")
    return {}


@contextmanager
def padded_sizes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Fill the list with height and width of what the backbone is given within the block.

    It stays empty for a model without a backbone.
    """
    sizes: list[tuple[int, int]] = []
    backbone = getattr(model, "backbone", None)
    if backbone is None or not hasattr(backbone, "register_forward_pre_hook"):
        yield sizes
        return
    hook = backbone.register_forward_pre_hook(
        lambda _, given: sizes.append((given[0].shape[-2], given[0].shape[-1]))
    )
    try:
        yield sizes
    finally:
        hook.remove()


def _is_list(images: Any) -> bool:
    """Return whether there are several images; an array of four dimensions is a batch."""
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)
