"""Figures of lattices and attention: what is drawn lies where it should."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from PIL import Image
from sfm_models import chain

from freqfusion.analysis import attention_figure, lattice_figure
from freqfusion.analysis.sfm_figures import attention_in_image, lattice_nodes
from freqfusion.layers.sfm import Mapping, MappingStack

IMAGE = np.full((64, 96, 3), 120, dtype=np.uint8)
SIZE = (64, 96)


def still(height, width, phase=0.5):
    return Mapping(torch.zeros(1, 2, height, width), False, 2, phase, (height // 2, width // 2))


def saved(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=50)
    with Image.open(tmp_path / "figure.png") as picture:
        return np.asarray(picture.convert("RGB"))


def test_nodes_of_the_first_stage():
    """A map of 16 x 24 over 64 x 96: node (row, column) at 4 * index + 1.5."""
    mapping = still(16, 24)
    mapping.displacement[:, 0, 3, 5] = 0.5
    nodes = lattice_nodes(MappingStack(), mapping, SIZE)
    assert nodes.shape == (16, 24, 2)
    assert torch.allclose(nodes[0, 0], torch.tensor([1.5, 1.5]), atol=1e-4)
    assert torch.allclose(nodes[3, 5], torch.tensor([4 * 5.5 + 1.5, 13.5]), atol=1e-4)


@pytest.mark.parametrize(("phase", "first"), [(0.5, 3.5), (0.0, 1.5)])
def test_nodes_behind_a_stage(phase, first):
    """Pixel j of the second map lies at 2 j + phase of the first, whose pixels are 4 j + 1.5."""
    nodes = lattice_nodes(MappingStack([still(16, 24, phase)]), still(8, 12), SIZE)
    assert torch.allclose(nodes[0, 0], torch.tensor([first, first]), atol=1e-4)
    assert torch.allclose(nodes[2, 3], torch.tensor([first + 24, first + 16]), atol=1e-4)


def test_nodes_behind_a_moving_stage():
    """All displacements of a constant (1, 0) pixels of the first map: 4 pixels of the image."""
    moving = Mapping(
        torch.ones(1, 2, 16, 24) * torch.tensor([1.0, 0])[:, None, None], False, 2, 0.5, (8, 12)
    )
    nodes = lattice_nodes(MappingStack([moving]), still(8, 12), SIZE)
    assert torch.allclose(nodes[2, 3], torch.tensor([3.5 + 24 + 4, 3.5 + 16]), atol=1e-3)


def test_lattice_is_thinned(tmp_path):
    stages = [
        ("res2", MappingStack(), still(16, 24)),
        ("res3", MappingStack([still(16, 24)]), still(8, 12)),
    ]
    figure = lattice_figure(IMAGE, stages, most_lines=12)
    counts = [
        len(next(c for c in axis.collections if isinstance(c, LineCollection)).get_segments())
        for axis in figure.axes
    ]
    assert counts == [16 // 2 + 24 // 2, 8 + 12]
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "res2: 16 × 24 samples, 1 line in 2",
        "res3: 8 × 12 samples",
    ]
    assert saved(figure, tmp_path).std() > 1


def test_attention_lies_on_the_image():
    """A peak at pixel (3, 5) of the first map is seen at 4 * (3, 5) + 1.5; its mean stays one."""
    logits = torch.zeros(1, 1, 16, 24)
    logits[..., 3, 5] = 2
    seen = attention_in_image(logits, MappingStack(), SIZE)
    assert seen.shape == SIZE
    rows, columns = (seen == seen.max()).nonzero().double().mean(dim=0).tolist()
    assert (rows, columns) == (13.5, 21.5)
    assert seen.mean().item() == pytest.approx(1, abs=0.01)


def test_attention_of_a_later_stage_is_brought_back():
    """The peak at (row, column) of the second map appears where its node lies in the image."""
    before = chain([(16, 24), (8, 12)], amplitude=1.0)
    logits = torch.zeros(1, 1, 8, 12)
    logits[..., 4, 6] = 2
    seen = attention_in_image(logits, before, SIZE)
    x, y = lattice_nodes(before, still(8, 12), SIZE)[4, 6].tolist()
    row, column = divmod(int(seen.argmax()), 96)
    assert abs(row - y) <= 2
    assert abs(column - x) <= 2
    far = attention_in_image(logits, MappingStack([still(16, 24)]), SIZE)
    assert not torch.allclose(far, seen, atol=0.1)


def test_attention_figure(tmp_path):
    logits = torch.randn(1, 1, 16, 24)
    figure = attention_figure(
        IMAGE,
        [
            ("res2", MappingStack(), logits),
            ("res3", MappingStack([still(16, 24)]), logits[..., :8, :12]),
        ],
    )
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[:3] == ["image", "res2: 16 × 24", "res3: 8 × 12"]
    assert len(figure.axes) == 4, "with a color bar"
    assert saved(figure, tmp_path).std() > 1
    even = attention_figure(IMAGE, [("res2", MappingStack(), torch.zeros(1, 1, 16, 24))])
    saved(even, tmp_path)
