"""Whether an ONNX file gives what the model gives, at several sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from freqfusion.tools._export.parts import Part


class Difference(NamedTuple):
    """The greatest difference at one size, and the output that has it.

    Attributes:
        size: Height and width of the image.
        output: Name of the output.
        value: The greatest absolute difference; in an output whose greatest number is above one, as
            a part of that number, since features may have any scale.
    """

    size: tuple[int, int]
    output: str
    value: float


def sizes_around(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Three sizes: the given one, a smaller one with both sides odd, a taller one."""
    height, width = size
    return [size, ((height * 3 // 4) | 1, (width // 2) | 1), ((height * 5 // 4) | 1, width)]


def compare(part: Part, file: Path, sizes: list[tuple[int, int]]) -> list[Difference]:
    """Run both on an image of noise for each size.

    Raises:
        RuntimeError: if onnxruntime cannot run the file, or an output has another shape.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    return [_difference(part, session, _image(size, generator)) for size in sizes]


def _image(size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    return 255 * torch.rand(1, 3, *size, generator=generator)


def _difference(part: Part, session: Any, image: torch.Tensor) -> Difference:
    size = (image.shape[-2], image.shape[-1])
    try:
        found = session.run(None, {"image": image.numpy()})
    except Exception as error:  # onnxruntime's own classes
        raise RuntimeError(
            f"onnxruntime cannot run the file for an image of {size[0]}x{size[1]}: {error}"
        ) from error
    expected = part.reference(image.to(part.model.pixel_mean.device))
    worst = Difference(size, "", -1.0)
    for output, actual, wanted in zip(part.outputs, found, expected, strict=True):
        if actual.shape != tuple(wanted.shape):
            raise RuntimeError(
                f"{output.name} has the shape {actual.shape} instead of {tuple(wanted.shape)} for "
                f"an image of {size[0]}x{size[1]}"
            )
        scale = max(wanted.abs().max().item(), 1.0)
        value = (torch.from_numpy(actual) - wanted.cpu()).abs().max().item() / scale
        # What is not a number must not pass for small.
        if not value <= worst.value:
            worst = Difference(size, output.name, value)
    return worst
