"""Names and colours of a data set's classes, as its metadata says in Detectron2's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from freqfusion.drawing.colors import RGB, palette
from freqfusion.drawing.content import VOID, IntMap, LabelMap, PanopticMap, Segment, panoptic_map


class Classes:
    """Names and colours of a data set's classes; where it has no colours, those of a palette.

    Things have the numbers 0.., and stuff those after them, also where Detectron2 lists all classes
    as stuff. In a "separated" data set the first stuff class, "things", stands for any of them.
    ``metadata`` is a mapping, or anything else with ``get``.
    """

    def __init__(self, metadata: Any) -> None:
        self.things: list[str] = list(metadata.get("thing_classes") or ())
        self.stuff: list[str] = list(metadata.get("stuff_classes") or ())
        spare = palette(len(self.things) + len(self.stuff))
        if self.stuff[: len(self.things)] == self.things:
            spare = [*spare[: len(self.things)], *spare]  # one label space: the same twice
        own, other = spare[: len(self.things)], spare[len(self.things) :]
        self.thing_colors = _colors(metadata.get("thing_colors"), own)
        self.stuff_colors = _colors(metadata.get("stuff_colors"), other[: len(self.stuff)])
        self._thing_ids = set((metadata.get("thing_dataset_id_to_contiguous_id") or {}).values())
        self.separated = self.stuff[:1] == ["things"]

    def label_map(self, labels: IntMap, count: int | None = None) -> LabelMap:
        """Semantic labels; classes that the metadata does not name are called by their number."""
        names, colors = list(self.stuff), list(self.stuff_colors)
        total = max(count or 0, len(names) if names else int(labels.max()) + 1)
        for label in range(len(names), total):
            names.append(f"class {label}")
            colors.append(palette(label + 1)[label])
        return LabelMap(labels, tuple(names), tuple(colors))

    def thing(self, label: int) -> str:
        """The name of a thing class."""
        return self.things[label] if label < len(self.things) else f"class {label}"

    def panoptic(self, ids: IntMap, infos: Iterable[Mapping[str, Any]]) -> PanopticMap:
        """A map of ids and Detectron2's ``segments_info`` with contiguous categories."""
        return panoptic_map(ids, [self._segment(info) for info in infos])

    def labels_of(self, panoptic: PanopticMap) -> LabelMap | None:
        """Semantic labels of a panoptic map, where the label space of the metadata has them all."""
        labels: IntMap = np.full(panoptic.ids.shape, VOID, dtype=np.int64)
        for one in panoptic.segments:
            label = one.category if one.is_thing else one.category - len(self.things)
            label = 0 if one.is_thing and self.separated else label
            if self.stuff[label : label + 1] != [one.name] and not (self.separated and not label):
                return None
            if not one.is_crowd:
                labels[panoptic.ids == one.id] = label
        return self.label_map(labels)

    def _segment(self, info: Mapping[str, Any]) -> Segment:
        label = int(info["category_id"])
        is_thing = bool(info.get("isthing", label in self._thing_ids))
        names, colors = (
            (self.things, self.thing_colors) if is_thing else (self.stuff, self.stuff_colors)
        )
        known = label < len(names)
        return Segment(
            id=int(info["id"]),
            category=label if is_thing else len(self.things) + label,
            name=names[label] if known else f"class {label}",
            color=colors[label] if known else palette(label + 1)[label],
            is_thing=is_thing,
            is_crowd=bool(info.get("iscrowd", 0)),
        )


def _colors(declared: Any, spare: list[RGB]) -> list[RGB]:
    colors = [(int(red), int(green), int(blue)) for red, green, blue in declared or ()]
    return colors if len(colors) >= len(spare) else spare
