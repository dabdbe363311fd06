"""What a model costs, part by part: ``python -m freqfusion.tools.analyze --config-file X``.

Parameters, FLOPs and memory that training keeps by module, and the time of the whole, measured on
one image of noise. Prints the tree of modules and writes all numbers to a JSON file. Weights are
random unless some are given; nothing is downloaded for them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from freqfusion.analysis import (
    SavedMemory,
    count_flops,
    count_parameters,
    measure_latency,
    saved_for_backward,
)
from freqfusion.predictor import load_model, padded_sizes
from freqfusion.tools._arguments import (
    model_parser,
    number_from,
    parse,
    parse_size,
    text_table,
    write_json,
)

_BLOCK = 32
_BOXES = 8
_FLOPS = (
    "a multiply-add counts once; matrix products, convolutions, attention, reassembly, local"
    " similarity and interpolation are counted"
)
_DETECTOR = (
    "a detector: the work of its heads depends on the proposals, here those that the given or"
    " random weights make of noise"
)
_COLUMNS = ("module", "parameters", "buffers", "FLOPs", "share", "for backward")
_MEBIBYTE = 1 << 20
_NOTHING = "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Analyze a model; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    try:
        result = run(options)
        write_json(options.output, result)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"analyze: {error}", file=sys.stderr)
        return 2
    print(render(result, options.depth))
    print(f"\nNumbers: {options.output}")
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build the model and measure it; plain data."""
    if min(options.size) < 1:
        raise ValueError("--size must be 1x1 or more")
    if options.output.is_dir():
        raise ValueError(f"--output {options.output} is a folder; name a file")
    torch.manual_seed(0)
    cfg, model = load_model(
        options.config_file, options.weights, options.opts, unsafe=options.allow_unsafe_config
    )
    result = analyze(cfg, model, options.size, options.runs)
    return {"config": options.config_file, "weights": options.weights} | result


def _parser() -> argparse.ArgumentParser:
    parser = model_parser(
        "analyze", "Parameters, FLOPs, memory and time of a model and its parts.", weights=""
    )
    add = parser.add_argument
    add("--size", type=parse_size, default=(512, 512), metavar="HxW", help="of the image; 512x512")
    add("--depth", type=number_from(0), default=2, metavar="N", help="of the printed tree; 2")
    add("--runs", type=number_from(0), default=5, metavar="N", help="to time; 5, 0 takes no time")
    output = Path("analysis.json")
    add("--output", type=Path, default=output, metavar="FILE", help=f"numbers; {output}")
    return parser


