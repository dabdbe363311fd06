"""Pictures of what a model predicts while it is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils import comm
from torch import nn

from freqfusion.data.mapper import build_mapper
from freqfusion.data.randomness import separate_randomness
from freqfusion.data.reading import read_image
from freqfusion.engine.hooks import AfterEvaluation
from freqfusion.engine.unchanged import unchanged

logger = logging.getLogger(__name__)

SCORE_THRESHOLD = 0.5
_SEED = 0


class SamplePredictions(AfterEvaluation):
    """Draw the same images of the first test set with each evaluation, for TensorBoard.

    As ``predictions/<number>/<task>``. The main process does it alone; when it fails, training goes
    on without pictures.
    """

    def __init__(self, period: int, model: nn.Module, cfg: CfgNode) -> None:
        super().__init__(period)
        self._model, self._cfg = model, cfg
        self._images: list[dict[str, Any]] | None = None

    def run(self) -> None:
        """Predict, draw, and hand the pictures to the storage."""
        if not comm.is_main_process() or self._images == []:
            return
        name = self._cfg.DATASETS.TEST[0]
        try:
            if self._images is None:
                count = self._cfg.TEST.SAMPLE_PREDICTIONS
                self._images = get_detection_dataset_dicts([name], filter_empty=False)[:count]
            with separate_randomness(_SEED), unchanged(self._model):
                self._model.eval()
                self._draw(MetadataCatalog.get(name), build_mapper(self._cfg, False))
        except Exception:
            logger.exception("sample predictions cannot be drawn; there will be none in this run")
            self._images = []

    def _draw(self, metadata: Any, mapper: Callable[[dict[str, Any]], Any]) -> None:
        from freqfusion.evaluation.pictures import draw_output

        images: Iterable[dict[str, Any]] = self._images or []
        for number, dataset_dict in enumerate(images):
            output = self._model([mapper(dataset_dict)])[0]
            image = read_image(dataset_dict["file_name"], "RGB")[0]
            pictures = draw_output(image, output, metadata, score_threshold=SCORE_THRESHOLD)
            for task, picture in pictures.items():
                self.trainer.storage.put_image(
                    f"predictions/{number}/{task}", picture.transpose(2, 0, 1)
                )
