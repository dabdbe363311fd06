"""What a model makes of one image, kept in memory for as long as somebody looks at it."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from freqfusion.drawing import Picture

if TYPE_CHECKING:
    from freqfusion.evaluation.pictures import Content
    from freqfusion.tools._aliasing import RecordedPass
    from freqfusion.tools._app.confidence import Confidence
    from freqfusion.tools._feature_similarity import RecordedMap

_KEPT_MAPS = 6


@dataclass
class Look:
    """One image, what the model said of it, and the maps that were asked for so far.

    ``confidence`` is a map and what it is in words, by task. The model's scores are not kept: those
    of many classes for every pixel would fill the memory.
    """

    image: Picture
    inputs: dict[str, Any]
    content: Content
    confidence: dict[str, tuple[Confidence, str]]
    modulation: RecordedPass | None = None
    maps: OrderedDict[str, RecordedMap] = field(default_factory=OrderedDict)

    def keep(self, maps: dict[str, RecordedMap]) -> None:
        """Remember maps of layers; the oldest are forgotten."""
        self.maps |= maps
        while len(self.maps) > _KEPT_MAPS:
            self.maps.popitem(last=False)


class Looks:
    """The last few looks, by a name that cannot be guessed."""

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._looks: OrderedDict[str, Look] = OrderedDict()

    def add(self, look: Look) -> str:
        """Keep a look; its name."""
        name = secrets.token_urlsafe(16)
        self._looks[name] = look
        while len(self._looks) > self.most:
            self._looks.popitem(last=False)
        return name

    def __getitem__(self, name: str) -> Look:
        """The look; ValueError where it has been forgotten."""
        if name not in self._looks:
            raise ValueError("the image is no longer in memory; send it again")
        self._looks.move_to_end(name)
        return self._looks[name]
