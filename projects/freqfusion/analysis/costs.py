"""Parameters, memory and time of a module and its parts.

Whatever is counted is filed under the innermost module that runs, and then belongs to every module
whose name contains that one's: ``fusion.sampler.lr_norm`` counts for ``fusion.sampler``, ``fusion``
and the whole, whose name is empty. So a container that is never called itself has the sum of its
parts, and the numbers of the parts never exceed that of the whole. Memory counts whole storages,
since a view of a tensor keeps all of it.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_MILLISECONDS = 1000


class RunningModule:
    """While entered, knows the name of the innermost part of a module that is running.

    A part that is registered under several names goes by the first. Work that a module does with
    the parameters of a part, without calling it, is the module's.

    Args:
        root: The module to watch; its own name is empty.
    """

    def __init__(self, root: nn.Module):
        self._root = root
        self._names: list[str] = []
        self._hooks: list[Any] = []

    @property
    def name(self) -> str:
        """Return name of the innermost part; empty for the module itself, and before it runs."""
        return self._names[-1] if self._names else ""

    def __enter__(self) -> RunningModule:
        for name, part in self._root.named_modules():
            self._hooks += [
                part.register_forward_pre_hook(self._enterer(name), prepend=True),
                # Also after an error, so that the names do not get out of step.
                part.register_forward_hook(self._leave, always_call=True),
            ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._names.clear()

    def _enterer(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda part, inputs: self._names.append(name)

    def _leave(self, part: nn.Module, inputs: Any, output: Any) -> None:
        self._names.pop()


def roll_up(own: Mapping[str, int], root: nn.Module) -> dict[str, int]:
    """Sum ``own`` over all parts of each module, in the order of ``named_modules``."""
    sums = {name: 0 for name, _ in root.named_modules()}
    for name, number in own.items():
        parts = name.split(".") if name else []
        for length in range(len(parts) + 1):
            whole = ".".join(parts[:length])
            sums[whole] = sums.get(whole, 0) + number
    return sums


@dataclass(frozen=True)
class ParameterCount:
    """Numbers in a module and its parts; one that is shared inside counts once.

    Args:
        trainable: Parameters that require gradients.
        frozen: Parameters that do not.
        buffers: Everything else that belongs to it, such as running means.
    """

    trainable: int
    frozen: int
    buffers: int

    @property
    def total(self) -> int:
        """Count all parameters, without buffers."""
        return self.trainable + self.frozen


def count_parameters(module: nn.Module) -> dict[str, ParameterCount]:
    """Return name of each part, as in ``named_modules``, to its numbers; the whole has no name."""
    return {name: _count(part) for name, part in module.named_modules()}


def _count(part: nn.Module) -> ParameterCount:
    sizes = {True: 0, False: 0}
    for parameter in part.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    return ParameterCount(sizes[True], sizes[False], sum(b.numel() for b in part.buffers()))


@dataclass(frozen=True)
class Latency:
    """Milliseconds of several runs: their median, and the fastest and slowest."""

    median: float
    fastest: float
    slowest: float


@torch.no_grad()
def measure_latency(module: nn.Module, *inputs: Any, runs: int = 5, warm_up: int = 1) -> Latency:
    """Time the forward pass of a module, without gradients.

    Raises:
        ValueError: if ``runs`` is below one or ``warm_up`` below zero.
    """
    if runs < 1 or warm_up < 0:
        raise ValueError(
            f"runs must be 1 or more and warm_up 0 or more, got {runs} runs and {warm_up}"
        )
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    times = []
    for _ in range(warm_up + runs):
        started = time.perf_counter()
        module(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(_MILLISECONDS * (time.perf_counter() - started))
    times = times[warm_up:]
    return Latency(statistics.median(times), min(times), max(times))


@dataclass(frozen=True)
class SavedMemory:
    """Bytes that are kept after a forward pass until its gradients have been computed.

    Args:
        total: Of the whole module.
        by_module: Name of each part, as in ``named_modules``, to the sum over it and its parts. A
            tensor that several parts keep is counted with the first.
    """

    total: int
    by_module: dict[str, int]


def saved_for_backward(module: nn.Module, *inputs: Any) -> SavedMemory:
    """Run a module once with gradients and measure what it keeps for them.

    The module runs in the mode that it is in; for the memory of training call ``train()`` first.
    Parameters and buffers are not counted, since they are there anyway; inputs are, where they are
    kept. What the graph has let go by the end of the pass is not counted.
    """
    own = {_key(tensor) for tensor in (*module.parameters(), *module.buffers())}
    with RunningModule(module) as running:
        saved = _Saved(running, own)
        with (
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda kept: kept.tensor),
        ):
            output = module(*inputs)
    by_module = saved.living()
    del output  # it has held the graph, and with it what was saved
    return SavedMemory(sum(by_module.values()), roll_up(by_module, module))


class _Kept:
    """What autograd holds in place of a tensor: it lives as long as the graph needs the tensor."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class _Saved:
    """Tensors that autograd keeps, each with the module that was running."""

    def __init__(self, running: RunningModule, leave_out: set[int]):
        self._running = running
        self._leave_out = leave_out
        self._kept: list[tuple[weakref.ref[_Kept], str]] = []

    def keep(self, tensor: Tensor) -> _Kept:
        """Note a tensor that autograd saves."""
        kept = _Kept(tensor)
        if _key(tensor) not in self._leave_out:
            self._kept.append((weakref.ref(kept), self._running.name))
        return kept

    def living(self) -> Counter[str]:
        """Return the bytes by module that the graph still needs, of each storage once."""
        sizes: Counter[str] = Counter()
        seen: set[int] = set()
        for reference, name in self._kept:
            kept = reference()
            if kept is not None and _key(kept.tensor) not in seen:
                seen.add(_key(kept.tensor))
                sizes[name] += kept.tensor.untyped_storage().nbytes()
        return sizes


def _key(tensor: Tensor) -> int:
    """Return a number that all tensors on one storage share."""
    return int(tensor.untyped_storage()._cdata)
