"""The operators on a CPU by ``compiled.cpp``.

It is built with ``compiled_sampling.cpp`` at the first use of either, and kept.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from freqfusion.layers.neighbourhood.geometry import (
    Geometry,
    empty_features,
    empty_kernels,
    empty_output,
)

logger = logging.getLogger(__name__)

# As the enumerations in the source are.
TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_GATHER, _SCATTER, _CORRELATE = 1, 2, 4
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-Wno-psabi")
_SECONDS_TO_BUILD = 120


class Map(ctypes.Structure):
    """A tensor (B, C, H, W)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("stride", ctypes.c_int64 * 4),
        ("type", ctypes.c_int32),
    )

    @classmethod
    def of(cls, tensor: Tensor) -> "Map":
        """Describe a tensor, which must live as long as the description is used."""
        stride = (ctypes.c_int64 * 4)(*tensor.stride())
        return cls(tensor.data_ptr(), stride, TYPES[tensor.dtype])


class _Call(ctypes.Structure):
    _maps = ("features", "kernels", "values", "of_features", "of_kernels")
    _sizes = (
        "batch", "groups", "channels", "height", "width", "source_height", "source_width",
        "kernel_size", "dilation", "margin",
    )  # fmt: skip
    _fields_ = (
        *((name, Map) for name in _maps),
        *((name, ctypes.c_int64) for name in _sizes),
        ("row_start", ctypes.c_void_p),
        ("column_start", ctypes.c_void_p),
        ("operation", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel."""
    output = empty_output(features, kernels)
    _run(_GATHER, geometry, features.shape[-2:], features=features, kernels=kernels, values=output)
    return output


def correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    """Return the dot product over channels of each output pixel with each of its neighbours."""
    kernels = empty_kernels(values, geometry)
    maps = {"values": values, "features": features, "of_kernels": kernels}
    _run(_CORRELATE, geometry, features.shape[-2:], **maps)
    return kernels


def scatter(values: Tensor, kernels: Tensor, size: Sequence[int], geometry: Geometry) -> Tensor:
    """Spread each output pixel over its neighbours, weighted by its kernel."""
    features = empty_features(values, size)
    _run(_SCATTER, geometry, size, values=values, kernels=kernels, of_features=features)
    return features


def gradients(
    values: Tensor, features: Tensor, kernels: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Return both derivatives of a gather in one pass: :func:`scatter` and :func:`correlate`."""
    results = {
        "of_features": empty_features(values, features.shape[-2:]),
        "of_kernels": empty_kernels(values, geometry),
    }
    maps = {"values": values, "features": features, "kernels": kernels}
    _run(_SCATTER | _CORRELATE, geometry, features.shape[-2:], **maps, **results)
    return results["of_features"], results["of_kernels"]


def fits(*tensors: Tensor) -> bool:
    """Return whether the types of these tensors are known."""
    return all(tensor.dtype in TYPES for tensor in tensors)


def _run(operation: int, g: Geometry, size: Sequence[int], **maps: Tensor) -> None:
    """Call the compiled function with maps by their names in it."""
    values = maps["values"]
    if not all(map_.numel() for map_ in maps.values()):
        for name in maps.keys() - {"features", "kernels"}:
            maps[name].zero_()
        return
    height, width = g.source_size(size[0], size[1])
    rows = _starts(g, values.shape[-2], height)
    columns = _starts(g, values.shape[-1], width)
    is_double = any(map_.dtype == torch.float64 for map_ in maps.values())
    call = _Call(
        batch=values.shape[0], groups=g.groups, channels=values.shape[1] // g.groups,
        height=size[0], width=size[1], source_height=height, source_width=width,
        kernel_size=g.kernel_size, dilation=g.dilation, margin=g.margin,
        row_start=rows.data_ptr(), column_start=columns.data_ptr(),
        operation=operation, type=TYPES[torch.float64 if is_double else torch.float32],
        threads=torch.get_num_threads(),
    )  # fmt: skip
    for name, map_ in maps.items():
        setattr(call, name, Map.of(map_))
    loaded = library()
    assert loaded is not None
    loaded.freqfusion_neighbourhood(ctypes.byref(call))


@functools.lru_cache(maxsize=256)
def _starts(geometry: Geometry, out: int, size: int) -> Tensor:
    """Return the first output pixel above each source pixel of an axis, and at the end ``out``."""
    sources = geometry.source(torch.arange(out), out, size)
    starts: Tensor = torch.searchsorted(sources, torch.arange(size + 1)).int()
    return starts


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled functions, built if need be, or None where that is impossible.

    :func:`problem` then says why.
    """
    try:
        loaded = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("the operators are computed by torch: %s", error)
        return None
    for function in (loaded.freqfusion_neighbourhood, loaded.freqfusion_sampling):
        function.restype = None
        function.argtypes = [ctypes.c_void_p]
    return loaded


def problem() -> str:
    """Return why there is no compiled function, or nothing where there is one."""
    try:
        _built()
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


def _built() -> Path:
    """Return the shared library of these sources, compiler, processor and OpenMP runtime.

    Raises:
        OSError: if there is no compiler, or it fails.
        subprocess.SubprocessError: if it takes too long.
    """
    sources = sorted(Path(__file__).parent.glob("compiled*.cpp"))
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler or not shutil.which(compiler):
        raise OSError("there is no C++ compiler (c++, g++ or the variable CXX)")
    runtime = _openmp()
    version = _output([compiler, "--version"])
    texts = [file.read_text() for file in (Path(__file__).with_suffix(".h"), *sources)]
    key = "\n".join([*texts, compiler, version, _processor(), runtime])
    name = f"compiled-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "freqfusion")
    target = folder / name
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        library, binaries = Path(work, name), []
        threads = ["-fopenmp"] if runtime else []
        for source in sources:
            binaries.append(str(Path(work, source.stem + ".o")))
            _output([compiler, *_FLAGS, *threads, "-c", str(source), "-o", binaries[-1]])
        # The runtime that torch has loaded: another one would have threads of its own.
        _output([compiler, "-shared", *binaries, *filter(None, [runtime]), "-o", str(library)])
        library.replace(target)
    return target


def _output(command: list[str]) -> str:
    """Return what a command prints; OSError with the end of it where the command fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS_TO_BUILD, check=False
    )
    if done.returncode:
        raise OSError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _openmp() -> str:
    """Return the OpenMP library that this process has loaded with torch, or nothing."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return ""
    files = (line.split(maxsplit=5)[-1] for line in lines if "omp" in line)
    names = ("libgomp", "libiomp5", "libomp")
    return next((file for file in files if Path(file).name.startswith(names)), "")


def _processor() -> str:
    """Return what the processor can do, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
