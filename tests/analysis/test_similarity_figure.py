"""The figure of similarity maps: panels, scales and captions."""

import numpy as np
import pytest
import torch

from freqfusion.analysis import similarity_figure, similarity_maps

LABELS = np.repeat([[0] * 6 + [1] * 6], 8, axis=0)
PICTURE = np.zeros((8, 12, 3), dtype=np.uint8)
CLASSES = {"sky": (0, 0, 255), "road": (90, 90, 90)}


def maps(seed, labels=LABELS):
    features = torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(seed))
    features[0, :, :3] += 2
    features[1, :, 3:] += 2
    return similarity_maps(features, labels)


def draw(layers, picture=PICTURE, **settings):
    figure = similarity_figure(picture, picture, layers, **settings)
    figure.canvas.draw()
    return figure


def panels(figure):
    """The drawn axes by the first line of their titles and their place."""
    return [axis for axis in figure.axes if axis.images and axis.get_title()]


def test_panels_and_captions():
    one = maps(0)
    figure = draw({"coarse": one, "p2": maps(1)}, classes=CLASSES)
    titles = [axis.get_title() for axis in panels(figure)]
    assert titles[:2] == ["image", f"coarse\nmean {np.nanmean(one.own):.2f}"]
    wrong = 100 * (one.margin < 0).mean()
    assert f"coarse\n{wrong:.1f} % nearer to another" in titles
    assert sorted(t.split("\n")[0] for t in titles) == sorted(
        ["image", "ground truth", *["coarse", "p2"] * 2]
    )
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["sky", "road"]


def test_one_scale_for_a_kind_and_zero_in_the_middle():
    figure = draw({"x": maps(0), "y": maps(1)})
    drawn = {axis.get_title(): axis.images[0].get_clim() for axis in panels(figure)}
    own = {limits for title, limits in drawn.items() if "mean" in title}
    margin = {limits for title, limits in drawn.items() if "nearer" in title}
    assert len(own) == len(margin) == 1
    low, high = margin.pop()
    assert low == -high < 0
    assert own.pop()[1] == 1


def test_ignored_pixels_are_grey():
    labels = LABELS.copy()
    labels[0] = 255
    figure = draw({"x": maps(0, labels)}, classes=CLASSES)
    panel = next(axis for axis in panels(figure) if "mean" in axis.get_title())
    color = panel.images[0].to_rgba(panel.images[0].get_array())[0, 0, :3]
    assert color == pytest.approx([128 / 255] * 3)
    assert panel.images[0].get_array().mask[0].all()


@pytest.mark.parametrize("labels", [np.full((8, 12), 255), np.zeros((8, 12), dtype=int)])
def test_nothing_to_show(labels):
    """All ignored, and one class without a margin, are drawn without a warning."""
    with np.errstate(all="raise"):
        figure = draw({"x": maps(0, labels)})
    notes = [axis.get_title() for axis in panels(figure)]
    assert ("x\nno pixel" in notes) == (labels.min() == 255)


@pytest.mark.parametrize("size", [(8, 12), (8, 16), (12, 8)])
def test_long_names_stay_in_their_panels(size):
    """No caption reaches into the next panel, whatever a layer is called."""
    name = "sem_seg_head.pixel_decoder.adapter_1.something_long@lr_feat"
    labels = np.arange(size[0] * size[1]).reshape(size) % 2
    one = {name: maps(0, labels), name + "2": maps(1, labels)}
    figure = draw(one, np.zeros((*size, 3), dtype=np.uint8), title="scene.jpg")
    boxes = [axis.title.get_window_extent() for axis in panels(figure)]
    boxes += [axis.yaxis.label.get_window_extent() for axis in figure.axes if axis.get_ylabel()]
    boxes = [box for box in boxes if box.width > 0]
    for at, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[at + 1 :])


def test_no_maps():
    with pytest.raises(ValueError, match="no maps to draw"):
        similarity_figure(PICTURE, PICTURE, {})
