"""The compiled operators: every type, format and ratio against plain torch and against loops."""

import fused_cases
import pytest
import torch

from freqfusion.layers import deformable_attention, reassemble, sample_at_offsets
from freqfusion.layers.neighbourhood import Geometry, compiled, plain
from freqfusion.layers.sampling import lattice_pixels, sample_on_grid

pytestmark = pytest.mark.skipif(compiled.library() is None, reason=compiled.problem())

# Larger than a tile in both directions, so that tiles have to join without seams.
LARGE = [
    ((21, 150), (42, 300), Geometry(5, scale=2)),
    ((40, 131), (40, 131), Geometry(3, margin=1)),
    ((11, 50), (32, 149), Geometry(3, scale=3, dilation=2, groups=2)),
    ((33, 260), (17, 130), Geometry(3)),
]


@pytest.mark.parametrize("last", [False, True], ids=["default", "channels_last"])
@pytest.mark.parametrize("dtype", fused_cases.DTYPES, ids=str)
def test_all_types_and_formats(dtype, last):
    for case in fused_cases.CASES:
        fused_cases.check_against_torch(compiled, case, dtype=dtype, last=last)


def test_all_combinations():
    for case in fused_cases.GRID:
        fused_cases.check_against_torch(compiled, case)
    for case in fused_cases.GRID[::8]:
        fused_cases.check_against_loops(compiled, case)


def test_cropped_multiples_against_loops():
    """Where the rule of a whole multiple and that of other ratios give other source pixels."""
    cases = [
        ((size, (4 * size[0] - 1, 4 * size[1] - cropped), Geometry(3, scale=4)))
        for size in ((3, 4), (5, 7))
        for cropped in (1, 2, 3)
    ]
    for case in (*cases, ((2, 3), (5, 8), Geometry(5, scale=3))):
        fused_cases.check_against_loops(compiled, case)
        fused_cases.check_against_loops(plain, case)


@pytest.mark.parametrize("case", LARGE, ids=fused_cases.name_of)
def test_tiles_join_without_seams(case):
    fused_cases.check_against_torch(compiled, case, channels=1, batch=1)


def test_more_channels_than_are_taken_at_a_time():
    for dtype in (torch.float32, torch.float64):
        fused_cases.check_against_torch(compiled, fused_cases.CASES[4], channels=70, dtype=dtype)


@pytest.mark.parametrize("case", fused_cases.CASES[4:6], ids=fused_cases.name_of)
def test_derivatives_of_first_and_second_order(case):
    fused_cases.check_derivatives(case, "compiled")


def test_both_gradients_in_one_pass_are_those_of_two():
    for case in (*fused_cases.CASES, *LARGE):
        features, kernels, values = fused_cases.example(case, channels=5, dtype=torch.float32)
        spread, products = compiled.gradients(values, features, kernels, case[-1])
        assert (spread == compiled.scatter(values, kernels, features.shape[-2:], case[-1])).all()
        assert (products == compiled.correlate(values, features, case[-1])).all()


def test_bits_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    inputs = fused_cases.example(LARGE[0], channels=9, dtype=torch.float32)
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(fused_cases.run(compiled, *inputs, LARGE[0][-1]))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert (one == other).all()


# Channels, groups, size of the map and of the output: more channels than are taken at a time, fewer
# than a vector has, odd sizes, a map of two pixels, more columns than a block has.
SAMPLED = [
    (6, 2, (5, 7), (5, 7)),
    (70, 1, (4, 6), (9, 11)),
    (32, 4, (7, 150), (3, 301)),
    (3, 3, (1, 2), (2, 3)),
]


def sampled(kernels, monkeypatch, inputs, grad):
    """Values and gradients by one form, whatever the number of threads is."""
    monkeypatch.setenv("FREQFUSION_KERNELS", kernels)
    features, offsets = (one.detach().requires_grad_() for one in inputs)
    output = sample_at_offsets(features, offsets)
    return (output.detach(), *torch.autograd.grad(output, (features, offsets), grad))


@pytest.mark.parametrize("last", [False, True], ids=["default", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SAMPLED, ids=str)
def test_sampling_at_offsets_is_that_of_torch(case, dtype, last, monkeypatch):
    """For any number of threads to the bit; in the format of the features."""
    channels, groups, size, out_size = case
    layout = torch.channels_last if last else torch.contiguous_format
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, channels, *size, generator=random).to(dtype)
    features = features.contiguous(memory_format=layout)
    # Away from the pixels' centers, where gradients jump and rounding decides.
    ratio = torch.tensor([out_size[1] / size[1], out_size[0] / size[0]]).view(2, 1, 1, 1)
    lattice = lattice_pixels(out_size).permute(2, 0, 1)[:, None]
    shape = (2, 2, groups, *out_size)
    pixels = (lattice / ratio).floor() + torch.randint(-2, 3, shape, generator=random)
    pixels = pixels + 0.2 + 0.6 * torch.rand(shape, generator=random, dtype=torch.float64)
    offsets = (pixels + 0.5) * ratio - lattice - 0.5
    offsets = offsets.to(torch.float64 if dtype == torch.float64 else torch.float32)
    grad = torch.randn(2, channels, *out_size, generator=random).to(dtype)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(sampled("compiled", monkeypatch, (features, offsets), grad))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))
    assert found[0][0].is_contiguous(memory_format=layout)
    wide = features.double(), offsets.double()
    expected = sampled("torch", monkeypatch, wide, grad.double())
    # Rounding the coordinates of the last columns costs 2e-5 of a pixel, times differences of all
    # channels in the gradients of offsets.
    limits = {torch.float64: [1e-10] * 3, torch.float32: [5e-5, 5e-5, 1e-3]}
    for one, other, limit in zip(found[0], expected, limits.get(dtype, [1e-2] * 3), strict=True):
        torch.testing.assert_close(one.double(), other, atol=limit, rtol=limit)


