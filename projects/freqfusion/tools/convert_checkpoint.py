"""Bring weights from elsewhere here: ``python -m freqfusion.tools.convert_checkpoint IN OUT.pth``.

Known are detectors that the research code trained in mmdetection (backbone and neck) and ResNets of
torchvision and timm. Every name must have a rule; the tool prints what was mapped and dropped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from freqfusion.tools._convert.files import check_output, read, write
from freqfusion.tools._convert.mmdet import BACKBONE, NECK, convert_detector
from freqfusion.tools._convert.resnet import PREFIX, convert_resnet
from freqfusion.tools._convert.rules import Conversion, State, shorten
from freqfusion.tools._convert.settings import RGB_INPUT, Settings, neck_settings

SOURCES = ("auto", "mmdet", "torchvision", "timm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one file; returns the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        check_output(options.output, source=options.input, overwrite=options.overwrite)
        state = read(options.input)
        source = detect(state) if options.source == "auto" else options.source
        result = _convert(state, source, options)
        write(options.output, result.state)
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 2
    print(f"{options.input}: names of {source}")
    print(report(result))
    print(f"set: {_format(_settings(state, source))}")
    if source == "mmdet":
        print(
            "a backbone of style 'caffe' needs MODEL.RESNETS.STRIDE_IN_1X1 True and its own input"
        )
    print(f"weights: {options.output}")
    return 0


def detect(state: State) -> str:
    """Where names are from.

    Raises:
        ValueError: if they are from nowhere known.
    """
    if any(name.startswith((BACKBONE, NECK)) for name in state):
        return "mmdet"
    if "layer1.0.conv1.weight" in state:
        return "torchvision"
    raise ValueError(
        f"the names are neither those of an mmdetection detector nor of a torchvision or timm "
        f"ResNet: {shorten(list(state))}"
    )


def report(result: Conversion) -> str:
    """Counts of what was mapped, by rule, and names of what was dropped."""
    lines = [f"mapped {len(names)}: {label}" for label, names in result.mapped.items()]
    for label, names in result.dropped.items():
        lines.append(f"dropped {len(names)}: {label} ({shorten(names)})")
    return "\n".join(lines)


def _convert(state: State, source: str, options: argparse.Namespace) -> Conversion:
    if source == "mmdet":
        if options.prefix is not None:
            raise ValueError("--prefix is for torchvision and timm; a detector has its own names")
        result = convert_detector(state, leave_out_heads=options.neck_and_backbone_only)
    else:
        prefix = PREFIX if options.prefix is None else options.prefix
        prefix = f"{prefix.rstrip('.')}." if prefix else ""
        result = convert_resnet(state, prefix=prefix)
    if not result.state:
        raise ValueError(f"{options.input} has no weights that are used here")
    return result


def _settings(state: State, source: str) -> Settings:
    if source == "mmdet" and any(name.startswith(NECK) for name in state):
        return neck_settings(state, source=NECK) | RGB_INPUT
    return RGB_INPUT


def _format(settings: Settings) -> str:
    return " ".join(f'{name} "{value}"' for name, value in settings.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.convert_checkpoint",
        description="Rename the weights of a checkpoint for Detectron2 and this project.",
    )
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="file of torch.save with a state dict")
    add("output", type=Path, metavar="OUTPUT", help="file to write, *.pth")
    add("--from", dest="source", choices=SOURCES, default="auto", help="where it comes from")
    add("--prefix", metavar="NAME", help=f"of a ResNet's new names; not given: {PREFIX}")
    add(
        "--neck-and-backbone-only",
        action="store_true",
        help="leave the heads of an mmdetection detector out instead of refusing it",
    )
    add("--overwrite", action="store_true", help="replace the output if it is there already")
    return parser


if __name__ == "__main__":
    sys.exit(main())
