"""Multiply-adds of a module on given inputs, for each of its parts and each operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from freqfusion.analysis.flop_formulas import formula_of
from freqfusion.analysis.module_tally import RunningModule, roll_up
from freqfusion.analysis.operator_kinds import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class FlopCount:
    """What a forward pass multiplies and adds; a multiply-add counts once.

    Products and weighted sums are counted, as :mod:`~freqfusion.analysis.flop_formulas` says; the
    operators that are not are named here, each with the number of its calls.

    Args:
        total: Of the whole module.
        by_module: Name of each part, as in ``named_modules``, to the sum over it and its parts.
        by_operator: Each counted operator to its sum.
        elementwise: Activations, normalisations, sums, pooling, comparisons: not counted.
        moving: Views, copies, choices and new tensors: nothing to count.
        unknown: Operators that we have no formula for; they may do work that is missing here.
    """

    total: int
    by_module: dict[str, int]
    by_operator: dict[str, int]
    elementwise: dict[str, int]
    moving: dict[str, int]
    unknown: dict[str, int]


def count_flops(module: nn.Module, *inputs: Any) -> FlopCount:
    """Run a module once on its inputs, without gradients, and count its multiply-adds.

    The module runs in the mode that it is in; ``eval()`` it first where that is meant. Work is
    filed under the innermost part that runs, so what a module computes with the weights of a part
    without calling it is the module's. On CPU and GPU the counts are the same. What does not pass
    torch's dispatcher (extensions bound to Python directly) cannot be seen.

    Args:
        module: Any module; it is left as it was.
        inputs: What it is called with.
    """
    with RunningModule(module) as running, _plain_attention(), torch.no_grad():
        counter = _Counter(running)
        with counter:
            module(*inputs)
    return FlopCount(
        total=sum(counter.by_module.values()),
        by_module=roll_up(counter.by_module, module, 0),
        by_operator=_largest_first(counter.by_operator),
        elementwise=_largest_first(counter.uncounted["elementwise"]),
        moving=_largest_first(counter.uncounted["moving"]),
        unknown=_largest_first(counter.uncounted["unknown"]),
    )


class _Counter(TorchDispatchMode):
    """Counts operators as the dispatcher sees them, below autograd."""

    def __init__(self, running: RunningModule):
        super().__init__()  # type: ignore[no-untyped-call]
        self.running = running
        self.by_module: Counter[str] = Counter()
        self.by_operator: Counter[str] = Counter()
        self.uncounted: dict[str, Counter[str]] = {
            kind: Counter() for kind in ("elementwise", "moving", "unknown")
        }

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = formula_of(operator._schema.name)
        if formula is None:
            # In inference mode operators arrive whole that autograd would have taken apart.
            with self:
                parts = operator.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = operator(*args, **kwargs)
        if formula is None:
            self.uncounted[kind_of(operator)][operator._schema.name] += 1
            return output
        main = output[0] if isinstance(output, tuple | list) else output
        flops = formula(_by_name(operator._schema, args, kwargs), main)
        self.by_module[self.running.name] += flops
        self.by_operator[operator._schema.name] += flops
        return output


def _by_name(schema: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by their names, in the order of the schema, also those at their defaults."""
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False))
    given |= kwargs
    return {
        argument.name: given.get(argument.name, argument.default_value)
        for argument in schema.arguments
    }


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the fused encoder layers of torch, which would hide their parts."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _largest_first(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())
