"""What all sections of the report look at: the model, images of a data set, the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from freqfusion.tools._report.survey import Survey
from freqfusion.tools._visualize.predictor import Predictor
from freqfusion.tools._visualize.sources import Source


@dataclass
class Context:
    """A trained model and what it can be shown with.

    Attributes:
        config_file: Where the configuration comes from.
        cfg: The configuration, with its weights.
        predictor: The model as a function of an image.
        run: Output folder of the training, if one is given.
        dataset: Name of the data set.
        sources: Its images; none where the data set is not there.
        metadata: Of the data set.
        without_images: Why there are no images.
        examples: How many of the images are drawn.
        runs: Passes of which the time is taken.
    """

    config_file: str
    cfg: Any
    predictor: Predictor
    run: Path | None = None
    dataset: str = ""
    sources: list[Source] = field(default_factory=list)
    metadata: Any = None
    without_images: str = ""
    examples: int = 3
    runs: int = 5
    _survey: Survey | None = None

    @property
    def model(self) -> torch.nn.Module:
        """The model, in evaluation mode."""
        model: torch.nn.Module = self.predictor.model
        return model

    def images(self) -> list[Source]:
        """The images; ValueError with the reason where there are none."""
        if not self.sources:
            raise ValueError(self.without_images or "there are no images")
        return self.sources

    def survey(self) -> Survey:
        """What the fusion modules do to all images, measured when it is first asked for."""
        if self._survey is None:
            self._survey = Survey(self.predictor, self.images(), self.examples)
        return self._survey
