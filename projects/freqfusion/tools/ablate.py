"""Train a declared matrix of methods, and say what it shows: ``python -m freqfusion.tools.ablate``.

The matrix (``configs/synthetic/ablation.yaml``) names experiments, methods, seeds and the scenes
that they learn from. Each run is a ``train_net.py`` of its own and leaves one JSON row in
``results/ablation``; a run whose row is there is not repeated, an interrupted one starts again.
``--choose-lr`` compares learning rates on scenes of a third split, ``--write-docs`` writes tables
and figures into ``docs/evidence.md``.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from freqfusion.tools._ablate.learning_rates import write_choice
from freqfusion.tools._ablate.matrix import Matrix, read_matrix
from freqfusion.tools._ablate.pool import run_all, waiting
from freqfusion.tools._ablate.runs import Run, check, plan, tuning_runs
from freqfusion.tools._ablate.training import Trainer, data_key, prepare_data
from freqfusion.tools._arguments import number_from


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit code: 1 where runs failed, 2 for a wrong request."""
    options = _parser().parse_args(arguments)
    try:
        matrix = read_matrix(options.matrix)
        if options.write_docs:
            return _write_docs(options, matrix)
        return _run(options, matrix)
    except ImportError as error:
        print(f"ablate: {error}: training needs Detectron2, figures its extra", file=sys.stderr)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"ablate: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("ablate: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 2


def _run(options: argparse.Namespace, matrix: Matrix) -> int:
    only, methods, seeds = options.only, options.methods, options.seeds
    if options.smallest:
        name, methods, seeds = matrix.smallest
        only = [name]
    tuning: dict[str, list[Run]] = {}
    if options.choose_lr:
        tuning = tuning_runs(matrix, options.output, only, methods)
        runs = [run for trials in tuning.values() for run in trials]
    else:
        runs = plan(matrix, options.results, only, methods, seeds)
    check(runs)
    todo = waiting(runs)
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done", flush=True)
    if options.dry_run:
        print("\n".join(f"{'to do' if run in todo else 'done':6} {run.name}" for run in runs))
        return 0
    failed = _train(options, matrix, todo)
    for experiment, trials in tuning.items():
        metric = next(iter(matrix.experiments[experiment].metrics.values()))
        for method, part in write_choice(options.results, experiment, trials, metric).items():
            print(f"{experiment} {method}: learning rate {part['learning_rate']:g}")
    for sentence in failed:
        print(f"ablate: {sentence}", file=sys.stderr)
    return 1 if failed else 0


def _train(options: argparse.Namespace, matrix: Matrix, todo: Sequence[Run]) -> list[str]:
    output = options.output.resolve()
    folders = {data_key(run.data): prepare_data(run, output / "data") for run in _distinct(todo)}
    train = Trainer(
        root=matrix.root.resolve().parent,
        output=output,
        data=folders,
        keep_weights=options.keep_weights,
    )
    metrics = {name: experiment.metrics for name, experiment in matrix.experiments.items()}
    # A killed tool ends its children, as an interrupted one does.
    before: Any = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        jobs = options.jobs or (2 if options.smallest else 1)
        return run_all(todo, train, jobs=jobs, metrics=metrics, stop=train.stop)
    finally:
        signal.signal(signal.SIGTERM, before)


def _distinct(runs: Iterable[Run]) -> Iterable[Run]:
    """One run for each kind of data."""
    return {data_key(run.data): run for run in runs}.values()


def _write_docs(options: argparse.Namespace, matrix: Matrix) -> int:
    from freqfusion.tools._ablate.document import write_document

    for path in write_document(matrix, options.results, options.document):
        print(path)
    return 0


def _listed(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",") if part]

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.ablate",
        description="Train a declared matrix of methods, seeds and scenes, and compare the scores.",
    )
    add = parser.add_argument
    default = Path("configs/synthetic/ablation.yaml")
    add("--matrix", type=Path, default=default, metavar="YAML", help=f"({default})")
    add("--only", type=_listed(str), default=(), metavar="A,B", help="experiments; not given: all")
    add("--methods", type=_listed(str), default=(), metavar="A,B", help="not given: all")
    seeds = "not given: those of the matrix"
    add("--seeds", type=_listed(number_from(0)), default=(), metavar="0,1", help=seeds)
    jobs = "runs at a time, a core each; not given: 1, or 2 with --smallest"
    add("--jobs", type=number_from(1), metavar="N", help=jobs)
    smallest = "two methods, one seed: at most ten minutes on two CPU cores"
    add("--smallest", action="store_true", help=smallest)
    rates = "compare learning rates on scenes of a third split, for the runs to come"
    add("--choose-lr", action="store_true", help=rates)
    add("--dry-run", action="store_true", help="check the configurations and list the runs")
    docs = "write tables and figures of the rows that there are, and train nothing"
    add("--write-docs", action="store_true", help=docs)
    add("--keep-weights", action="store_true", help="do not delete the checkpoints of the runs")
    where = "folder of data, logs and checkpoints (output/ablation)"
    add("--output", type=Path, default=Path("output/ablation"), metavar="DIR", help=where)
    rows = "folder of the rows (results/ablation)"
    add("--results", type=Path, default=Path("results/ablation"), metavar="DIR", help=rows)
    document = "with --write-docs: where the tables go (docs/evidence.md)"
    add("--document", type=Path, default=Path("docs/evidence.md"), metavar="MD", help=document)
    return parser


if __name__ == "__main__":
    sys.exit(main())
