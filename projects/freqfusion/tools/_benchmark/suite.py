"""What a suite consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Call = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Size:
    """Channels and size of the coarse map; the fine one is twice as large."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        fine = f"{2 * self.height}x{2 * self.width}"
        return f"{self.channels} channels, {self.height}x{self.width} to {fine}"

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the image whose map at stride 4 is the fine map."""
        return 8 * self.height, 8 * self.width

    @classmethod
    def of_image(cls, channels: int, length: int) -> "Size":
        """The size whose image is ``length`` x ``length``."""
        return cls(channels, length // 8, length // 8)


WARM_UP = Size(16, 4, 4)


class Floor(NamedTuple):
    """Bytes moved and operations done, at least."""

    bytes: int
    operations: int


# ``case(size, ours=...)`` builds inputs and returns the call, in our form or in the plain one.
# Picklable, so that memory can be measured in another process.
Case = Callable[..., Call]


@dataclass(frozen=True)
class Suite:
    """Cases by their names.

    Attributes:
        cases: What is measured.
        reference: What the plain form is.
        floor: The least that a case must move and compute, for a size and the case's name.
        is_same: Both forms compute the same, which is checked before they are timed.
        of_images: The size is that of the image, not of maps.
    """

    cases: Mapping[str, Case]
    reference: str
    floor: Callable[[Size, str], Floor] | None = None
    is_same: bool = True
    of_images: bool = False


def differentiable(
    forward: Call, wanted: tuple[Tensor, ...], backward: bool
) -> Callable[[], tuple[Tensor, ...]]:
    """The call, with the gradients of ``wanted`` after its results if ``backward``."""
    if not backward:
        return torch.no_grad()(forward)
    weights = [torch.randn_like(output) for output in forward()]

    def both() -> tuple[Tensor, ...]:
        outputs = forward()
        return (*outputs, *torch.autograd.grad(outputs, wanted, weights))

    return both
