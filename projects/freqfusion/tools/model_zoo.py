"""Tables of all recipes, and commands in full size: ``python -m freqfusion.tools.model_zoo``.

Writes MODEL_ZOO.md and docs/recipes.md of a checkout from its configurations, what was measured of
them (results/model-zoo.json) and trained on synthetic scenes (results/ablation). ``--measure`` adds
measurements before, ``--check`` only compares, ``--estimate`` computes what a training takes.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freqfusion.tools._arguments import number_from, parse_size
from freqfusion.tools._model_zoo import recipes_page, zoo_page
from freqfusion.tools._model_zoo.catalogue import CONFIGS, choose, find_recipes
from freqfusion.tools._model_zoo.estimate import estimate
from freqfusion.tools._model_zoo.measuring import Wanted, measure
from freqfusion.tools._model_zoo.record import EMPTY, FILE, read_rows
from freqfusion.tools._model_zoo.synthetic import FOLDER, read_runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; returns the exit code: 0, 1 for a stale document, 2 for the user's slip."""
    options = _parser().parse_args(arguments)
    try:
        if options.estimate:
            print("\n".join(estimated(options)))
            return 0
        if options.measure:
            recipes = choose(find_recipes(options.root), options.configs)
            wanted = Wanted(options.memory, options.time, options.size, options.again)
            for line in measure(options.root, recipes, wanted):
                print(line, flush=True)
        documents = render(options.root)
        if options.check:
            return _compare(options.root, documents)
        for path, text in documents.items():
            (options.root / path).write_text(text, encoding="utf-8")
            print(f"written: {options.root / path}")
    except (ValueError, OSError, ImportError) as error:
        print(f"model_zoo: {error}", file=sys.stderr)
        return 2
    return 0


def render(root: Path) -> dict[Path, str]:
    """Documents of a checkout, path below it to text."""
    rows = read_rows(root / FILE)
    evidence = (root / "docs" / "evidence.md").is_file()
    runs = read_runs(root / FOLDER)
    zoo = zoo_page.render(find_recipes(root), rows, runs, evidence=evidence)
    cfgs = [_configuration(root / CONFIGS / one.config) for one in recipes_page.TRAININGS]
    return {zoo_page.FILE: zoo, recipes_page.FILE: recipes_page.render(rows, cfgs)}


def estimated(options: argparse.Namespace) -> list[str]:
    """What a training takes, in sentences."""
    chosen = choose(find_recipes(options.root), [options.estimate])
    if len(chosen) > 1:
        raise ValueError(f"{options.estimate!r} fits {len(chosen)} recipes; name one")
    name = chosen[0].name
    row = read_rows(options.root / FILE).get(name, EMPTY)
    found = estimate(_configuration(options.root / CONFIGS / name), row, options.gpus, options.size)
    seconds = options.step_seconds
    if options.metrics:
        seconds = _median_step(options.metrics)
    return [name, *recipes_page.facts_of(found, seconds)]


def _median_step(file: Path) -> float:
    """Seconds of a step in a run; its first tenth, while it gets going, is left out."""
    from freqfusion.tools._plot_metrics.reading import read_runs as read_metrics

    series = read_metrics([file])[0].series
    if "time" not in series:
        raise ValueError(f"{file} tells no time of its steps; train some more")
    times = list(series["time"].values)
    return float(statistics.median(times[len(times) // 10 :]))


def _configuration(file: Path) -> Any:
    from freqfusion.engine.setup import load_config

    return load_config(str(file))


def _compare(root: Path, documents: dict[Path, str]) -> int:
    """1 if a document is not what it would be now, and say which."""
    stale = [
        str(path)
        for path, text in documents.items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]
    if stale:
        print(
            f"model_zoo: {' and '.join(stale)} differ from the data; run"
            " python -m freqfusion.tools.model_zoo",
            file=sys.stderr,
        )
    return 1 if stale else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.model_zoo",
        description="Write MODEL_ZOO.md and docs/recipes.md; measure recipes; estimate trainings.",
    )
    add = parser.add_argument
    root = Path()
    add("--root", type=Path, default=root, metavar="DIR", help="of the checkout; the current one")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="exit code 1 if a document is stale")
    what.add_argument("--measure", action="store_true", help="measure what is missing, then write")
    help_of_estimate = "say what the training of one recipe takes"
    what.add_argument("--estimate", metavar="CONFIG", help=help_of_estimate)
    add(
        "--configs",
        nargs="+",
        default=("*",),
        metavar="PATTERN",
        help="measure those only, such as 'ade20k/*r50*'",
    )
    add("--memory", action="store_true", help="measure what training keeps for gradients, too")
    rounds = "time methods beside their baselines, in N rounds; 0, none"
    add("--time", type=number_from(0), default=0, metavar="N", help=rounds)
    size = "of the image; 512x512, 128x160 for synthetic scenes; of --estimate: the configuration's"
    add("--size", type=parse_size, metavar="HxW", help=size)
    add("--again", action="store_true", help="measure what has numbers already")
    add("--gpus", type=number_from(1), default=8, metavar="N", help="of --estimate; 8")
    steps = parser.add_mutually_exclusive_group()
    add_step = steps.add_argument
    add_step("--step-seconds", type=float, metavar="S", help="of --estimate: what a step takes")
    add_step("--metrics", type=Path, metavar="RUN", help="... or the run that tells: its folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
