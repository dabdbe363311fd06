"""FLOPs against formulas by hand, and for what must not be hidden.

Symbols: N fine and n coarse pixels, C compressed channels, k low-pass and h high-pass taps, e taps
of the encoders, G groups of the sampler. A multiply-add counts once.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqfusion.analysis import count_flops
from freqfusion.analysis.flops import _DEFORMOPS, deformops_attention
from freqfusion.layers import FreqFusion, local_similarity, reassemble
from freqfusion.layers.deformable import (
    MultiScaleDeformableAttention,
    attend_by_levels,
    deformable_attention,
)
from freqfusion.layers.deformable_convolution import DeformableConvolutionV3


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def flops_of(function, *inputs):
    return count_flops(Calls(function), *inputs).total


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
def test_reassemble(scale, groups):
    """Each of B * C * Ho * Wo values is a sum over k * k taps; groups share kernels, not work.

    2 images of 6 channels at 7x5, taps 5x5: 2 * 6 * 7s * 5s * 25.
    """
    features = torch.randn(2, 6, 7, 5)
    kernels = torch.randn(2, 25 * groups, 7 * scale, 5 * scale)

    def call(features, kernels):
        return reassemble(features, kernels, kernel_size=5, scale=scale, groups=groups)

    assert flops_of(call, features, kernels) == 2 * 6 * 7 * 5 * scale**2 * 25


def test_local_similarity():
    """A dot product over C = 6 with each of 9 taps, and one of inverse norms: 2 * 35 * 9 * 7."""
    assert flops_of(local_similarity, torch.randn(2, 6, 7, 5)) == 2 * 35 * 9 * 7


def test_gradients_of_reassembly_cost_as_much_as_itself():
    """In the features ``scatter``, in the kernels ``correlate``, each B*C*Ho*Wo*k*k, or both."""
    features = torch.randn(1, 4, 3, 5, requires_grad=True)
    kernels = torch.randn(1, 9, 6, 10, requires_grad=True)
    tensors = {"features": features, "kernels": kernels}

    def counted(*wanted):
        def backward():
            with torch.enable_grad():
                maps = [x if name in wanted else x.detach() for name, x in tensors.items()]
                output = reassemble(*maps, kernel_size=3, scale=2)
                torch.autograd.grad(output.sum(), [tensors[x] for x in wanted])

        by_operator = count_flops(Calls(backward)).by_operator
        return {name: n for name, n in by_operator.items() if name.startswith("freqfusion::")}

    once = 4 * 6 * 10 * 9
    assert counted("features") == {"freqfusion::gather": once, "freqfusion::scatter": once}
    assert counted("kernels") == {"freqfusion::gather": once, "freqfusion::correlate": once}
    both = {"freqfusion::gather": once, "freqfusion::gradients": 2 * once}
    assert counted("features", "kernels") == both


def freqfusion_by_hand(*, fine, coarse, hr, lr, compressed, groups):
    """The whole module with all its parts, semi_conv and comp_feat_upsample on, k=25, h=9, e=9.

    compressors          N Ch C + n Cl C
    high-pass generator  N C e h on the fine guide; it is sharpened by reassembly, N C h
    low-pass generator   N C e k on the fine guide
    both on the coarse   n C e (k + h)
    their logits         upsampled with k taps: N k k and N h k
    the maps             coarse upsampled N Cl k, fine filtered N Ch h
    sampler, coarse      similarity n (C + 1) 9, 8G offsets and 8G scales: n (C + 8) e 16G
    sampler, fine        similarity N (C + 1) 9, 2G offsets and 2G scales: N (C + 8) e 4G
    sampling             bilinear, four pixels for each value: N Cl 4
    """
    k, h, e = 25, 9, 9
    return (
        fine * hr * compressed
        + coarse * lr * compressed
        + fine * compressed * (e * h + h + e * k)
        + coarse * compressed * e * (k + h)
        + fine * (k * k + h * k)
        + fine * (lr * k + hr * h)
        + coarse * ((compressed + 1) * 9 + (compressed + 8) * e * 16 * groups)
        + fine * ((compressed + 1) * 9 + (compressed + 8) * e * 4 * groups)
        + fine * lr * 4
    )


@pytest.mark.parametrize("training", [False, True])
def test_freqfusion(training):
    module = FreqFusion(
        hr_channels=24, lr_channels=32, compressed_channels=16, feature_resample=True
    ).train(training)
    count = count_flops(module, torch.randn(1, 24, 11, 13), torch.randn(1, 32, 6, 7))
    expected = freqfusion_by_hand(fine=11 * 13, coarse=6 * 7, hr=24, lr=32, compressed=16, groups=4)
    assert count.total == expected == sum(count.by_operator.values())
    assert not count.unknown
    # What runs inside a part is the part's.
    assert count.by_module["hr_compressor"] == 11 * 13 * 24 * 16
    sampler = 42 * (17 * 9 + 24 * 9 * 64) + 143 * (17 * 9 + 24 * 9 * 16) + 143 * 32 * 4
    assert count.by_module["sampler"] == sampler


def test_deformable_attention():
    """Q queries, S positions, C = 16 channels, 4 heads, 2 levels, 3 points.

    value S C C, offsets Q C 2*24, weights Q C 24, samples Q C L P 4, output Q C C.
    """
    shapes, queries, positions, channels = [(4, 5), (2, 3)], 7, 26, 16
    module = MultiScaleDeformableAttention(
        embed_dim=channels, num_levels=2, num_heads=4, num_points=3
    )
    inputs = (
        torch.randn(2, queries, channels),
        torch.rand(2, queries, 2, 2),
        torch.randn(2, positions, channels),
        shapes,
    )
    count = count_flops(module, *inputs)
    samples = queries * channels * 2 * 3 * 4
    expected = (positions + queries) * channels**2 + queries * channels * 3 * 24 + samples
    assert count.total == 2 * expected
    assert count.by_operator["freqfusion::deformable_attention"] == 2 * samples
    assert not count.unknown
    # The form of other devices has the same samples.
    maps = torch.randn(2, 26, 4, 4), shapes, torch.rand(2, 7, 4, 2, 3, 2), torch.rand(2, 7, 4, 2, 3)
    assert flops_of(attend_by_levels, *maps) == flops_of(deformable_attention, *maps) == 2 * samples


def test_deformable_convolution():
    """N = 30 pixels, C = 8, G = 2 groups of 9 taps.

    depthwise N C 9, offsets N C 2*18, weights N C 18, samples N C 9 * 4, projections 2 N C C.
    """
    module = DeformableConvolutionV3(channels=8, groups=2)
    expected = 30 * 8 * (9 + 3 * 18 + 9 * 4 + 2 * 8)
    assert count_flops(module, torch.randn(1, 5, 6, 8)).total == expected


def test_deformops_is_counted_alike():
    """Its operators are only there with a GPU: the formula alone, on arguments of its schema."""
    shapes = (2, 26, 4, 8), (2, 2), (2,), (2, 7, 4, 2, 3, 2), (2, 7, 4, 6)
    output = torch.empty(2, 7, 32)
    arguments = [torch.empty(shape) for shape in shapes]
    assert deformops_attention(*arguments, out_val=output) == 2 * 7 * 32 * 6 * 4
    names = ("deformops::msda", "deformops_cuda::msda_fp32acc_forward")
    assert all(map(_DEFORMOPS.fullmatch, names))
    assert not _DEFORMOPS.fullmatch("deformops_cuda::msda_fp32acc_backward")


IMAGE, COMPLEX = (2, 3, 5, 6), torch.complex64
# A module or a function, the shapes of its inputs, and its multiply-adds.
COUNTED = {
    # out (2, 6, 5, 4), kernels 4 x 3 x 3
    "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1), [(2, 4, 9, 8)], 240 * 36),
    # out (1, 8, 5, 4), one input channel each
    "grouped": (nn.Conv2d(4, 8, 3, groups=4, dilation=2), [(1, 4, 9, 8)], 160 * 9),
    # in (2, 4, 5, 4), each value spread to 3 channels of 3 x 3
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), [(2, 4, 5, 4)], 160 * 27),
    "linear": (nn.Linear(5, 7), [(3, 2, 5)], 6 * 35),
    # 2 x 3 heads, 6 x 6 pairs, products of 8 with keys and values
    "attention": (F.scaled_dot_product_attention, [(2, 3, 6, 8)] * 3, 6 * 36 * 16),
    "batched": (lambda x: x @ x.mT, [(2, 3, 4, 5)], 6 * 16 * 5),
    # 10 tokens: 4 projections of 8 x 8, pairs of 2 x 5 x 5 x 8 twice, 8 x 16 there and back
    "encoder layer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        [(2, 5, 8)],
        10 * 256 + 2 * 2 * 25 * 8 + 10 * 256,
    ),
    "nearest": (lambda x: F.interpolate(x, (4, 7), mode="nearest"), [IMAGE], 0),
    "bilinear": (lambda x: F.interpolate(x, (4, 7), mode="bilinear"), [IMAGE], 4 * 168),
    "bicubic": (lambda x: F.interpolate(x, (4, 7), mode="bicubic"), [IMAGE], 16 * 168),
    "samples": (
        lambda x, grid: F.grid_sample(x, grid, align_corners=False),
        [IMAGE, (2, 4, 7, 2)],
        4 * 168,
    ),
    # 2.5 N log2 N: 2.5 * 8 * 3 = 60, half of it for real numbers; an image of 4 x 8 has N = 32
    "Fourier": (lambda x: torch.fft.fft(x.to(COMPLEX)), [(8,)], 60),
    "real Fourier": (torch.fft.rfft, [(8,)], 30),
    "Fourier in two": (lambda x: torch.fft.fft2(x.to(COMPLEX)), [(4, 8)], 400),
}


@pytest.mark.parametrize("inference_mode", [False, True])
@pytest.mark.parametrize("name", COUNTED)
def test_by_hand(name, inference_mode):
    function, shapes, expected = COUNTED[name]
    module = function if isinstance(function, nn.Module) else Calls(function)
    inputs = [torch.randn(shape) for shape in shapes]
    with torch.inference_mode(inference_mode):
        count = count_flops(module.eval(), *inputs)
    assert count.total == expected
    assert not count.unknown


def test_operators_of_torchvision():
    """RoIAlign of 4 channels, 5x5 bins, four pixels for each sample; 9 taps deform a convolution.

    With 2x2 samples: 3 boxes * 4 * 25 * 4 * 4. Without a number, a box of 23 wide and 10 high at
    half size has bins of 2.3 by 1 pixels, three samples. Then four pixels for 9 taps of 4 channels,
    and 4 * 9 products for each of 6 channels.
    """
    ops = pytest.importorskip("torchvision.ops", reason="needs torchvision")
    image = torch.randn(1, 4, 16, 16)
    boxes = torch.tensor([[0.0, 1, 1, 24, 11]])
    fixed = flops_of(lambda: ops.roi_align(image, boxes.repeat(3, 1), 5, 0.5, 2, True))
    adaptive = flops_of(lambda: ops.roi_align(image, boxes, 5, 0.5, 0, True))
    assert (fixed, adaptive) == (3 * 4 * 25 * 4 * 4, 4 * 25 * 3 * 4)
    small, offset, weight = image[..., :5, :5], torch.zeros(1, 18, 3, 3), torch.randn(6, 4, 3, 3)
    assert flops_of(lambda: ops.deform_conv2d(small, offset, weight)) == 9 * (36 * 4 + 6 * 36)


class Tree(nn.Module):
    """A part that is called twice, one in a list, a shared one, and work of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.parts = nn.ModuleList([nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU())])
        self.alias = self.first

    def forward(self, x):
        x = self.alias(self.first(x))
        return self.parts[0](x) @ self.first.weight


