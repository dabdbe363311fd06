"""Train and evaluate runs in processes of their own, and make their rows.

A row has ``schema``, ``experiment``, ``method``, ``seed``, ``dial``, ``config_file``,
``overrides``, ``data``, ``learning_rate``, ``scores`` ("<task>/<score>": number or null),
``seconds`` (the whole process), ``step_seconds`` (median of training steps), ``parameters``,
``device``, ``versions`` and ``revision``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import freqfusion
from benchmarks.ablation_matrix import Run
from benchmarks.documents import CHECKOUT, NOT_MEASURED, SCHEMA, write_json


def train_all(
    runs: Sequence[Run],
    train: Callable[[Run], dict[str, Any]],
    *,
    jobs: int = 1,
    metrics: Mapping[str, Mapping[str, str]] | None = None,
    stop: Callable[[], None] = lambda: None,
) -> list[str]:
    """Train all, ``jobs`` at a time, and write a row as each one ends.

    Args:
        runs: In the order in which they are started.
        train: Makes the row of a run; a RuntimeError or OSError is a failure of that run alone.
        jobs: Runs at a time.
        metrics: Titles and paths of the scores to print, by experiment.
        stop: Ends what ``train`` has under way; called when the user interrupts.

    Returns:
        What failed, a sentence each.
    """
    failed: list[str] = []
    seconds: list[float] = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(train, run): run for run in runs}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                run = futures[future]
                try:
                    row = future.result()
                except (RuntimeError, OSError, ValueError) as error:
                    failed.append(f"{run.name}: {error}")
                    text = f"{run.name} failed: {error}"
                else:
                    write_json(run.row, row)
                    seconds.append(row["seconds"])
                    text = f"{run.name}: {_scores(row, (metrics or {}).get(run.experiment, {}))}"
                left = len(runs) - number
                if left and seconds:
                    estimate = timedelta(seconds=round(left * statistics.fmean(seconds) / jobs))
                    text += f"; {left} left, about {estimate}"
                print(f"[{number}/{len(runs)}] {text}", flush=True)
        except BaseException:
            for future in futures:
                future.cancel()
            stop()
            raise
    return failed


class RunTrainer:
    """Runs ``train_net.py``; :meth:`stop` ends all that it has started, from any thread.

    Args:
        output: Folder of the runs' output.
        data: Folder of a run's data sets, by its arguments.
        keep_weights: Keep the checkpoints; they are deleted otherwise, each some 100 MB.
        root: Folder of ``train_net.py``.
    """

    def __init__(
        self,
        *,
        output: Path,
        data: Mapping[str, Path],
        keep_weights: bool,
        root: Path = CHECKOUT,
    ):
        self.root, self.output, self.data = root, output, data
        self.keep_weights = keep_weights
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __call__(self, run: Run) -> dict[str, Any]:
        """Return the row of a run; RuntimeError, with the end of the log, where it fails."""
        folder, log = self.folder(run), self.log(run)
        if folder.exists():
            shutil.rmtree(folder)
        log.parent.mkdir(parents=True, exist_ok=True)
        facts = model_facts(run)
        started = time.perf_counter()
        code = self._train(run)
        seconds = time.perf_counter() - started
        if code:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it logged nothing"]
            raise RuntimeError(f"{lines[-1].strip()[-400:]} (exit code {code}, {log})")
        facts |= {"seconds": seconds, "step_seconds": _step_seconds(folder)}
        row = make_row(run, read_scores(folder / "results.json"), facts)
        if not self.keep_weights:
            for path in folder.glob("*.pth"):
                path.unlink()
        return row

    def folder(self, run: Run) -> Path:
        """Return ``OUTPUT_DIR`` of a run."""
        return self.output / run.experiment / run.row.stem

    def log(self, run: Run) -> Path:
        """Return the log; beside the run's folder, because training starts in an empty one only."""
        return self.folder(run).with_name(f"{run.row.stem}.log")

    def stop(self) -> None:
        """End the running processes with those that they started, and start no others."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)

    def _train(self, run: Run) -> int:
        options = ["--config-file", str(run.config.resolve()), *run.options()]
        options += ["OUTPUT_DIR", str(self.folder(run))]
        with self.log(run).open("wb") as log:
            with self._lock:
                if self._stopped:
                    raise RuntimeError("stopped")
                child = subprocess.Popen(
                    [sys.executable, str(self.root / "train_net.py"), *options],
                    cwd=self.root,
                    env=_environment(self.data[data_key(run.data)]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._children.add(child)
            try:
                return child.wait()
            finally:
                with self._lock:
                    self._children.discard(child)


def prepare_data(run: Run, folder: Path) -> Path:
    """Write the scenes of a run, unless they are there; RuntimeError where that fails.

    Returns the folder of the data sets, which for a named one is ``DETECTRON2_DATASETS``.
    """
    if "name" in run.data:
        from freqfusion.data.registration import datasets_root

        return datasets_root()
    target = folder / data_key(run.data)
    if target.is_dir():
        return target
    partial = target.with_name(f"{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-m", "freqfusion.tools.synthesize"]
    for key, value in run.data.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    command += ["--output", str(partial / "synthetic")]
    done = subprocess.run(
        command, env=_environment(partial), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        raise RuntimeError(f"the scenes of {run.name} cannot be written: {lines[-1]}")
    os.replace(partial, target)
    return target


def data_key(data: Mapping[str, Any]) -> str:
    """Return a folder's name for the arguments of the data."""
    return "_".join(f"{key}-{value}" for key, value in sorted(data.items()))


