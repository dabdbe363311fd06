"""Check and measure everything that runs on a GPU: ``python -m benchmarks.gpu``.

Runs the tests that are marked ``gpu``, then the Triton kernels beside plain torch and the rate of a
copy, ``FreqFusion`` in both memory formats, by ``torch.compile`` and beside plain torch, and models
with and without FreqFusion, in float32 and bfloat16. Meant to take less than ten minutes; no GPU
has run it yet.

The file of measurements::

    schema    1
    machine   the GPU and torch
    tests     exit code of pytest and its last line
    copy      GB/s, read and written, of a copy
    rows      part, case, form, dtype, ms and reference_ms (medians), speedup, peak_mib (beyond what
              is kept between calls), gb_per_s (inputs and results once in our time; operators)

A number that was not measured is null. What fails is a row with ``error`` in place of numbers.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.documents import CHECKOUT, SCHEMA, write_json
from benchmarks.operator_suites import MODEL_CASES, Call, Size, differentiable
from benchmarks.timing import copy_rate, run_in_turn, waiting
from freqfusion.layers import FreqFusion, neighbourhood
from freqfusion.layers.neighbourhood import Geometry
from freqfusion.layers.neighbourhood.choice import VARIABLE
from freqfusion.tools._arguments import number_from

RESULTS = CHECKOUT / "results" / "gpu.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Build = Callable[[], Call]
# Channels and coarse maps: those of a pyramid's finest hop for images of 1024 x 1024 pixels.
SIZE = Size(256, 128, 128)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests and all measurements, and write them; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Check and measure everything that runs on a GPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--runs", type=number_from(1), default=9, help="counted runs of each form")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu: torch finds no GPU here, so nothing was measured", file=sys.stderr)
        return 2
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    record: dict[str, Any] = {"schema": SCHEMA, "machine": machine, "tests": run_tests()}
    print(f"{machine}\ntests: {record['tests']['summary']}")
    record["copy"] = copy_rate(options.runs, "cuda") / 1e9
    record["rows"] = []
    for row in rows("cuda", SIZE, options.runs):
        record["rows"].append(row)
        print(describe(row), flush=True)
        write_json(options.output, record, digits=5)
    print(f"\nNumbers: {options.output}")
    return 1 if record["tests"]["code"] else 0


def run_tests() -> dict[str, Any]:
    """Return the exit code and the last line of the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    return {"code": done.returncode, "summary": lines[-1] if lines else ""}


def rows(device: str, size: Size, runs: int) -> Iterator[dict[str, Any]]:
    """Measure all parts, one row after another."""
    for dtype in DTYPES:
        for last in (False, True):
            form = "channels_last" if last else "default"
            for name in ("gather", "correlate", "scatter"):
                build = partial(operator, name, size, device, DTYPES[dtype], last)
                key = {"part": "operator", "case": name, "form": form, "dtype": dtype}
                yield measure(key, build, partial(plainly, build), device, runs)
        for case in ("forward", "forward + backward"):
            default = partial(fusion, size, device, DTYPES[dtype], backward=case != "forward")
            forms: dict[str, tuple[Build, Build]] = {
                "beside plain torch": (default, partial(plainly, default)),
                "channels_last beside default": (partial(default, last=True), default),
                "torch.compile beside eager": (partial(default, compiled=True), default),
            }
            for form, builds in forms.items():
                key = {"part": "FreqFusion", "case": case, "form": form, "dtype": dtype}
                yield measure(key, *builds, device, runs)
    for name, case_of in MODEL_CASES.items():
        for dtype in DTYPES:
            key = {"part": "model", "case": name, "form": "beside one without", "dtype": dtype}
            ours, reference = (
                partial(model, case_of, size, device, dtype, ours) for ours in (True, False)
            )
            yield measure(key, ours, reference, device, runs)


