"""Similarity to one point: known angles, the obvious form, padding, and messages."""

import pytest
import torch
import torch.nn.functional as F

from freqfusion.analysis import point_similarity


def test_known_angles():
    """Cells (1,0), (1,1), (0,2), (-3,0): cosines with the first are 1, 1/sqrt 2, 0, -1."""
    features = torch.tensor([[[1.0, 1.0], [0.0, -3.0]], [[0.0, 1.0], [2.0, 0.0]]])
    found = point_similarity(features, (0.1, 0.2), (4, 4))
    half = 2**-0.5
    expected = torch.tensor(
        [[1, 1, half, half], [1, 1, half, half], [0, 0, -1, -1], [0, 0, -1, -1]]
    ).double()
    torch.testing.assert_close(found, expected)
    # The second cell of the lower row; a point on the border belongs to the last cell.
    for point in ((0.5, 0.5), (1.0, 1.0)):
        torch.testing.assert_close(point_similarity(features, point, (2, 2))[1, 1].item(), 1.0)
        torch.testing.assert_close(point_similarity(features, point, (2, 2))[0, 0].item(), -1.0)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_resized_map_in_the_obvious_way(mode):
    """Of a padded map, the part that shows the image is 6 of 8 rows and 5 of 10 columns."""
    features = torch.randn(7, 8, 10, generator=torch.Generator().manual_seed(0))
    found = point_similarity(features, (0.9, 0.3), (24, 20), covered=(0.75, 0.5), mode=mode)
    resized = F.interpolate(features[None].double(), (32, 40), mode=mode)[0, :, :24, :20]
    chosen = features[:, int(0.3 * 6), int(0.9 * 5)].double()
    expected = F.cosine_similarity(resized, chosen[:, None, None], dim=0)
    torch.testing.assert_close(found, expected)


def test_silence_resembles_nothing():
    assert not point_similarity(torch.zeros(3, 4, 4), (0.5, 0.5), (8, 8)).any()


@pytest.mark.parametrize(
    ("features", "point", "message"),
    [
        (torch.zeros(1, 3, 4, 4), (0.5, 0.5), "channels x height x width"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), (0.5, 0.5), "floating point"),
        (torch.full((3, 4, 4), torch.nan), (0.5, 0.5), "nan or infinity"),
        (torch.zeros(3, 4, 4), (0.5, 1.1), "from 0 to 1 on both axes"),
        (torch.zeros(3, 4, 4), (float("nan"), 0.5), "from 0 to 1 on both axes"),
    ],
)
def test_messages(features, point, message):
    with pytest.raises(ValueError, match=message):
        point_similarity(features, point, (8, 8))
