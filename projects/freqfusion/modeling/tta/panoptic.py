"""Panoptic maps of several views, merged to one by votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from freqfusion.modeling.tta.clusters import find_clusters
from freqfusion.modeling.tta.regions import Region, add_votes, cut_regions, overlap

# A thing must win this part of the mean area of its segments.
_SMALLEST_PART = 0.5


@dataclass(frozen=True, eq=False)
class _Thing:
    """A thing of one view; ``place`` is (view, position in the view's list)."""

    place: tuple[int, int]
    category: int
    score: float | None
    region: Region


class _Stuff:
    """A stuff class: where it was first seen, and in how many views each pixel is of it."""

    def __init__(self, place: tuple[int, int], size: Sequence[int]) -> None:
        self.place, self.votes = place, torch.zeros(tuple(size), dtype=torch.int16)


class PanopticVotes:
    """Takes the panoptic maps of the views one by one; ``result`` is a panoptic map again.

    Each view has one vote for each pixel: for a stuff class, for a thing, or for void. Things of
    one class whose masks overlap are one thing, at most one from each view. A thing takes part if
    at least half of the views see it; the votes for others are not counted. One view of two is
    enough: a segment adds 1/2 to the denominator of the panoptic quality whether it is right or
    not, so it helps as soon as its chance to be right is above half of the recognition quality, and
    it has passed the thresholds of the model.

    A pixel goes to what has most of its votes. Where that is equal, things come before stuff and
    stuff before void; of two things the one that more views see, then the larger; of two classes of
    stuff the larger. So what loses, loses everywhere: a thing that wins less than half of its area
    is given up, and its pixels are voted on without it.

    The order of the views decides nothing but the numbers of the segments, which follow the first
    view, and what is equal in all of this. Equal maps give back the map.

    Args:
        min_overlap: Two things with a larger IoU can be one.
    """

    def __init__(self, *, min_overlap: float) -> None:
        self._min_overlap = min_overlap
        self._views = 0
        self._things: list[_Thing] = []
        self._stuff: dict[int, _Stuff] = {}
        self._like: Tensor | None = None
        self._void = torch.zeros(0, 0, dtype=torch.int16)

    def add(
        self, output: tuple[Tensor, Sequence[Mapping[str, Any]] | None], *, flipped: bool
    ) -> None:
        """Count one view: ids (H, W) with void where no segment has them, and the segments."""
        on_device, segments = output
        if segments is None:
            raise ValueError(
                "test-time augmentation needs the segments of panoptic_seg, and the model gives"
                " None: set TEST.AUG.ENABLED False"
            )
        ids = (on_device.flip(-1) if flipped else on_device).cpu()
        if self._like is None:
            self._like = on_device.new_empty(0)
            self._void = torch.zeros(ids.shape, dtype=torch.int16)
        covered = torch.zeros(ids.shape, dtype=torch.bool)
        for position, info in enumerate(segments):
            mask = ids == info["id"]
            covered |= mask
            self._add_segment((self._views, position), info, mask)
        self._void += ~covered
        self._views += 1

    def result(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """Ids (H, W) from 1, 0 for void, and ``id``, ``isthing`` and ``category_id`` of each.

        Things whose segments all have a ``score`` have its mean over all views.
        """
        if self._like is None:
            raise RuntimeError("no view was added")
        things = self._agreed_things()
        winners = self._winners(things)
        won = torch.bincount(winners.flatten() + 1, minlength=len(things) + 1).tolist()[1:]
        enough = [
            thing
            for thing, area in zip(things, won[: len(things)], strict=True)
            if area >= _SMALLEST_PART * _total_area(thing) / len(thing)
        ]
        if len(enough) < len(things):
            # Those that stay lose nothing by it, so that once is enough.
            things, winners = enough, self._winners(enough)
        return self._numbered(things, winners)

    def _add_segment(self, place: tuple[int, int], info: Mapping[str, Any], mask: Tensor) -> None:
        category = int(info["category_id"])
        if not info["isthing"]:
            if category not in self._stuff:
                self._stuff[category] = _Stuff(place, mask.shape)
            self._stuff[category].votes += mask
            return
        region = cut_regions(mask[None])[0]
        if region.area:
            self._things.append(_Thing(place, category, info.get("score"), region))

    def _agreed_things(self) -> list[list[_Thing]]:
        """Segments of each thing that half of the views see, the strongest first."""
        segments = self._things
        clusters = find_clusters(
            [thing.place[0] for thing in segments],
            [thing.category for thing in segments],
            [thing.region.area for thing in segments],
            lambda one, other: overlap(segments[one].region, segments[other].region),
            min_overlap=self._min_overlap,
        )
        agreed = [
            [segments[item] for item in cluster]
            for cluster in clusters
            if 2 * len(cluster) >= self._views
        ]
        return sorted(agreed, key=lambda thing: (-len(thing), -_total_area(thing)))

    def _ordered_stuff(self) -> list[tuple[int, _Stuff]]:
        """Stuff classes, the largest first."""
        return sorted(self._stuff.items(), key=lambda item: -int(item[1].votes.sum()))

    def _winners(self, things: Sequence[Sequence[_Thing]]) -> Tensor:
        """Number (H, W) of what wins a pixel, things then stuff; -1 for void."""
        most = torch.zeros_like(self._void)
        winners = torch.full(most.shape, -1, dtype=torch.long)
        for number, thing in enumerate(things):
            _challenge(most, winners, _votes(thing, most.shape), number)
        for number, (_, stuff) in enumerate(self._ordered_stuff(), start=len(things)):
            _challenge(most, winners, stuff.votes, number)
        _challenge(most, winners, self._void, -1)
        return winners

    def _numbered(
        self, things: Sequence[Sequence[_Thing]], winners: Tensor
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """Number what has pixels in the order in which it was first seen."""
        described: list[tuple[tuple[int, int], dict[str, Any]]] = [
            (min(segment.place for segment in thing), self._describe(thing)) for thing in things
        ]
        described += [
            (stuff.place, {"isthing": False, "category_id": category})
            for category, stuff in self._ordered_stuff()
        ]
        areas = torch.bincount(winners.flatten() + 1, minlength=len(described) + 1).tolist()[1:]
        present = [number for number, area in enumerate(areas) if area]
        segments: list[dict[str, Any]] = []
        # The table's last entry, which the index -1 finds, is for void.
        table = torch.zeros(len(described) + 1, dtype=torch.long)
        for number in sorted(present, key=lambda number: described[number][0]):
            table[number] = len(segments) + 1
            segments.append({"id": len(segments) + 1, **described[number][1]})
        assert self._like is not None
        return table[winners].to(self._like), segments

    def _describe(self, thing: Sequence[_Thing]) -> dict[str, Any]:
        info: dict[str, Any] = {"isthing": True, "category_id": thing[0].category}
        scores = [segment.score for segment in thing if segment.score is not None]
        if len(scores) == len(thing):
            info["score"] = sum(scores) / self._views
        return info


def _votes(thing: Sequence[_Thing], size: Sequence[int]) -> Tensor:
    votes = torch.zeros(tuple(size), dtype=torch.int16)
    for segment in thing:
        add_votes(votes, segment.region)
    return votes


def _challenge(most: Tensor, winners: Tensor, votes: Tensor, number: int) -> None:
    """Give, in place, the pixels to ``number`` where it has more votes than all before."""
    better = votes > most
    most[better] = votes[better]
    winners[better] = number


def _total_area(thing: Sequence[_Thing]) -> int:
    return sum(segment.region.area for segment in thing)
