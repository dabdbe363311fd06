"""Memory of a module's tensors: what training keeps for gradients, and the peak of a forward pass.

Both count whole storages, since a view of a tensor keeps all of it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from freqfusion.analysis.module_tally import RunningModule, roll_up


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
    return SavedMemory(sum(by_module.values()), roll_up(by_module, module, 0))


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
        """Bytes by module of what the graph still needs; each storage with its first keeper."""
        sizes: Counter[str] = Counter()
        seen: set[int] = set()
        for reference, name in self._kept:
            kept = reference()
            if kept is not None and _key(kept.tensor) not in seen:
                seen.add(_key(kept.tensor))
                sizes[name] += kept.tensor.untyped_storage().nbytes()
        return sizes


def peak_memory(module: nn.Module, *inputs: Any) -> int:
    """Most bytes that a forward pass without gradients holds beyond parameters and inputs.

    On a GPU it is what torch's allocator reports, scratch memory of kernels included. On a CPU
    tensors are followed as operators make them: what an operator uses inside is not seen.
    """
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        return _peak_of_gpu(module, inputs, device)
    given = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    live = _LiveStorages({_key(t) for t in (*module.parameters(), *module.buffers(), *given)})
    with torch.no_grad(), live:
        module(*inputs)
    return live.peak


def _peak_of_gpu(module: nn.Module, inputs: Any, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.no_grad():
        module(*inputs)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


class _LiveStorages(TorchDispatchMode):
    """Sum of the storages that operators have made and that still live, and its peak."""

    def __init__(self, leave_out: set[int]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._leave_out = leave_out
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = operator(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            self._follow(tensor)
        return output

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known or _key(tensor) in self._leave_out:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._let_go, size).atexit = False

    def _let_go(self, size: int) -> None:
        self._now -= size


def _tensors(output: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))


def _key(tensor: Tensor) -> int:
    """The same number for all tensors on one storage."""
    return int(tensor.untyped_storage()._cdata)
