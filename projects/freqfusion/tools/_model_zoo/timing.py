"""How much longer a method takes than its baseline: both in turn, in one process."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from freqfusion.tools._analyze.inputs import random_image
from freqfusion.tools._model_zoo.counting import Size, configuration, seeded_model


def compare(method: Path, baseline: Path, size: Size, rounds: int) -> dict[str, Any]:
    """Processor time of inference of a method in that of its baseline, one thread.

    Each round runs both models on one image of noise, after a run of each that is not counted.
    Processor time, in place of the clock's, leaves out what else runs on the machine.

    Returns:
        ``ratio``, the median over rounds of method to baseline, ``lowest`` and ``highest`` of them,
        ``rounds``, and ``machine``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = [_run(file, size) for file in (method, baseline)]
        ratios = ratios_in_turn(runs[0], runs[1], rounds, time.process_time)
    finally:
        torch.set_num_threads(threads)
    return {**spread(ratios), "machine": machine()}


def ratios_in_turn(
    one: Callable[[], Any], other: Callable[[], Any], rounds: int, clock: Callable[[], float]
) -> list[float]:
    """Time of ``one`` to that of ``other``, a number for each round."""

    def taken(run: Callable[[], Any]) -> float:
        started = clock()
        run()
        return clock() - started

    one()
    other()
    # The order changes from round to round, so that neither always follows the other.
    ratios = []
    for number in range(rounds):
        if number % 2:
            second = taken(other)
            ratios.append(taken(one) / second)
        else:
            first = taken(one)
            ratios.append(first / taken(other))
    return ratios


def spread(ratios: Sequence[float]) -> dict[str, Any]:
    """Median, smallest and largest, with four digits."""
    values = (statistics.median(ratios), min(ratios), max(ratios))
    ratio, lowest, highest = (float(f"{value:.4g}") for value in values)
    return {"ratio": ratio, "lowest": lowest, "highest": highest, "rounds": len(ratios)}


def machine() -> str:
    """Architecture and torch, in words."""
    return f"{platform.machine()}, torch {torch.__version__}"


def _run(file: Path, size: Size) -> Callable[[], Any]:
    cfg = configuration(file)
    model, image = seeded_model(cfg), random_image(cfg, size)

    def run() -> Any:
        with torch.no_grad():
            return model([image])

    return run
