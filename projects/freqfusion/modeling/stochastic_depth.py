"""Stochastic depth (Huang et al., ECCV 2016): branches that are left out in training."""

from torch import Tensor


def leave_out(branch: Tensor, rate: float) -> Tensor:
    """A branch (B, H, W, C), zero for some images, more of the others, the same on average.

    Args:
        branch: What a block would add to its input.
        rate: Probability of zero, from 0 (the branch itself) to below 1.
    """
    if rate == 0:
        return branch
    kept = 1 - rate
    return branch * branch.new_empty(len(branch), 1, 1, 1).bernoulli_(kept).div_(kept)
