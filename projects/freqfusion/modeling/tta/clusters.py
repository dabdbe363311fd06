"""Which objects of different views are one object."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence


def find_clusters(
    views: Sequence[int],
    labels: Sequence[Hashable],
    ranks: Sequence[float],
    overlap: Callable[[int, int], float],
    *,
    min_overlap: float,
) -> list[list[int]]:
    """Groups of objects of one label that overlap, with at most one object of each view.

    The best objects come first, equal ones in their order. Each joins the group whose first object
    it overlaps most, if that is more than ``min_overlap``, or begins one. Two objects of one view
    never meet: the model holds them apart, so that views that agree give back what they have.

    Args:
        views: Of each object, the view that it was seen in.
        labels: What must be equal within a group.
        ranks: The larger, the earlier.
        overlap: Of two objects by their numbers, 0 to 1.
        min_overlap: 0 to 1.

    Returns:
        The numbers of the objects of each group, the first ones of the groups in falling rank.
    """
    groups: dict[Hashable, list[list[int]]] = {}
    found: list[list[int]] = []
    for item in sorted(range(len(views)), key=lambda number: -ranks[number]):
        same = groups.setdefault(labels[item], [])
        best, best_overlap = None, min_overlap
        for group in same:
            if all(views[member] != views[item] for member in group):
                value = overlap(item, group[0])
                if value > best_overlap:
                    best, best_overlap = group, value
        if best is None:
            same.append([item])
            found.append(same[-1])
        else:
            best.append(item)
    return found