def test_a_place_that_does_not_exist_is_nan_and_has_no_gradient(monkeypatch):
    """As by torch; the gradients of all else are those without it."""
    features, offsets = torch.randn(1, 4, 5, 6), torch.rand(1, 2, 2, 5, 6)
    offsets[0, 0, 1, 2, 3] = float("nan")
    offsets[0, 1, 0, 0, 0] = float("inf")
    offsets[0, 0, 0, 4, 5] = -3e38
    values, of_features, of_offsets = sampled(
        "compiled", monkeypatch, (features, offsets), torch.ones(1, 4, 5, 6)
    )
    expected = sample_on_grid(features, offsets)
    torch.testing.assert_close(values, expected, equal_nan=True)
    assert int(values.isnan().sum()) == 2 * 2
    assert of_features.isfinite().all()
    assert of_offsets.isfinite().all()
    assert of_offsets[0, :, 1, 2, 3].eq(0).all()


def test_attention_in_float32_and_half_precision(monkeypatch):
    """Against plain torch in float64, more samples and channels than fit a block, any layout."""
    shapes = [(9, 13), (4, 5)]
    random = torch.Generator().manual_seed(0)
    value = torch.randn(2, 137, 3, 70, generator=random)
    locations = 1.4 * torch.rand(2, 150, 3, 2, 5, 2, generator=random) - 0.2
    weights = torch.rand(2, 3, 150, 2, 5, generator=random).transpose(1, 2)
    grad = torch.randn(2, 150, 210, generator=random)

    def attend(kernels, dtype):
        monkeypatch.setenv("FREQFUSION_KERNELS", kernels)
        inputs = [one.to(dtype).requires_grad_() for one in (value, locations, weights)]
        output = deformable_attention(inputs[0], shapes, *inputs[1:])
        return (output, *torch.autograd.grad(output, inputs, grad.to(dtype)))

    expected = attend("torch", torch.float64)
    for one, other in zip(attend("compiled", torch.float32), expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-3, rtol=1e-4)
    value, locations, weights = (one.bfloat16().float() for one in (value, locations, weights))
    grad = grad.bfloat16().float()
    exact = attend("torch", torch.float64)[:2]
    for one, other in zip(attend("compiled", torch.bfloat16), exact, strict=False):
        torch.testing.assert_close(one.double(), other, atol=0.02, rtol=0.01)


def test_views_are_read_where_they_lie():
    case = fused_cases.CASES[4]
    inputs = fused_cases.example(case, dtype=torch.float32)
    wide = [torch.stack([one, one + 1], -1)[..., 0] for one in inputs]
    turned = [one.transpose(2, 3).contiguous().transpose(2, 3) for one in inputs]
    expected = fused_cases.run(compiled, *inputs, case[-1])
    for views in (wide, turned):
        assert not any(view.is_contiguous() for view in views)
        for one, other in zip(fused_cases.run(compiled, *views, case[-1]), expected, strict=True):
            assert (one == other).all()


def test_mixed_types():
    features, kernels, _ = fused_cases.example(fused_cases.CASES[4])
    geometry = fused_cases.CASES[4][-1]
    found = compiled.gather(features.bfloat16(), kernels.float(), geometry)
    assert found.dtype == torch.bfloat16
    expected = plain.gather(features.bfloat16().float(), kernels.float(), geometry)
    torch.testing.assert_close(found, expected.bfloat16())


def test_what_is_not_finite_stays_where_it_is_read():
    features, kernels = torch.ones(1, 2, 6, 6), torch.ones(1, 9, 6, 6)
    features[0, 0, 0, 0] = float("nan")
    kernels[0, 4, 5, 5] = float("inf")
    found = compiled.gather(features, kernels, Geometry(3))
    assert found[0, 0, :2, :2].isnan().all()
    assert (found[0, :, 5, 5] == float("inf")).all()
    assert int((~found.isfinite()).sum()) == 4 + 2


def test_an_empty_batch():
    features, kernels = torch.zeros(0, 2, 3, 3), torch.zeros(0, 9, 3, 3)
    assert compiled.gather(features, kernels, Geometry(3)).shape == (0, 2, 3, 3)


def test_without_a_compiler_torch_computes(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv("FREQFUSION_KERNELS", raising=False)
    features, kernels = torch.randn(1, 2, 4, 4), torch.randn(1, 9, 4, 4)
    expected = plain.gather(features, kernels, Geometry(3))
    compiled.library.cache_clear()
    try:
        assert compiled.library() is None
        assert "there is no C++ compiler" in compiled.problem()
        assert (reassemble(features, kernels, kernel_size=3) == expected).all()
    finally:
        monkeypatch.undo()
        compiled.library.cache_clear()


def test_a_compiler_that_fails_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_FLAGS", ("-nonsense",))
    assert "-nonsense" in compiled.problem()
    assert not [*tmp_path.rglob("*.so")]
