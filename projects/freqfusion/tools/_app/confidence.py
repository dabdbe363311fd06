"""How sure a model is of each pixel, by task: maps of 0..1 at the size of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from freqfusion.evaluation.pictures import Content
    from freqfusion.modeling.tta import SemanticScores

Confidence = NDArray[np.float32]


def confidence_map(
    task: str, output: dict[str, Any], content: Content, size: tuple[int, int], kind: SemanticScores
) -> tuple[Confidence, str]:
    """The confidence (height, width), and what it is in words.

    Semantic: the share of the best class. Instance: the score of the best object there, 0 where
    none is. Panoptic: that of the segment, and of stuff the semantic one.
    """
    if task == "semantic":
        return semantic_confidence(output["sem_seg"], kind), "share of the most probable class"
    if task == "instance":
        return _of_instances(content, size), "score of the object; dark where there is none"
    confidence: Confidence = np.zeros(size, dtype=np.float32)
    said = "score of the segment"
    if "sem_seg" in output:
        confidence = semantic_confidence(output["sem_seg"], kind)
        said = "score of the thing; of stuff, share of the most probable class"
    ids, infos = output["panoptic_seg"]
    ids = ids.cpu().numpy()
    for info in infos or ():
        if info.get("score") is not None:
            confidence[ids == info["id"]] = float(info["score"])
    return confidence, said


def semantic_confidence(scores: Any, kind: SemanticScores) -> Confidence:
    """Probability of the best class of logits (K, H, W), or its share of the sum of scores."""
    scores = scores.float()
    if kind == "logits":
        best = scores.softmax(dim=0).amax(dim=0)
    else:
        best = scores.amax(dim=0) / scores.sum(dim=0).clamp_min(1e-6)
    result: Confidence = best.cpu().numpy()
    return result


def _of_instances(content: Content, size: tuple[int, int]) -> Confidence:
    confidence: Confidence = np.zeros(size, dtype=np.float32)
    for instance in content.instance or ():
        if instance.mask is not None:
            score = np.where(instance.mask, instance.score or 0, 0).astype(np.float32)
            confidence = np.maximum(confidence, score)
    return confidence