def read_scores(path: Path) -> dict[str, float | None]:
    """Return ``results.json`` of a run as "<task>/<score>".

    The scores of data sets after the first one have the data set's name in front.
    """
    results = json.loads(path.read_text(encoding="utf-8"))["datasets"]
    first = next(iter(results))
    return {
        f"{task}/{name}" if dataset == first else f"{dataset}/{task}/{name}": value
        for dataset, tasks in results.items()
        for task, part in tasks.items()
        for name, value in part.items()
    }


def make_row(run: Run, scores: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a finished run; ``facts`` are times, parameters and device."""
    return {
        "schema": SCHEMA,
        "experiment": run.experiment,
        "method": run.method,
        "seed": run.seed,
        "dial": dict(run.dial),
        "config_file": os.path.relpath(run.config, CHECKOUT),
        "overrides": dict(run.overrides),
        "data": dict(run.data),
        "learning_rate": {"factor": run.factor, "chosen_on_tune": run.tuned},
        "scores": dict(scores),
        **facts,
        "versions": {
            "python": platform.python_version(),
            "freqfusion": freqfusion.__version__,
            **{name: version(name) for name in ("torch", "numpy", "detectron2")},
        },
        "revision": _revision(),
    }


def model_facts(run: Run) -> dict[str, Any]:
    """Return parameters and device; the model is built without memory, before hours are spent.

    RuntimeError where it cannot be built.
    """
    import torch
    from detectron2.modeling import build_model

    from freqfusion.data.registration import register_datasets
    from freqfusion.engine.setup import fit_device

    cfg = run.load_config()
    fit_device(cfg)
    device = str(cfg.MODEL.DEVICE)
    cfg.MODEL.DEVICE = "meta"
    # Models of things and stuff ask the data set which are which.
    register_datasets(cfg.DATASETS.DECLARED)
    try:
        with torch.device("meta"):
            model = build_model(cfg)
    except (ValueError, AssertionError) as error:
        raise RuntimeError(f"the model cannot be built: {error}") from error
    return {"parameters": sum(part.numel() for part in model.parameters()), "device": device}


def _scores(row: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    values = {title: row["scores"].get(path) for title, path in shown.items()}
    texts = [f"{t} {NOT_MEASURED if v is None else f'{v:.1f}'}" for t, v in values.items()]
    return f"{', '.join(texts) or 'done'} ({row['seconds']:.0f} s)"


def _step_seconds(folder: Path) -> float | None:
    """Return the median time of a training step, None where none was logged."""
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    times = [record["time"] for record in map(json.loads, lines) if "time" in record]
    return statistics.median(times) if times else None


def _environment(datasets: Path) -> dict[str, str]:
    """Return the environment of a child: one thread, this package, and the data sets."""
    package = str(Path(freqfusion.__file__).parents[1])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": path,
        "DETECTRON2_DATASETS": str(datasets.resolve()),
    }


def _revision() -> str | None:
    """Return the commit of the checkout, with a + where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(CHECKOUT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "projects", "configs")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
