"""Detectron2 evaluators on top of ``freqfusion.metrics``."""

from freqfusion.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesSemanticEvaluator,
)
from freqfusion.evaluation.panoptic import PanopticEvaluator
from freqfusion.evaluation.selection import InstanceEvaluator, SkippingEvaluator, build_evaluator
from freqfusion.evaluation.semantic import SemanticEvaluator

__all__ = [
    "CityscapesInstanceEvaluator",
    "CityscapesSemanticEvaluator",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "SemanticEvaluator",
    "SkippingEvaluator",
    "build_evaluator",
]
