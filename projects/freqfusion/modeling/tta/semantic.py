"""Mean of the semantic scores of several views."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from freqfusion.modeling.mask2former.predictions import at_least_float32

SemanticScores = Literal["logits", "scores"]


class SemanticMean:
    """Sums up views one by one; ``result`` is (classes, height, width), at least float32.

    Args:
        kind: What the model's ``sem_seg`` holds.

            * "logits" of a softmax over the classes, as of ``SemanticSegmentor`` and
              ``PanopticFPN``: the mean is that of the probabilities. A mean of logits would let
              one view that is sure of something wrong outvote all others.
            * "scores", as of ``Mask2Former``: sums over the queries of class times mask
              probability. Their mean is, but for a constant factor, what the queries of all views
              together vote for, so they are taken as they are. To make the scores of a pixel add
              up to one would give a view that saw nothing there as much say as one that is sure.

            The kind is a property of the model; the values alone do not tell, since logits can
            happen to lie between 0 and 1.
    """

    def __init__(self, kind: SemanticScores) -> None:
        self._kind = kind
        self._total: Tensor | None = None
        self._views = 0

    def add(self, scores: Tensor, *, flipped: bool) -> None:
        """Count one view, (classes, height, width)."""
        scores = at_least_float32(scores)
        if self._kind == "logits":
            scores = scores.softmax(dim=0)
        if flipped:
            scores = scores.flip(-1)
        if self._total is None:
            # A tensor of its own: the first view's belongs to the model.
            self._total = torch.zeros_like(scores)
        self._total += scores
        self._views += 1

    def result(self) -> Tensor:
        """The mean over the views that were added."""
        if self._total is None:
            raise RuntimeError("no view was added")
        return self._total / self._views
