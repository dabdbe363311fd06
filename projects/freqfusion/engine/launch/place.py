"""Which of the processes of a run this one is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A process among all of a run, which has equally many on each machine.

    Attributes:
        rank: Number among all processes, from 0; machine by machine.
        world_size: How many processes there are.
        local_rank: Number among those of this machine.
        local_size: How many each machine has.
        url: Where all meet, as ``torch.distributed`` writes it.
        starter: What started the process, for messages.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    url: str
    starter: str = "train_net.py"

    def __post_init__(self) -> None:
        size, local = self.world_size, self.local_size
        fits = 0 <= self.rank < size and 0 <= self.local_rank < local and size % local == 0
        if not fits or self.rank % local != self.local_rank:
            raise ValueError(
                f"{self.starter} made this process number {self.rank} of {size}, and number"
                f" {self.local_rank} of {local} on its machine, which does not fit: start equally"
                " many processes on each machine, and number them machine by machine"
            )

    @property
    def machine(self) -> int:
        """Number of the machine, from 0."""
        return self.rank // self.local_size

    @property
    def machines(self) -> int:
        """How many machines there are."""
        return self.world_size // self.local_size
