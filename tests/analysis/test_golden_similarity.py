"""Feature similarity against the reference runs of set E."""

import golden_data
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from freqfusion.analysis import FeatureSimilarity
from freqfusion.metrics.cityscapes_labels import IGNORED_TRAIN_ID, TRAIN_ID_OF_ID

pytestmark = pytest.mark.golden

CLASSES = 19
CLIPPED_CHANNELS = 256
CASES = [pytest.param(case, id=case.id) for case in golden_data.cases("E", "feat_")]


def labels_of(case, number):
    """Train ids at ``gt_size``, by the nearest pixel to the upper left."""
    ids = case.group("in")[f"labelIds_{number}"].numpy()
    rows, columns = (
        np.arange(new) * old // new
        for new, old in zip(case.ctor["gt_size"], ids.shape, strict=True)
    )
    labels = TRAIN_ID_OF_ID[ids[rows][:, columns]].astype(np.int64)
    return np.where((labels < 0) | (labels >= CLASSES), IGNORED_TRAIN_ID, labels)


def features_of(case, number):
    """The map of an image; several are brought to the size of the labels and joined."""
    inputs = case.group("in")
    names = sorted(n for n in inputs if n.startswith("feature_") and n.endswith(f"_{number}"))
    maps = [inputs[name] for name in names]
    if case.ctor["channel_clip"]:
        maps = [one[:CLIPPED_CHANNELS] for one in maps]
    if len(maps) == 1:
        return maps[0]
    size, mode = tuple(case.ctor["gt_size"]), case.ctor["inter_mode"]
    return torch.cat([F.interpolate(one[None].double(), size=size, mode=mode)[0] for one in maps])


def images_of(case):
    found = sum(name.startswith("labelIds_") for name in case.group("in"))
    return range(min(found, case.ctor["num"]))


def measure(case):
    similarity = FeatureSimilarity(
        CLASSES, edge_width=case.ctor["edge_k"], mode=case.ctor["inter_mode"]
    )
    for number in images_of(case):
        maps = similarity.update(features_of(case, number), labels_of(case, number))
    return similarity.result(), maps


def by_class(values):
    numbers = np.flatnonzero(values.counts)
    return {str(n): {"mean": values.mean[n], "std": values.std[n]} for n in numbers}


@pytest.mark.parametrize("case", CASES)
def test_scores(case):
    result, _ = measure(case)
    expected, tolerance = case.entry["expected"], case.entry["tolerance"]["similarities"]

    def near(value):
        return pytest.approx(value, abs=tolerance["atol"], rel=tolerance["rtol"])

    for name, values in (("intra", result.intra), ("inter", result.inter)):
        found, wanted = by_class(values), expected[f"{name}_per_class"]
        assert found.keys() == wanted.keys()
        for number, one in wanted.items():
            assert found[number] == near(one), f"{name} of class {number}"
        assert values.overall == near(expected[f"{name}_mean_over_classes"])
        assert values.overall_std == near(expected[f"{name}_std_mean_over_classes"])
    rates = {str(n): result.error_rates[n] for n in np.flatnonzero(result.error_counts)}
    wanted = {n: one["error_rate"] for n, one in expected["error_per_class"].items()}
    assert rates == pytest.approx(wanted, rel=1e-12)
    class_right = expected["printed_as_pixel_average__is_class_mean_right_rate"]
    pixel_right = expected["printed_as_category_average__is_pixel_accuracy"]
    assert result.class_error_rate == pytest.approx(1 - class_right, rel=1e-9)
    assert result.pixel_error_rate == pytest.approx(1 - pixel_right, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_counts(case):
    """Also those of classes in one image only, which the overall scores leave out."""
    result, _ = measure(case)
    for found, name in ((result.errors, "error_pixels"), (result.pixels, "all_pixels")):
        wanted = np.zeros(CLASSES, dtype=int)
        for number, counts in case.entry["expected_raw"][name].items():
            wanted[int(number)] = sum(counts)
        assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("case", CASES)
def test_last_image(case):
    """The pixels that are measured and that make the centers, and the values of the pairs."""
    _, maps = measure(case)
    last = images_of(case)[-1]
    middle = {name: image.numpy() for name, image in case.group("mid").items()}
    wanted = np.isin(middle["last_image_evaluated_labels"], maps.classes)
    assert (maps.measured == wanted).all()
    assert set(maps.classes) == set(np.unique(middle["last_image_center_labels"])) - {255}
    assert (maps.labels == labels_of(case, last)).all()
    lower, higher = np.triu_indices(len(maps.classes), 1)
    pairs = case.entry["expected_raw"]["inter_values"]
    for number in np.unique(maps.classes[lower]):
        found = maps.between[lower, higher][maps.classes[lower] == number]
        wanted = pairs[str(number)][-len(found) :]
        assert sorted(found) == pytest.approx(sorted(wanted), abs=2e-6, rel=1e-5)


def test_what_the_reference_cannot_do():
    """It fails on a single image; that counts every class that it has."""
    failures = golden_data.FOLDER / "E" / "expected_failures.json"
    assert "a single image" in failures.read_text(encoding="utf-8")
    case = CASES[0].values[0]
    similarity = FeatureSimilarity(CLASSES, mode=case.ctor["inter_mode"])
    similarity.update(features_of(case, 0), labels_of(case, 0))
    result = similarity.result()
    present = np.unique(labels_of(case, 0))
    assert np.flatnonzero(result.intra.counts).tolist() == present[present < 255].tolist()
    assert 0 <= result.class_error_rate <= 1
    assert -1 <= result.inter.overall < result.intra.overall <= 1
