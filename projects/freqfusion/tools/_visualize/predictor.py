"""A configuration and its weights as a function from an image to the model's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from freqfusion.drawing import Picture
from freqfusion.tools._model import build_model


class Predictor:
    """Runs a model on one RGB image at a time, resized as in Detectron2's evaluation.

    ``model`` is built from the configuration unless it is given.

    Raises:
        ValueError: if there are no weights, or no such file.
    """

    def __init__(self, cfg: Any, model: Any | None = None) -> None:
        from detectron2.data.transforms import ResizeShortestEdge

        self.model = build_model(cfg) if model is None else model
        self.format: str = cfg.INPUT.FORMAT
        shortest = [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST]
        self.resize = ResizeShortestEdge(shortest, cfg.INPUT.MAX_SIZE_TEST)

    def __call__(self, image: Picture) -> dict[str, Any]:
        """The model's output at the size of the image, height x width x 3 in RGB."""
        with torch.no_grad():
            output: dict[str, Any] = self.model([self.inputs(image)])[0]
        return output

    def inputs(self, image: Picture) -> dict[str, Any]:
        """What the model takes of an image, height x width x 3 in RGB."""
        from detectron2.data.detection_utils import convert_PIL_to_numpy

        height, width = image.shape[:2]
        channels = convert_PIL_to_numpy(Image.fromarray(image), self.format)
        resized = self.resize.get_transform(channels).apply_image(channels)
        planes = np.ascontiguousarray(resized.transpose(2, 0, 1)).astype(np.float32)
        return {"image": torch.from_numpy(planes), "height": height, "width": width}