def measure(
    key: dict[str, str], build: Build, build_reference: Build, device: str, runs: int
) -> dict[str, Any]:
    """Return the row of a call and its reference; its keys say what was measured."""
    try:
        call, reference = build(), build_reference()
        times = run_in_turn(waiting(call, device), waiting(reference, device), runs)
        peak = peak_bytes(waiting(call, device)) if device != "cpu" else None
    except (RuntimeError, ImportError) as error:
        return {**key, "error": str(error).strip().splitlines()[0]}
    ours, theirs = (1e3 * statistics.median(form) for form in times)
    moved = call.moved if isinstance(call, Operator) else None
    return {
        **key,
        "ms": ours,
        "reference_ms": theirs,
        "speedup": theirs / ours,
        "peak_mib": None if peak is None else peak / 2**20,
        "gb_per_s": None if moved is None else moved / ours / 1e6,
    }


def peak_bytes(call: Callable[[], None]) -> int:
    """Return the most memory that a call has at a time, beyond what was there before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


@dataclass
class Operator:
    """An operator on its maps: kernel 5, scale 2."""

    function: Callable[..., Tensor]
    maps: tuple[Tensor, Tensor]
    options: tuple[Any, ...]
    moved: int = 0  # bytes of maps and result

    def __call__(self) -> tuple[Tensor, ...]:
        """Return the result."""
        return (self.function(*self.maps, *self.options),)


def operator(name: str, size: Size, device: str, dtype: torch.dtype, last: bool) -> Call:
    """Return one of the three operators with random maps."""
    torch.manual_seed(0)
    fine = (2 * size.height, 2 * size.width)
    shapes = [(size.channels, size.height, size.width), (25, *fine), (size.channels, *fine)]
    layout = torch.channels_last if last else torch.contiguous_format
    features, kernels, values = (
        torch.randn(1, *shape, device=device, dtype=dtype).contiguous(memory_format=layout)
        for shape in shapes
    )
    function: Callable[..., Tensor] = getattr(neighbourhood, name)
    maps = {
        "gather": (features, kernels),
        "correlate": (values, features),
        "scatter": (values, kernels),
    }[name]
    size_of_result = ((size.height, size.width),) if name == "scatter" else ()
    call = Operator(function, maps, (*size_of_result, Geometry(5, scale=2)))
    call.moved = sum(one.numel() * one.element_size() for one in (*maps, *call()))
    return call


def fusion(
    size: Size,
    device: str,
    dtype: torch.dtype,
    *,
    backward: bool,
    last: bool = False,
    compiled: bool = False,
) -> Call:
    """Return the module: resampling in 4 groups."""
    torch.manual_seed(0)
    channels = size.channels
    module = FreqFusion(hr_channels=channels, lr_channels=channels, feature_resample=True)
    layout = torch.channels_last if last else torch.contiguous_format
    module = module.to(device, dtype).to(memory_format=layout).requires_grad_(backward)
    fine, coarse = (
        torch.randn(1, channels, scale * size.height, scale * size.width, dtype=dtype)
        .to(device, memory_format=layout)
        .requires_grad_(backward)
        for scale in (2, 1)
    )
    form = torch.compile(module) if compiled else module
    wanted = (fine, coarse, *module.parameters())
    return differentiable(lambda: form(fine, coarse)[1:], wanted, backward)


def plainly(build: Build) -> Call:
    """Return a call that plain torch computes."""
    call = build()

    def plain() -> tuple[Tensor, ...]:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = "torch"
        try:
            return call()
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before

    return plain


def model(case: Callable[..., Call], size: Size, device: str, dtype: str, ours: bool) -> Call:
    """Return the step of a model, under autocast where it is not in float32."""
    call = case(size, ours=ours, device=device)

    def cast() -> tuple[Tensor, ...]:
        with torch.autocast(device, torch.bfloat16, enabled=dtype != "float32"):
            return call()

    return cast


def describe(row: dict[str, Any]) -> str:
    """Return one line about a row."""
    name = ", ".join(row[key] for key in ("part", "case", "form", "dtype"))
    if "error" in row:
        return f"{name}: {row['error']}"
    rate = f", {row['gb_per_s']:.0f} GB/s" if row["gb_per_s"] else ""
    return f"{name}: {row['ms']:.3f} ms, {row['speedup']:.2f} times as fast{rate}"


if __name__ == "__main__":
    sys.exit(main())
