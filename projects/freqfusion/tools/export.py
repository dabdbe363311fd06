"""A trained model as an ONNX file: ``python -m freqfusion.tools.export --config-file X ...``.

The file takes images (1, 3, H, W) as they are, float32 from 0 to 255 in the model's channel order,
of the size ``--size``; with ``--dynamic`` (B, 3, H, W) of any size. Normalization and padding are
inside. Semantic segmentors and the semantic branch of Panoptic FPN give logits ``sem_seg`` at the
image's size; R-CNNs and RetinaNets the maps of their pyramid and the logits and deltas of their
anchors (of proposals, for R-CNNs); Mask2Former classes and masks of its queries (masks at a quarter
of the padded image) and, with MODEL.MASK2FORMER.TEST.SEMANTIC_ON, scores ``sem_seg``. It is
compared with the model before the command ends, in numbers and in time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from freqfusion.predictor import build_model, metadata_of, read_config
from freqfusion.tools._arguments import model_parser, parse, parse_size
from freqfusion.tools._onnx import OPSETS, ExportedPart

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Runs of which the quickest is shown.
_RUNS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; return the exit code: 0, 1 where the file differs, 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    try:
        return run(options)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Export and compare; prints what was written and how far it is from the model."""
    from freqfusion import __version__
    from freqfusion.tools._onnx import part_of

    _check(options)
    cfg = read_config(
        options.config_file,
        options.weights or None,
        options.opts,
        unsafe=options.allow_unsafe_config,
    )
    cfg.MODEL.DEVICE = "cpu"
    with timed("build the model"):
        part = part_of(build_model(cfg)).eval()
    metadata = {
        "task": part.task,
        "input_format": cfg.INPUT.FORMAT,
        "outputs": json.dumps([output.name for output in part.outputs]),
        "size_divisibility": str(part.divisor),
        "pixel_mean": json.dumps(cfg.MODEL.PIXEL_MEAN),
        "resize": json.dumps([cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST]),
        "producer": f"freqfusion {__version__}",
        **classes(cfg, metadata_of(cfg)),
    }
    return write(part, metadata, options)


def write(part: Any, metadata: dict[str, str], options: argparse.Namespace) -> int:
    """Write the file of a part of a model and compare it; the exit code, 0 or 1."""
    import onnx

    from freqfusion.tools._onnx import foreign_domains, to_onnx

    size = None if options.dynamic else options.size
    model = to_onnx(part, options.opset, metadata, size, timed)
    foreign = foreign_domains(model)
    if foreign:
        raise RuntimeError(f"operators of {', '.join(sorted(foreign))} came into the graph")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, options.output)
    print(
        f"wrote {options.output}: {', '.join(output.name for output in part.outputs)}; "
        f"{len(model.graph.node)} standard operators, {options.output.stat().st_size / 1e6:.1f} MB"
    )
    sizes = sizes_around(options.size) if options.dynamic else [options.size]
    with timed("compare it with the model"):
        differences = compare(part, options.output, sizes)
    for one in differences:
        size = f"{one.size[0]:5d} x {one.size[1]:<5d}"
        print(
            f"{size} largest difference {one.value:.2e} ({one.output});"
            f" onnxruntime {1000 * one.seconds:.0f} ms, torch {1000 * one.torch_seconds:.0f} ms"
        )
    worst = max(differences, key=lambda one: math.inf if math.isnan(one.value) else one.value)
    if worst.value <= options.tolerance:
        return 0
    print(
        f"export: the file differs from the model by {worst.value:.2e} in {worst.output}, more than"
        f" the tolerance of {options.tolerance:g}",
        file=sys.stderr,
    )
    return 1


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Print a stage when it begins, and its seconds when it has ended."""
    print(f"{stage:<26}", end="", flush=True)
    started = time.perf_counter()
    try:
        yield
    finally:
        print(f"{time.perf_counter() - started:6.1f} s", flush=True)


def classes(cfg: Any, metadata: Any) -> dict[str, str]:
    """Return names and colors of the semantic classes and the things, as JSON."""
    import numpy as np

    from freqfusion.drawing.content import Classes

    known = Classes(metadata)
    labels = known.label_map(np.zeros((1, 1), np.int64), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    return {
        "classes": json.dumps(labels.names),
        "colors": json.dumps(labels.colors),
        "thing_classes": json.dumps(known.things),
    }


def _check(options: argparse.Namespace) -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing: pip install 'freqfusion[onnx]'")
    if options.output.is_dir():
        raise ValueError(f"--output {options.output} is a folder; name a file")
    if min(options.size) < 1:
        raise ValueError(
            "--size must have sides of one pixel or more; got {}x{}".format(*options.size)
        )


def _parser() -> argparse.ArgumentParser:
    parser = model_parser(
        "export", "Write a model as ONNX, and compare it with the model in numbers and in time."
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="the ONNX file to write")
    size = "of the images, one at a time; with --dynamic, about the sizes to compare at; 480x640"
    add("--size", type=parse_size, default=(480, 640), metavar="HxW", help=size)
    free = "for any size and number of images; takes several times as long to export"
    add("--dynamic", action="store_true", help=free)
    versions = range(OPSETS[0], OPSETS[1] + 1)
    add("--opset", type=int, choices=versions, default=18, help="version of the operators; 18")
    add("--tolerance", type=float, default=1e-3, metavar="D", help="of outputs; 0.001")
    return parser


class Difference(NamedTuple):
    """The largest difference at one size, the output that has it, and the times of both.

    Attributes:
        size: Height and width of the image.
        output: Name of the output.
        value: The largest absolute difference; in an output whose largest number is above one, as
            a part of that number, since features may have any scale.
        seconds: Of onnxruntime.
        torch_seconds: Of the model, with as many threads.
    """

    size: tuple[int, int]
    output: str
    value: float
    seconds: float
    torch_seconds: float


def sizes_around(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return three sizes: the given one, a smaller one with both sides odd, a taller one."""
    height, width = size
    return [size, ((height * 3 // 4) | 1, (width // 2) | 1), ((height * 5 // 4) | 1, width)]


def compare(part: ExportedPart, file: Path, sizes: list[tuple[int, int]]) -> list[Difference]:
    """Run both on an image of noise for each size.

    Raises:
        RuntimeError: if onnxruntime cannot run the file, or an output has another shape.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    return [_difference(part, session, _image(size, generator)) for size in sizes]


def _image(size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    return 255 * torch.rand(1, 3, *size, generator=generator)


def _difference(part: ExportedPart, session: Any, image: torch.Tensor) -> Difference:
    size = (image.shape[-2], image.shape[-1])
    given = {"image": image.numpy()}
    try:
        found, seconds = _quickest(lambda: session.run(None, given))
    except Exception as error:  # onnxruntime's own classes
        raise RuntimeError(
            f"onnxruntime cannot run the file for an image of {size[0]}x{size[1]}: {error}"
        ) from error
    moved = image.to(part.model.pixel_mean.device)
    expected, torch_seconds = _quickest(lambda: part.reference(moved))
    worst = Difference(size, "", -1.0, seconds, torch_seconds)
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
            worst = worst._replace(output=output.name, value=value)
    return worst


def _quickest(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result, and the seconds of the quickest of several runs."""
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return result, min(seconds)


if __name__ == "__main__":
    sys.exit(main())
