"""Random points from a record, in the place of a random generator."""


class RecordedPoints:
    """A source of points that returns recorded arrays in their order, and keeps no other."""

    def __init__(self, points):
        self.left = list(points)

    @classmethod
    def of(cls, case):
        """The points of a case of the reference data that has ``rand_order``."""
        recorded = case.group("rand")
        return cls(recorded[name] for name in case.entry["rand_order"])

    def __call__(self, sets, points, device):
        assert self.left, "more random points were asked for than were recorded"
        drawn = self.left.pop(0)
        assert drawn.shape == (sets, points, 2)
        return drawn.to(device)
