"""Detectron2's trainer with this project's evaluators."""

import os

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator

from freqfusion.evaluation import build_evaluator


class Trainer(DefaultTrainer):
    """``DefaultTrainer``; evaluators are chosen from the data set's metadata."""

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """The evaluator of a data set; files go to ``output_folder`` or ``inference``."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, folder)
