"""Run a training step once more and look where numbers stop being finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from freqfusion.data.randomness import randomness_of

_PLAIN: Callable[[], AbstractContextManager[Any]] = nullcontext
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a step stopped being finite.

    Attributes:
        terms: Losses that are not finite, with their values.
        images: Files of the part of the batch that it came from.
        module: The first module, in the order of the computation, that gave what is not finite
            though what it was given was finite; "" where there is none.
        parameter: The first parameter, in the order of the modules, whose gradient is not finite;
            "" where there is none.
        raised: What the model said that would not go on with what is not finite.
    """

    terms: Mapping[str, float] = field(default_factory=dict)
    images: Sequence[str] = ()
    module: str = ""
    parameter: str = ""
    raised: str = ""

    def __bool__(self) -> bool:
        return bool(self.terms or self.parameter or self.raised)

    def sentence(self) -> str:
        """What was found, for a log; says so where nothing was."""
        if not self:
            return "the losses and gradients of this step are finite when it is run again"
        parts = []
        if self.terms:
            values = ", ".join(f"{name} is {value}" for name, value in self.terms.items())
            parts.append(f"the loss {values}")
        if self.raised:
            parts.append(f"the model says: {self.raised}")
        if self.module:
            parts.append(f"the first output that is not finite is that of {self.module}")
        if self.parameter:
            parts.append(f"the first such gradient is that of {self.parameter}")
        more = len(self.images) - _NAMED
        names = ", ".join(self.images[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{'; '.join(parts)}; images: {names or 'unknown'}"


def examine(
    model: nn.Module,
    parts: Sequence[Sequence[Mapping[str, Any]]],
    randomness: dict[str, Any],
    autocast: Callable[[], AbstractContextManager[Any]] = _PLAIN,
) -> Finding:
    """Compute losses and gradients of each part of a batch; tell of the first that is not finite.

    Neither the gradients that parameters have, nor buffers, nor random numbers are changed.

    Args:
        model: In training mode, not wrapped for several processes.
        parts: The batch, as it was split.
        randomness: Random states at the beginning of the step.
        autocast: Precision of the forward pass.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    try:
        with randomness_of(randomness), EventStorage(), torch.enable_grad():
            for part in parts:
                finding = _examine_part(model, part, autocast)
                if finding:
                    return finding
    finally:
        restore_buffers(model, buffers)
    return Finding()


def restore_buffers(model: nn.Module, values: Sequence[torch.Tensor]) -> None:
    """Give all buffers the values that a copy of ``model.buffers()`` has."""
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), values, strict=True):
            buffer.copy_(value)


def file_names(batch: Sequence[Any]) -> list[str]:
    """Image files of a batch, as far as it names them."""
    return [str(one["file_name"]) for one in batch if isinstance(one, dict) and "file_name" in one]


def _examine_part(model: nn.Module, part: Sequence[Any], autocast: Any) -> Finding:
    with _first_module(model) as modules:
        try:
            with autocast():
                losses = model(part)
        except FloatingPointError as error:
            first = modules[0] if modules else ""
            return Finding({}, file_names(part), first, raised=str(error))
        losses = {"total_loss": losses} if isinstance(losses, torch.Tensor) else losses
    terms = {name: float(loss) for name, loss in losses.items() if not loss.isfinite().all()}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    total = sum(losses.values())
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    wrong = [
        name
        for (name, _), gradient in zip(named, gradients, strict=True)
        if gradient is not None and not gradient.isfinite().all()
    ]
    module = modules[0] if modules and (terms or wrong) else ""
    return Finding(terms, file_names(part), module, wrong[0] if wrong else "")


@contextmanager
def _first_module(model: nn.Module) -> Iterator[list[str]]:
    """Names of modules with an output that is not finite, as they are computed, innermost first."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(_: nn.Module, given: Any, output: Any) -> None:
            if not all_finite(output) and all_finite(given):
                found.append(name)

        return look

    handles = [
        module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def all_finite(value: Any) -> bool:
    """Whether every tensor of floating-point numbers in nested lists and dictionaries is finite."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(all_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(all_finite(item) for item in value)
    return True
