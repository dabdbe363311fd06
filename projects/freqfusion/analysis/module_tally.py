"""Which module is at work, and sums over a tree of modules.

Whatever is counted is filed under the innermost module that runs, and then belongs to every module
whose name contains that one's: ``fusion.sampler.lr_norm`` counts for ``fusion.sampler``, ``fusion``
and the whole, whose name is empty. So a container that is never called itself has the sum of its
parts, and the numbers of the parts never exceed that of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

NumberT = TypeVar("NumberT", int, float)


class RunningModule:
    """While entered, knows the name of the innermost part of a module that is running.

    A part that is registered under several names goes by the first. Work that a module does with
    the parameters of a part, without calling it, is the module's.

    Args:
        root: The module to watch; its own name is empty.
        before_switch: Called before another part begins or goes on, while ``name`` is still that of
            the one which has been running.
    """

    def __init__(self, root: nn.Module, before_switch: Callable[[], None] | None = None):
        self._root = root
        self._before_switch = before_switch
        self._names: list[str] = []
        self._hooks: list[Any] = []

    @property
    def name(self) -> str:
        """Name of the innermost part; empty for the module itself, and before it runs."""
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
        def enter(part: nn.Module, inputs: Any) -> None:
            self._switch()
            self._names.append(name)

        return enter

    def _leave(self, part: nn.Module, inputs: Any, output: Any) -> None:
        self._switch()
        self._names.pop()

    def _switch(self) -> None:
        if self._before_switch is not None:
            self._before_switch()


def roll_up(own: Mapping[str, NumberT], root: nn.Module, zero: NumberT) -> dict[str, NumberT]:
    """Sums over all parts of each module, in the order of ``named_modules``, from ``own`` sums."""
    sums = {name: zero for name, _ in root.named_modules()}
    for name, number in own.items():
        for whole in containing(name):
            sums[whole] = sums.get(whole, zero) + number
    return sums


def containing(name: str) -> list[str]:
    """The module and all that contain it, from the outermost, which has no name."""
    parts = name.split(".") if name else []
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]
