"""What a model costs, part by part: ``python -m freqfusion.tools.analyze --config-file X``.

Parameters, FLOPs, memory that training keeps and time, measured on one image of noise. Prints the
tree of modules and writes all numbers to a JSON file. Weights are random unless some are given;
nothing is downloaded for them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freqfusion.files import add_unsafe_config
from freqfusion.tools._analyze.measure import analyze
from freqfusion.tools._analyze.table import render
from freqfusion.tools._arguments import number_from, parse_size
from freqfusion.tools._model import load_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Analyse a model; returns the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        result = run(options)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"analyze: {error}", file=sys.stderr)
        return 2
    print(render(result, options.depth))
    print(f"\nNumbers: {options.output}")
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build the model and measure it; plain data."""
    import torch

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
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.analyze",
        description="Parameters, FLOPs, memory and time of a model and its parts.",
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the model's configuration (YAML)")
    add_unsafe_config(parser)
    add("--weights", default="", metavar="FILE", help="checkpoint; not given: random weights")
    add("--size", type=parse_size, default=(512, 512), metavar="HxW", help="of the image; 512x512")
    add("--depth", type=number_from(0), default=2, metavar="N", help="of the printed tree; 2")
    add("--runs", type=number_from(0), default=5, metavar="N", help="to time; 5, 0 takes no time")
    output = Path("analysis.json")
    add("--output", type=Path, default=output, metavar="FILE", help=f"numbers; {output}")
    add("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    return parser


if __name__ == "__main__":
    sys.exit(main())