def test_work_belongs_to_the_innermost_part_and_all_around_it():
    """Each product is 2 * 3 * 3 = 18; the last is done by the module itself."""
    assert count_flops(Tree(), torch.randn(2, 3)).by_module == {
        "": 72,
        "first": 36,
        "parts": 18,
        "parts.0": 18,
        "parts.0.0": 18,
        "parts.0.1": 0,
    }


def test_a_part_that_fails_is_left_nevertheless():
    """The product of 2 * 3 * 3 that the module does instead is its own."""

    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Linear(4, 4)

        def forward(self, x):
            try:
                return self.part(x)
            except RuntimeError:
                return x @ torch.eye(3)

    assert count_flops(Careful(), torch.randn(2, 3)).by_module == {"": 18, "part": 0}


@torch.library.custom_op("freqfusion_test::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x @ x


def test_what_is_not_counted_is_named():
    def call(x):
        return mystery(x.relu().add_(1).t().contiguous()).softmax(0)

    count = count_flops(Calls(call), torch.randn(3, 3))
    assert count.total == 0
    assert count.unknown == {"freqfusion_test::mystery": 1}
    assert set(count.uncounted) == {
        f"aten::{n}" for n in ("relu", "add_", "_softmax", "t", "clone")
    }


def test_leaves_everything_as_it_was():
    def fail(x):
        raise RuntimeError("broken")

    module = nn.Sequential(nn.Linear(3, 3), Calls(fail))
    with pytest.raises(RuntimeError, match="broken"):
        count_flops(module, torch.randn(2, 3))
    for part in module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()
    assert module[0](torch.randn(2, 3)).requires_grad


@pytest.mark.gpu
def test_counts_on_a_gpu_are_those_of_the_cpu():
    module = FreqFusion(
        hr_channels=24, lr_channels=32, compressed_channels=16, feature_resample=True
    )
    attention = MultiScaleDeformableAttention(embed_dim=16, num_levels=1, num_heads=4, num_points=3)
    query, points = torch.randn(1, 7, 16), torch.rand(1, 7, 1, 2)
    for part, inputs in (
        (module, (torch.randn(1, 24, 11, 13), torch.randn(1, 32, 6, 7))),
        (attention, (query, points, torch.randn(1, 20, 16))),
    ):
        rest = [[(4, 5)]] if part is attention else []
        there = count_flops(part.cuda(), *(tensor.cuda() for tensor in inputs), *rest)
        here = count_flops(part.cpu(), *inputs, *rest)
        assert there.by_module == here.by_module
        assert not there.unknown