def random_image(cfg: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return an image of noise as the data loader gives it; the same each time."""
    height, width = size
    generator = torch.Generator().manual_seed(0)
    channels = len(cfg.MODEL.PIXEL_MEAN)
    pixels = torch.randint(0, 256, (channels, height, width), generator=generator)
    return {"image": pixels.to(torch.uint8), "height": height, "width": width}


def with_targets(image: dict[str, Any], cfg: Any) -> dict[str, Any]:
    """Return the image with labels in blocks of 32 pixels, and with eight boxes side by side."""
    from detectron2.structures import BitMasks, Boxes, Instances

    height, width = image["height"], image["width"]
    down, right = torch.meshgrid(
        torch.arange(height) // _BLOCK, torch.arange(width) // _BLOCK, indexing="ij"
    )
    count = min(_BOXES, width)
    edges = torch.linspace(0, width, count + 1).round()
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, left, end in zip(masks, edges.long(), edges[1:].long(), strict=False):
        mask[: (height + 1) // 2, left:end] = True
    boxes = torch.zeros(count, 4)
    boxes[:, 0], boxes[:, 2], boxes[:, 3] = edges[:-1], edges[1:], (height + 1) // 2
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.zeros(count, dtype=torch.long)
    instances.gt_masks = BitMasks(masks)
    labels = (down + right) % cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    return image | {"sem_seg": labels, "instances": instances}


def analyze(cfg: Any, model: nn.Module, size: tuple[int, int], runs: int) -> dict[str, Any]:
    """Measure a model on one image of noise of ``size`` (height, width).

    It is left in training mode, after a forward pass in it. Without ``runs`` no time is taken.

    Returns:
        Plain data for JSON: ``modules``, a dict for each part in the order of ``named_modules``,
        the model first; ``operators``; ``notes`` on what the numbers mean.
    """
    notes = []
    if hasattr(model, "proposal_generator"):
        notes.append(_DETECTOR)
    image = random_image(cfg, size)
    inputs = [image]
    model.eval()
    with padded_sizes(model) as padded:
        flops = count_flops(model, inputs)
    latency = measure_latency(model, inputs, runs=runs) if runs else None
    saved: SavedMemory | None = None
    try:
        saved = training_memory(cfg, model, image)
    except (ValueError, RuntimeError, AssertionError, KeyError, IndexError) as error:
        # One image may be too little to train on: batch normalization of a single pixel, say.
        notes.append(f"memory of training was not measured: {str(error) or type(error).__name__}")
    parameters = count_parameters(model)
    parts = [
        {
            "name": name,
            "class": type(part).__name__,
            **dataclasses.asdict(parameters[name]),
            "flops": flops.by_module[name],
            "saved_bytes": None if saved is None else saved.by_module[name],
        }
        for name, part in model.named_modules()
    ]
    parameter = next(model.parameters())
    return {
        "size": list(size),
        "padded_size": list(padded[0]) if padded else None,
        "device": str(parameter.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "runs": runs,
        "milliseconds": None if latency is None else dataclasses.asdict(latency),
        "flops_convention": _FLOPS,
        "notes": notes,
        "operators": {k: v for k, v in vars(flops).items() if not k.startswith("by_m")},
        "modules": parts,
    }


def training_memory(cfg: Any, model: nn.Module, image: dict[str, Any]) -> SavedMemory:
    """Return what a training step on one image keeps; the model stays in training mode."""
    from detectron2.utils.events import EventStorage

    with EventStorage():
        return saved_for_backward(model.train(), [with_targets(image, cfg)])


def render(result: dict[str, Any], depth: int) -> str:
    """Return header, the tree of modules down to ``depth``, and what was not counted."""
    parts = (cost_summary(result), text_table(cost_rows(result, depth)), cost_notes(result))
    return "\n\n".join("\n".join(lines) for lines in parts)


def cost_rows(result: dict[str, Any], depth: int) -> list[tuple[str, ...]]:
    """Return a head, and a row for each part down to ``depth``; names are indented."""
    shown = [part for part in result["modules"] if _level(part) <= depth and _has_numbers(part)]
    return [_COLUMNS, *(_module_row(part, result) for part in shown)]


def cost_summary(result: dict[str, Any]) -> list[str]:
    """Return what was measured, and the sums, in lines."""
    model, times = result["modules"][0], result["milliseconds"]
    size = "x".join(map(str, result["size"]))
    if result["padded_size"] not in (None, result["size"]):
        size += f", padded to {'x'.join(map(str, result['padded_size']))}"
    where = result["device"]
    if where == "cpu":
        where = f"CPU, {result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    weights = result["weights"] or "random weights"
    lines = [
        f"{result['config']}, {weights}",
        f"one image of {size}, {result['dtype']}, {where}",
        f"parameters {_number(model['trainable'] + model['frozen'])}, of them trainable"
        f" {_number(model['trainable'])}; FLOPs {_number(model['flops'])}",
        f"memory kept for backward {_bytes(model['saved_bytes'])}",
    ]
    if times:
        spread = f"{_time(times['fastest'])} to {_time(times['slowest'])}"
        runs = f", median of {result['runs']} runs ({spread})" if result["runs"] > 1 else ""
        lines.append(f"inference {_time(times['median'])} ms{runs}")
    return lines


def _module_row(part: dict[str, Any], result: dict[str, Any]) -> tuple[str, ...]:
    name = "  " * _level(part) + (part["name"].rpartition(".")[2] or part["class"])
    total = result["modules"][0]["flops"]
    return (
        name,
        _number(part["trainable"] + part["frozen"]),
        _number(part["buffers"]),
        _number(part["flops"]),
        f"{part['flops'] / total:.1%}" if part["flops"] else _NOTHING,
        _bytes(part["saved_bytes"]),
    )


def cost_notes(result: dict[str, Any]) -> list[str]:
    """Return what the numbers mean, and what is not in them, in sentences."""
    operators = result["operators"]
    counted = (f"{_bare(name)} {_number(n)}" for name, n in operators["by_operator"].items())
    lines = [
        f"FLOPs: {result['flops_convention']}.",
        f"Counted: {', '.join(counted)}.",
    ]
    uncounted = sorted({_bare(name) for name in operators["uncounted"]})
    lines.append(f"Not counted: {', '.join(uncounted) or 'none'}.")
    if operators["unknown"]:
        calls = (f"{name} ({n} calls)" for name, n in operators["unknown"].items())
        lines.append(f"Unknown, so their work is missing here: {', '.join(calls)}.")
    lines.append(
        "For backward: what a training step on one image keeps for gradients; parameters excluded."
    )
    return [*lines, *(f"Note: {note}." for note in result["notes"])]


def _level(part: dict[str, Any]) -> int:
    return part["name"].count(".") + 1 if part["name"] else 0


def _has_numbers(part: dict[str, Any]) -> bool:
    """Return whether a part has parameters or counted work; others would only fill lines."""
    keys = ("trainable", "frozen", "buffers", "flops", "saved_bytes")
    return not part["name"] or any(part[key] for key in keys)


def _number(value: int) -> str:
    """Return three or four digits and a unit: 1234 -> 1.23 k."""
    if not value:
        return _NOTHING
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)


def _bytes(value: int | None) -> str:
    if not value:
        return _NOTHING
    return f"{value / 1024:.1f} KiB" if value < _MEBIBYTE else f"{value / _MEBIBYTE:.1f} MiB"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.2f}"


def _bare(name: str) -> str:
    return name.partition("::")[2]


if __name__ == "__main__":
    sys.exit(main())
