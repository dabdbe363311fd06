"""Feature similarity by hand, against slow loops, and its properties."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from freqfusion.analysis import FeatureSimilarity, similarity_maps
from freqfusion.analysis import similarity as similarity_module
from freqfusion.analysis.running import Moments
from freqfusion.analysis.similarity import ResizedMap, split_pixels

VOID = 255
CLASSES = 4


def scene(seed, size=(9, 11), channels=5):
    """Blocks of classes, some void, and features of half the size around a vector of each class."""
    random = np.random.default_rng(seed)
    blocks = random.choice([0, 1, 2, 3, VOID], size=(4, 4), p=[0.3, 0.3, 0.2, 0.1, 0.1])
    labels = np.kron(blocks, np.ones((3, 3), dtype=int))[: size[0], : size[1]]
    features = random.normal(size=(channels, (size[0] + 1) // 2, (size[1] + 1) // 2))
    return torch.from_numpy(features).float(), labels


def slow_scores(images, edge_width, needed):
    """The definitions in loops; (N,) lists of mean and std of intra, inter, margin; error rates."""
    intra, inter, margin = ([[] for _ in range(CLASSES)] for _ in range(3))
    wrong, seen = [0] * CLASSES, [set() for _ in range(CLASSES)]
    for number, (features, labels) in enumerate(images):
        height, width = labels.shape
        pixels = [(y, x) for y in range(height) for x in range(width)]
        full = F.interpolate(features[None].double(), size=(height, width), mode="bilinear")[0]
        band = slow_band(labels, edge_width) if edge_width else set(pixels)
        centers = {}
        for label in range(CLASSES):
            own = [p for p in pixels if labels[p] == label and (not edge_width or p not in band)]
            if own:
                centers[label] = torch.stack([full[:, y, x] for y, x in own]).mean(0)
                seen[label].add(number)
        for first in centers:
            for second in centers:
                if first < second:
                    inter[first].append(cosine(centers[first], centers[second]))
        for y, x in sorted(band):
            label = labels[y, x]
            if label not in centers:
                continue
            mine = cosine(full[:, y, x], centers[label])
            others = [cosine(full[:, y, x], c) for key, c in centers.items() if key != label]
            intra[label].append(mine)
            if others:
                margin[label].append(mine - max(others))
                wrong[label] += max(others) > mine
    rates = [wrong[n] / len(intra[n]) if intra[n] else math.nan for n in range(CLASSES)]
    counted = [n for n in range(CLASSES) if len(seen[n]) >= needed and intra[n]]
    return intra, inter, margin, rates, counted


def slow_band(labels, width):
    height, columns = labels.shape

    def at(y, x):
        y, x = abs(y), abs(x)
        y = y if y < height else 2 * (height - 1) - y
        x = x if x < columns else 2 * (columns - 1) - x
        return int(labels[y, x])

    def near(y, x, marked):
        low, high = width // 2, width - 1 - width // 2
        return any(
            (y + dy, x + dx) in marked
            for dy in range(-low, high + 1)
            for dx in range(-low, high + 1)
        )

    pixels = [(y, x) for y in range(height) for x in range(columns)]
    edges = {
        (y, x)
        for y, x in pixels
        if at(y - 1, x) + at(y + 1, x) + at(y, x - 1) + at(y, x + 1) != 4 * at(y, x)
    }
    void = {p for p in pixels if labels[p] == VOID}
    return {p for p in pixels if near(*p, edges) and not near(*p, void)}


def cosine(first, second):
    return float(first @ second / (first.norm() * second.norm()))


def measure(images, **settings):
    similarity = FeatureSimilarity(CLASSES, **settings)
    for features, labels in images:
        similarity.update(features, labels)
    return similarity


def assert_same(found, wanted, **tolerance):
    assert found.images == wanted.images
    assert found.pixels.tolist() == wanted.pixels.tolist()
    assert found.errors.tolist() == wanted.errors.tolist()
    assert found.error_counts.tolist() == wanted.error_counts.tolist()
    for name in ("intra", "inter", "margin"):
        mine, other = getattr(found, name), getattr(wanted, name)
        for part in ("mean", "std", "counts"):
            values = getattr(mine, part), getattr(other, part)
            np.testing.assert_allclose(*values, atol=1e-9, err_msg=f"{name} {part}")


@pytest.mark.parametrize("edge_width", [0, 2, 3])
def test_against_loops(edge_width):
    images = [scene(seed) for seed in range(3)]
    result = measure(images, edge_width=edge_width).result()
    intra, inter, margin, rates, counted = slow_scores(images, edge_width, 2)
    assert sum(map(len, intra)) > 20
    for found, wanted in ((result.intra, intra), (result.inter, inter), (result.margin, margin)):
        for label in range(CLASSES):
            values = np.array(wanted[label])
            mean = values.mean() if values.size else math.nan
            std = values.std(ddof=1) if values.size > 1 else math.nan
            assert found.mean[label] == pytest.approx(mean, abs=1e-9, nan_ok=True)
            assert found.std[label] == pytest.approx(std, abs=1e-9, nan_ok=True)
    assert result.error_rates.tolist() == pytest.approx(rates, nan_ok=True)
    assert np.flatnonzero(result.error_counts).tolist() == counted
    assert result.class_error_rate == pytest.approx(np.mean([rates[n] for n in counted]))


def test_by_hand():
    """Two pixels (1, 0) of class 0; (0, 1) and (1, 0) of class 1.

    Centers (1, 0) and (1, 1) / 2, whose cosine is r = 1 / sqrt 2. Class 0: own 1, other r. Class 1:
    own r and r; other 0 and 1, so the second is nearer to class 0.
    """
    features = torch.tensor([[[1.0, 1.0, 0.0, 1.0]], [[0.0, 0.0, 1.0, 0.0]]])
    result = measure([(features, np.array([[0, 0, 1, 1]]))]).result()
    r = math.sqrt(0.5)
    nan = [math.nan, math.nan]
    assert result.intra.mean.tolist() == pytest.approx([1, r, *nan], nan_ok=True)
    assert result.intra.std.tolist() == pytest.approx([0, 0, *nan], nan_ok=True)
    assert result.intra.overall == pytest.approx((1 + r) / 2)
    assert result.inter.mean.tolist() == pytest.approx([r, math.nan, *nan], nan_ok=True)
    assert result.inter.overall == pytest.approx(r)
    assert math.isnan(result.inter.overall_std), "one pair has no spread"
    assert result.margin.mean.tolist() == pytest.approx([1 - r, r - 0.5, *nan], nan_ok=True)
    assert result.margin.std[1] == pytest.approx(math.sqrt(0.5)), "of r and r - 1"
    assert result.error_rates.tolist() == pytest.approx([0, 0.5, *nan], nan_ok=True)
    assert (result.class_error_rate, result.pixel_error_rate) == (0.25, 0.25)


def test_maps_by_hand():
    """As above, with a void pixel."""
    features = torch.tensor([[[1.0, 1.0, 0.0, 1.0, 7.0]], [[0.0, 0.0, 1.0, 0.0, 7.0]]])
    maps = similarity_maps(features, torch.tensor([[0, 0, 1, 1, VOID]]))
    r = math.sqrt(0.5)
    assert maps.own[0].tolist() == pytest.approx([1, 1, r, r, math.nan], nan_ok=True)
    margins = [1 - r, 1 - r, r, r - 1, math.nan]
    assert maps.margin[0].tolist() == pytest.approx(margins, nan_ok=True)
    assert maps.nearer_to_another.tolist() == [[False, False, False, True, False]]
    assert maps.measured.tolist() == [[True, True, True, True, False]]
    assert maps.classes.tolist() == [0, 1]
    assert maps.between == pytest.approx(np.array([[1, r], [r, 1]]))


@pytest.mark.parametrize("edge_width", [0, 3])
def test_all_void(edge_width):
    """Nothing to measure: counts of 0 and nan; beside another image it changes nothing."""
    void = (scene(0)[0], np.full((9, 11), VOID))
    result = measure([void], edge_width=edge_width).result()
    assert (result.images, result.pixels.sum(), result.errors.sum()) == (0, 0, 0)
    values = [
        *(getattr(result, name).overall for name in ("intra", "inter", "margin")),
        *(result.class_error_rate, result.pixel_error_rate, result.intra.overall_std),
    ]
    assert all(math.isnan(value) for value in values)
    with_void = measure([void, scene(1)], edge_width=edge_width).result()
    assert_same(with_void, measure([scene(1)], edge_width=edge_width).result())


def test_min_images():
    """Class 1 is in one image of two: said by class, left out of the mean unless asked for."""
    random = np.random.default_rng(0)
    both, alone = np.zeros((4, 6), dtype=int), np.zeros((4, 6), dtype=int)
    both[:, 3:] = 1
    images = [(torch.from_numpy(random.normal(size=(3, 4, 6))), one) for one in (both, alone)]
    result, lenient = measure(images).result(), measure(images, min_images=1).result()
    assert result.intra.counts.tolist() == [True, False, False, False]
    assert result.intra.overall == result.intra.mean[0]
    assert lenient.intra.overall == pytest.approx(result.intra.mean[:2].mean())
    assert lenient.margin.counts.tolist() == [True, True, False, False]
    assert not result.margin.counts.any(), "class 0 has a margin in one image only"
    assert result.class_error_rate == result.error_rates[0]


def test_errors_count_images_with_a_center():
    """Class 2 lies on a boundary in one image of two only, but has a center in both."""
    images = [scene(0)[0]] * 2
    labels = [np.full((9, 11), 2), np.full((9, 11), 2)]
    labels[0][:, :5] = 0
    result = measure(list(zip(images, labels, strict=True)), edge_width=3).result()
    assert result.images == 1
    features, other = scene(1)[0], np.zeros((9, 11), dtype=int)
    other[:, 5:] = 1
    three = [*zip(images, labels, strict=True), (features, other)]
    result = measure(three, edge_width=3).result()
    assert result.images == 2
    assert result.intra.counts.tolist() == [True, False, False, False]
    assert result.error_counts.tolist() == [True, False, True, False]


def test_ties_are_no_errors():
    """Where all features are the same no class is nearer, and rounding decides nothing."""
    features = torch.full((3, 5, 6), 0.1)
    features[1] = 0.7
    result = measure([(features, scene(0)[1])]).result()
    assert result.errors.sum() == 0
    assert result.margin.overall == pytest.approx(0, abs=1e-12)
    random = torch.Generator().manual_seed(0)
    for seed in range(20):  # means of other numbers of pixels, which round in other ways
        same = torch.rand(7, 1, 1, generator=random).expand(7, 5, 6)
        assert measure([(same, scene(seed)[1])]).result().errors.sum() == 0
    zeros = measure([(torch.zeros(3, 5, 6), scene(0)[1])]).result()
    assert zeros.intra.overall == 0
    assert zeros.errors.sum() == 0


@settings(max_examples=25)
@given(seeds=st.lists(st.integers(0, 9), min_size=2, max_size=5), edge=st.sampled_from([0, 3]),
       data=st.data())  # fmt: skip
def test_order_does_not_matter(seeds, edge, data):
    images = [scene(seed) for seed in seeds]
    wanted = measure(images, edge_width=edge).result()
    shuffled = data.draw(st.permutations(images))
    assert_same(measure(shuffled, edge_width=edge).result(), wanted)


@settings(max_examples=25)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), edge=st.sampled_from([0, 2]))
def test_scale_does_not_matter(seed, scale, edge):
    features, labels = scene(seed)
    scaled = (features.double() * scale, labels)
    wanted = measure([(features, labels)], edge_width=edge).result()
    assert_same(measure([scaled], edge_width=edge).result(), wanted)


@settings(max_examples=25)
@given(seed=st.integers(0, 99))
def test_turned_and_mirrored_features_are_the_same(seed):
    """A rotation of the channels keeps all angles; a mirrored image has the same pixels."""
    features, labels = scene(seed, size=(8, 10))
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)))[0]
    wanted = measure([(features, labels)]).result()
    turned = torch.einsum("dc,chw->dhw", turn.double(), features.double())
    np.testing.assert_allclose(
        measure([(turned, labels)]).result().intra.mean, wanted.intra.mean, atol=1e-6
    )
    mirrored = (features.flip(-1), labels[:, ::-1].copy())
    assert_same(measure([mirrored]).result(), wanted)


@settings(max_examples=25)
@given(
    before=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    after=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    mode=st.sampled_from(["bilinear", "nearest"]),
    piece=st.sampled_from([1, 30, 2**22]),
)
def test_resizing_is_that_of_torch(before, after, mode, piece):
    """For any sizes, and in pieces of any number of rows and channels."""
    features = torch.randn(3, *before, dtype=torch.float64)
    wanted = F.interpolate(features[None], size=after, mode=mode)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity_module, "_PIECE", piece)
        check_resized(ResizedMap(features, after, mode=mode), wanted)


def check_resized(found, wanted):
    """Its products with the axes are its channels; so are lengths and sums those of the map."""
    axes = torch.eye(len(wanted), dtype=torch.float64)
    _, products, lengths = zip(*found.products(axes), strict=True)
    torch.testing.assert_close(torch.cat(products, dim=1), wanted)
    torch.testing.assert_close(torch.cat(lengths), wanted.norm(dim=0))
    place = torch.randint(-1, 2, wanted.shape[1:])
    sums = [wanted[:, place == number].sum(1) for number in (0, 1)]
    torch.testing.assert_close(found.sums(place, 2), torch.stack(sums))


def test_covered_part_is_that_before_padding():
    """What an image padded to twice its height and 4/3 of its width has in its corner."""
    features = torch.randn(2, 4, 8, dtype=torch.float64)
    wanted = F.interpolate(features[None], size=(12, 16), mode="bilinear")[0, :, :6, :12]
    check_resized(ResizedMap(features, (6, 12), (0.5, 0.75)), wanted)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), width=st.integers(1, 5))
def test_band(seed, width):
    random = np.random.default_rng(seed)
    size = random.integers(1, 8, size=2)
    labels = random.choice([0, 1, 2, VOID], size=size, p=[0.4, 0.3, 0.2, 0.1])
    measured, centered = split_pixels(torch.from_numpy(labels), width, VOID)
    wanted = slow_band(labels, width) if min(size) > 1 else None
    if wanted is not None:
        assert {tuple(p) for p in measured.nonzero().tolist()} == wanted
    assert not (measured & centered).any()
    assert not (measured | centered)[torch.from_numpy(labels == VOID)].any()


def test_band_by_hand():
    """The two pixels at the boundary; one wider each side with 4; void takes away what is near."""
    row = [[0, 0, 0, 0, 1, 1, 1, 1]] * 3

    def columns(labels, width):
        return split_pixels(torch.tensor(labels), width, VOID)[0][1].int().tolist()

    assert columns(row, 1) == [0, 0, 0, 1, 1, 0, 0, 0]
    assert columns(row, 3) == [0, 0, 1, 1, 1, 1, 0, 0]
    row = [[0, 0, 0, 0, 1, 1, VOID, VOID]] * 3
    assert columns(row, 3) == [0, 0, 1, 1, 1, 0, 0, 0]


def test_moments_keep_their_digits():
    """A spread of 1e-4 around 1e6, in one series of two, in uneven parts."""
    random = np.random.default_rng(0)
    values, series = 1e6 + 1e-4 * random.normal(size=1000), random.integers(0, 2, size=1000)
    moments = Moments(3)
    for part in (slice(0, 1), slice(1, 17), slice(17, 17), slice(17, 1000)):
        moments.add(values[part], series[part])
    for number in (0, 1):
        wanted = values[series == number]
        assert moments.mean()[number] == pytest.approx(wanted.mean(), rel=1e-14)
        assert moments.std()[number] == pytest.approx(wanted.std(ddof=1), rel=1e-4)
    assert math.isnan(moments.mean()[2])


def test_work_is_that_of_the_map_not_of_the_labels():
    """64 channels at the size of the labels, 128 MiB in float64, are never made."""
    import torch.utils._python_dispatch as dispatch

    largest = 0

    class Watch(dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            out = function(*arguments, **(keywords or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    labels = np.kron(np.random.default_rng(0).integers(0, 4, (8, 8)), np.ones((64, 64), dtype=int))
    with Watch():
        maps = similarity_maps(torch.randn(64, 32, 32), labels)
    assert maps.own.shape == labels.shape
    assert 0 < largest <= 2**22 < 64 * labels.size


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(1, 2, 3, 3), np.zeros((3, 3), int), "features must be channels x height x wi"),
        (torch.zeros(2, 3, 3, dtype=torch.long), np.zeros((3, 3), int), "in floating point, not"),
        (torch.zeros(2, 3, 3), np.zeros((1, 3, 3), int), "labels must be height x width of whole"),
        (torch.zeros(2, 3, 3), np.zeros((3, 3)), r"whole numbers, not torch\.float64"),
        (torch.full((2, 3, 3), math.nan), np.zeros((3, 3), int), "nan or infinity"),
        (torch.zeros(2, 3, 3), np.array([[0, 4, -1]]), r"unexpected label -1, 4: allowed"),
    ],
)  # fmt: skip
def test_wrong_input_counts_nothing(features, labels, message):
    similarity = FeatureSimilarity(CLASSES)
    with pytest.raises(ValueError, match=message):
        similarity.update(features, labels)
    assert similarity.result().images == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be 1 or more, not 0"),
        ({"num_classes": 3, "edge_width": -1}, "edge_width must be 0 or more, not -1"),
        ({"num_classes": 3, "min_images": 0}, "min_images must be 1 or more"),
        ({"num_classes": 3, "ignore_label": 2}, r"ignore_label 2 is one of the classes 0\.\.2"),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureSimilarity(**arguments)


def test_wrong_mode_part_and_width():
    features, labels = scene(0)
    with pytest.raises(ValueError, match="mode"):
        similarity_maps(features, labels, mode="cubic")
    with pytest.raises(ValueError, match="covered must be two parts above 0 and up to 1"):
        similarity_maps(features, labels, covered=(0.0, 1.0))
    with pytest.raises(ValueError, match="edge_width must be 0"):
        similarity_maps(features, labels, edge_width=-2)
