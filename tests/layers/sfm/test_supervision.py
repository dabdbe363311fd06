"""Edge targets and the attention's loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from freqfusion.layers.sfm.displacement import modulate
from freqfusion.layers.sfm.mapping import Mapping, MappingStack
from freqfusion.layers.sfm.supervision import (
    attention_edge_loss,
    edge_distribution,
    semantic_edge_target,
    warp_edge_target,
)


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def columns_of(edge):
    """The marked columns of the only image; all rows must agree."""
    assert edge.shape[:2] == (1, 1)
    assert (edge == edge[:, :, :1]).all()
    return edge[0, 0, 0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("width", "marked"), [(1, [4, 5]), (3, [3, 4, 5, 6]), (5, [2, 3, 4, 5, 6, 7])]
)
def test_half_planes(width, marked):
    """Invariant 22: one pixel of each class, and (width - 1) / 2 more on each side."""
    label = torch.zeros(1, 6, 10, dtype=torch.long)
    label[..., 5:] = 3
    edge = semantic_edge_target(label, width=width)
    assert edge.dtype == torch.float32
    assert edge.unique().tolist() == [0, 1]
    assert columns_of(edge) == marked
    down = semantic_edge_target(label.mT, width=width)
    assert columns_of(down.mT) == marked


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_ignored_pixels_make_no_edges(dtype):
    """Invariant 22: neither with a class beside them nor between two classes."""
    label = torch.zeros(1, 5, 9, dtype=dtype)
    label[..., 4], label[..., 5:] = 255, 2
    assert semantic_edge_target(label).sum() == 0
    assert columns_of(semantic_edge_target(label, ignore_index=254, width=1)) == [3, 4, 5]
    assert semantic_edge_target(torch.full((2, 5, 9), 255)).sum() == 0


def test_edges_against_a_loop():
    label = torch.randint(0, 3, (1, 8, 7), generator=torch.Generator().manual_seed(4))
    label[label == 2] = 255
    expected = torch.zeros(8, 7)
    for i in range(8):
        for j in range(7):
            for y, x in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= y < 8 and 0 <= x < 7:
                    pair = {label[0, i, j].item(), label[0, y, x].item()}
                    expected[i, j] += len(pair) == 2 and 255 not in pair
    found = semantic_edge_target(label, width=1)[0, 0]
    assert torch.equal(found, (expected > 0).float())


def test_loss_by_hand():
    """Two pixels, an edge on one, floor 1: Q = (2/3, 1/3); even logits: P = (1/2, 1/2).

    KL = 2/3 ln(4/3) + 1/3 ln(2/3). At mean one, P is (1, 1) and Q (4/3, 2/3): MSE = 1/9.
    """
    logits, edge = torch.zeros(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    divergence = attention_edge_loss(logits, edge, floor=1)
    assert divergence.shape == ()
    expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert divergence.item() == pytest.approx(expected, abs=1e-5)
    assert attention_edge_loss(logits, edge, kind="mse", floor=1).item() == pytest.approx(
        1 / 9, abs=1e-5
    )


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_loss_is_least_at_the_target(kind):
    """Invariant 22: zero where the attention's distribution is the target, positive elsewhere."""
    edge = (random(3, 1, 9, 8) > 0.7).float()
    target = edge_distribution(edge)
    torch.testing.assert_close(target.sum(dim=(1, 2, 3)), torch.ones(3))
    # A shift of all logits changes nothing.
    exact = target.log() + torch.tensor([0.0, 4, -7]).view(3, 1, 1, 1)
    assert attention_edge_loss(exact, edge, kind=kind).item() == pytest.approx(0, abs=1e-6)
    for seed in range(5):
        other = exact + random(3, 1, 9, 8, seed=seed)
        assert attention_edge_loss(other, edge, kind=kind) > 1e-3


def test_gradient_is_the_difference_of_the_distributions():
    """Of the KL divergence; over the batch it is a mean."""
    edge = (random(2, 1, 6, 7) > 0.6).float()
    logits = random(2, 1, 6, 7, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(attention_edge_loss(logits, edge), logits)
    found = logits.detach().flatten(1).softmax(dim=1).view_as(edge)
    torch.testing.assert_close(gradient, (found - edge_distribution(edge)) / 2)


def test_image_without_edges_pulls_towards_even_attention():
    """Invariant 18: also with labels that are ignored all over."""
    label = torch.full((1, 16, 16), 255)
    edge = warp_edge_target(semantic_edge_target(label), (4, 4))
    assert attention_edge_loss(torch.zeros(1, 1, 4, 4), edge).item() == pytest.approx(0, abs=1e-6)
    logits = random(1, 1, 4, 4).requires_grad_()
    loss = attention_edge_loss(logits, edge)
    assert loss.isfinite()
    (gradient,) = torch.autograd.grad(loss, logits)
    # Downhill, large logits fall and small ones rise.
    centred = logits.detach() - logits.detach().mean()
    assert (gradient * centred).sum() > 0


def test_first_stage_only_averages():
    edge = (random(2, 1, 12, 16) > 0.5).float()
    for mappings in (None, MappingStack()):
        found = warp_edge_target(edge, (3, 4), mappings)
        torch.testing.assert_close(found, F.avg_pool2d(edge, 4))


@pytest.mark.parametrize("align_corners", [False, True])
def test_target_is_warped_as_the_features_were(align_corners):
    """Without downsampling, the map of the second stage sees the edges that it sees features."""
    displacement = (2 * random(2, 2, 9, 11) - 1).requires_grad_()
    mapping = Mapping(displacement, align_corners, 1, 0, (9, 11))
    edge = (random(2, 1, 9, 11, seed=2) > 0.6).float()
    found = warp_edge_target(edge, (9, 11), MappingStack([mapping]))
    assert not found.requires_grad
    torch.testing.assert_close(found, modulate(edge, displacement.detach()), rtol=0, atol=1e-5)


def test_target_crosses_the_downsampling_at_its_phase():
    """Pixel j of a map behind a 3 x 3 convolution of stride 2 lies on pixel 2 j of the lattice.

    An edge on column 4 of 8 is at 1/4 of the averages over columns 4 and 5, column 2 of 4. At
    phase 0, pixel j is read at (2 j + 0.5) / 2 - 0.5 = j - 0.25 of the averages: 3/4 of the value
    at j = 2, 1/4 at j = 3. At phase 0.5 all stays where it is.
    """
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4] = 1
    still = torch.zeros(1, 2, 8, 8)
    for phase, expected in ((0.0, [0, 0, 0.375, 0.125]), (0.5, [0, 0, 0.5, 0])):
        stack = MappingStack([Mapping(still, False, 2, phase, (4, 4))])
        found = warp_edge_target(edge, (4, 4), stack)
        torch.testing.assert_close(found, torch.tensor(expected).expand(1, 1, 4, 4))
