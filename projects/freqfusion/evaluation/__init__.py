"""Detectron2 evaluators on top of ``freqfusion.metrics``."""

from freqfusion.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesSemanticEvaluator,
)
from freqfusion.evaluation.instances import InstanceEvaluator
from freqfusion.evaluation.panoptic import PanopticEvaluator
from freqfusion.evaluation.selection import build_evaluator
from freqfusion.evaluation.semantic import SemanticEvaluator
from freqfusion.evaluation.skipping import SkippingEvaluator

__all__ = [
    "CityscapesInstanceEvaluator",
    "CityscapesSemanticEvaluator",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "SemanticEvaluator",
    "SkippingEvaluator",
    "build_evaluator",
]
