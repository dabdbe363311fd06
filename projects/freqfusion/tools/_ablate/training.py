"""Train and evaluate one run in a process of its own, and make its row."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import freqfusion
from freqfusion.tools._ablate.rows import SCHEMA
from freqfusion.tools._ablate.runs import Run

_SAID = 400


class Trainer:
    """Runs ``train_net.py``; :meth:`stop` ends all that it has started, from any thread.

    Args:
        root: Folder of ``train_net.py``.
        output: Folder of the runs' output.
        data: Folder of a run's data sets, by its arguments.
        keep_weights: Keep the checkpoints; they are deleted otherwise, each some 100 MB.
    """

    def __init__(self, *, root: Path, output: Path, data: Mapping[str, Path], keep_weights: bool):
        self.script = root / "train_net.py"
        if not self.script.is_file():
            raise ValueError(
                f"there is no {self.script}: the matrix must lie in configs/<folder>/ of a checkout"
            )
        self.root, self.output, self.data = root, output, data
        self.keep_weights = keep_weights
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __call__(self, run: Run) -> dict[str, Any]:
        """The row of a run; RuntimeError, with what the log says, where it fails."""
        folder, log = self.folder(run), self.log(run)
        if folder.exists():
            shutil.rmtree(folder)
        log.parent.mkdir(parents=True, exist_ok=True)
        facts = model_facts(run)
        started = time.perf_counter()
        code = self._train(run)
        seconds = time.perf_counter() - started
        if code:
            raise RuntimeError(f"{_last_words(log)} (exit code {code}, {log})")
        scores = read_scores(folder / "results.json")
        times = {"seconds": seconds, "step_seconds": step_seconds(folder)}
        row = make_row(run, scores, {**times, **facts}, self.root)
        if not self.keep_weights:
            for path in folder.glob("*.pth"):
                path.unlink()
        return row

    def folder(self, run: Run) -> Path:
        """``OUTPUT_DIR`` of a run."""
        return self.output / run.experiment / run.row.stem

    def log(self, run: Run) -> Path:
        """What a run says; beside its folder, because training starts in an empty one only."""
        return self.folder(run).with_name(f"{run.row.stem}.log")

    def stop(self) -> None:
        """End the running processes with theirs, and start no others."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                _end(child)

    def _train(self, run: Run) -> int:
        options = ["--config-file", str(run.config.resolve()), *run.options()]
        options += ["OUTPUT_DIR", str(self.folder(run))]
        command = [sys.executable, str(self.script), *options]
        with self.log(run).open("wb") as log:
            with self._lock:
                if self._stopped:
                    raise RuntimeError("stopped")
                child = subprocess.Popen(
                    command,
                    cwd=self.root,
                    env=environment(self.data[data_key(run.data)]),
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

    Returns the folder of the data sets.
    """
    if "name" in run.data:
        from freqfusion.data.registration import datasets_root

        return datasets_root()
    place = folder / data_key(run.data)
    record = place / "data.json"
    if record.is_file():
        return place
    partial = place.with_name(f"{place.name}.part")
    for old in (place, partial):
        shutil.rmtree(old, ignore_errors=True)
    command = [sys.executable, "-m", "freqfusion.tools.synthesize", *data_options(run.data)]
    command += ["--output", str(partial / "synthetic")]
    done = subprocess.run(
        command, env=environment(partial), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [""]
        raise RuntimeError(f"the scenes of {run.name} cannot be written: {said[-1]}")
    (partial / record.name).write_text(json.dumps(dict(run.data)) + "\n", encoding="utf-8")
    os.replace(partial, place)
    return place


def data_options(data: Mapping[str, Any]) -> list[str]:
    """Arguments of ``freqfusion.tools.synthesize``."""
    return [text for key, value in data.items() for text in (_option(key), str(value))]


def data_key(data: Mapping[str, Any]) -> str:
    """A folder's name for the arguments of the data."""
    return "_".join(f"{key}-{value}" for key, value in sorted(data.items()))


def environment(datasets: Path) -> dict[str, str]:
    """That of the children: one thread each, this package, and the data sets."""
    package = str(Path(freqfusion.__file__).parents[1])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": path,
        "DETECTRON2_DATASETS": str(datasets.resolve()),
    }


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


def step_seconds(folder: Path) -> float | None:
    """Median time of a training step, None where none was noted."""
    import numpy as np

    from freqfusion.tools._plot_metrics.reading import read_series

    series = read_series(folder / "metrics.json").get("time")
    return None if series is None else float(np.nanmedian(series.values))


def make_row(
    run: Run, scores: Mapping[str, Any], facts: Mapping[str, Any], root: Path
) -> dict[str, Any]:
    """All that is known about a finished run; ``facts`` are times, parameters and device."""
    return {
        "schema": SCHEMA,
        "experiment": run.experiment,
        "method": run.method,
        "seed": run.seed,
        "dial": dict(run.dial),
        "config_file": os.path.relpath(run.config, root),
        "overrides": dict(run.overrides),
        "data": dict(run.data),
        "learning_rate": {"factor": run.factor, "chosen_on_tune": run.tuned},
        "fingerprint": run.fingerprint(),
        "scores": dict(scores),
        **facts,
        "versions": {"python": platform.python_version(), **_versions()},
        "revision": _revision(root),
    }


def model_facts(run: Run) -> dict[str, Any]:
    """Parameters and device; the model is built without memory, before hours are spent on it.

    RuntimeError where it cannot be built.
    """
    import torch
    from detectron2.modeling import build_model

    from freqfusion.data.registration import register_datasets
    from freqfusion.engine.setup import fit_device, load_config

    cfg = load_config(str(run.config), run.options())
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


def _versions() -> dict[str, str | None]:
    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    names = ("torch", "numpy", "detectron2")
    return {"freqfusion": freqfusion.__version__} | {name: installed(name) for name in names}


def _revision(root: Path) -> str | None:
    """The commit of a checkout, with a + where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "projects", "configs")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][-_SAID:] if lines else "it said nothing"


def _end(child: subprocess.Popen[bytes]) -> None:
    """With the processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
