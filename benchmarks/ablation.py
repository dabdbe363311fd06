"""Train a declared matrix of methods, and say what it shows: ``python -m benchmarks.ablation``.

The matrix (``benchmarks/ablation.yaml``) names experiments, methods, seeds and the data that they
learn from. Each run is a ``train_net.py`` of its own and leaves one JSON row in
``results/ablation``; a run whose row is there is not repeated, an interrupted one starts again.
``--choose-lr`` compares learning rates on scenes of a third split, ``--write-docs`` writes tables
and figures into ``docs/evidence.md``.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation_matrix import (
    Matrix,
    Run,
    check_configurations,
    plan,
    read_matrix,
    tuning_runs,
    write_rates,
)
from benchmarks.ablation_page import write_document
from benchmarks.ablation_training import RunTrainer, data_key, prepare_data, train_all
from benchmarks.documents import CHECKOUT
from freqfusion.tools._arguments import number_from


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit code: 1 where runs failed, 2 for a wrong request."""
    options = _parser().parse_args(arguments)
    try:
        matrix = read_matrix(options.matrix)
        if options.write_docs:
            for path in write_document(matrix, options.results, options.document):
                print(path)
            return 0
        return _run(options, matrix)
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        print(f"ablation: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("ablation: interrupted; the same command goes on", file=sys.stderr)
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
    check_configurations(runs)
    todo = [run for run in runs if not run.is_done()]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done", flush=True)
    if options.dry_run:
        print("\n".join(f"{'to do' if run in todo else 'done':6} {run.name}" for run in runs))
        return 0
    failed = _train(options, matrix, todo)
    for experiment, trials in tuning.items():
        metric = next(iter(matrix.experiments[experiment].metrics.values()))
        for method, part in write_rates(options.results, experiment, trials, metric).items():
            print(f"{experiment} {method}: learning rate {part['learning_rate']:g}")
    for sentence in failed:
        print(f"ablation: {sentence}", file=sys.stderr)
    return 1 if failed else 0


def _train(options: argparse.Namespace, matrix: Matrix, todo: Sequence[Run]) -> list[str]:
    output = options.output.resolve()
    by_data = {data_key(run.data): run for run in todo}
    folders = {key: prepare_data(run, output / "data") for key, run in by_data.items()}
    train = RunTrainer(output=output, data=folders, keep_weights=options.keep_weights)
    metrics = {name: experiment.metrics for name, experiment in matrix.experiments.items()}
    # A killed tool ends its children, as an interrupted one does.
    before: Any = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        jobs = options.jobs or (2 if options.smallest else 1)
        return train_all(todo, train, jobs=jobs, metrics=metrics, stop=train.stop)
    finally:
        signal.signal(signal.SIGTERM, before)


def _listed(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",") if part]

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description="Train a declared matrix of methods, seeds and data, and compare the scores.",
    )
    add = parser.add_argument
    matrix = CHECKOUT / "benchmarks" / "ablation.yaml"
    add("--matrix", type=Path, default=matrix, metavar="YAML", help="(benchmarks/ablation.yaml)")
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
    results = CHECKOUT / "results" / "ablation"
    add("--results", type=Path, default=results, metavar="DIR", help=rows)
    document = "with --write-docs: where the tables go (docs/evidence.md)"
    evidence = CHECKOUT / "docs" / "evidence.md"
    add("--document", type=Path, default=evidence, metavar="MD", help=document)
    return parser


if __name__ == "__main__":
    sys.exit(main())
