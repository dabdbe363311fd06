"""Cases for the compiled operators and the Triton kernels, against two references."""

import itertools
import os

import numpy as np
import torch
from oracles import loops

from freqfusion.layers.neighbourhood import Geometry, correlate, gather, plain, scatter

OPERATORS = ("gather", "correlate", "scatter")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

# (height, width) of the features without margin, that of the output, geometry. Among them: odd
# sizes, one pixel, cropped multiples, other ratios, and maps of one more or one less than a tile.
CASES = [
    ((5, 7), (5, 7), Geometry(3)),
    ((3, 33), (3, 33), Geometry(3, groups=2)),
    ((9, 5), (9, 5), Geometry(3, dilation=2)),
    ((11, 10), (11, 10), Geometry(5, dilation=2)),
    ((3, 4), (6, 8), Geometry(5, scale=2)),
    ((3, 4), (5, 7), Geometry(3, scale=2, groups=4)),
    ((4, 5), (7, 10), Geometry(3, scale=2, margin=1)),
    ((1, 1), (2, 2), Geometry(3, scale=2, margin=1)),
    ((1, 1), (1, 1), Geometry(1)),
    ((2, 3), (8, 12), Geometry(3, scale=4)),
    ((2, 3), (5, 8), Geometry(3, scale=3)),
    ((3, 2), (11, 9), Geometry(3, scale=2)),
    ((6, 7), (4, 3), Geometry(3, scale=2)),
    ((3, 3), (6, 4), Geometry(3, scale=2)),
    ((4, 4), (4, 4), Geometry(7)),
]

# For the slow run: every seventh of all combinations of sizes, scales, kernels, groups and borders.
# None of their numbers is a multiple of 7, so that each meets every other.
GRID = [
    (size, (size[0] * scale - cropped, size[1] * scale - cropped), Geometry(*fields, margin=margin))
    for size, scale, kernel_size, groups, margin in itertools.product(
        ((1, 1), (1, 6), (5, 7), (8, 32), (9, 33)), (1, 2, 4), (1, 3, 5, 7), (1, 2, 4), (0, 1)
    )
    for cropped in sorted({0, min(scale - 1, 1)})
    for fields in [(kernel_size, 1, scale, groups)]
][::7]


def name_of(case):
    size, out_size, g = case
    return f"{size[0]}x{size[1]}-{out_size[0]}x{out_size[1]}-" + "-".join(map(str, g))


def example(case, *, channels=3, batch=2, dtype=torch.float64, device="cpu", last=False):
    """Random features, kernels and values; ``channels`` in each group."""
    (height, width), out_size, g = case
    margin = 2 * g.margin
    shapes = (
        (batch, channels * g.groups, height + margin, width + margin),
        (batch, g.groups * g.taps, *out_size),
        (batch, channels * g.groups, *out_size),
    )
    random = torch.Generator().manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    return tuple(
        torch.randn(shape, generator=random).to(device, dtype).contiguous(memory_format=layout)
        for shape in shapes
    )


def run(form, features, kernels, values, geometry):
    size = (features.shape[-2], features.shape[-1])
    return (
        form.gather(features, kernels, geometry),
        form.correlate(values, features, geometry),
        form.scatter(values, kernels, size, geometry),
    )


def check_against_torch(fused, case, **options):
    """The dtype of the torch way, and one rounding of each number besides."""
    inputs = example(case, **options)
    actual = run(fused, *inputs, case[-1])
    stated = run(plain, *inputs, case[-1])
    exact = run(plain, *(t.double() for t in inputs), case[-1])
    size = run(plain, *(t.double().abs() for t in inputs), case[-1])
    for name, a, s, e, z in zip(OPERATORS, actual, stated, exact, size, strict=True):
        assert (a.dtype, a.shape) == (s.dtype, s.shape), name
        summing = torch.finfo(torch.float64 if a.dtype == torch.float64 else torch.float32).eps
        # Each number is a sum whose rounding errors grow with its terms, rounded once more.
        tolerance = torch.finfo(a.dtype).eps * e.abs() + 64 * summing * z
        assert ((a.double() - e).abs() <= tolerance + torch.finfo(a.dtype).tiny).all(), name


def check_against_loops(fused, case, **options):
    inputs = example(case, **options)
    expected = loops.trilinear(*(t.cpu().numpy() for t in inputs), case[-1])
    for actual, wanted in zip(run(fused, *inputs, case[-1]), expected, strict=True):
        np.testing.assert_allclose(actual.cpu(), wanted, atol=1e-12)


def check_derivatives(case, form, **options):
    """Values, gradients and gradients of gradients of the operators: a form against torch."""
    inputs = [t.requires_grad_() for t in example(case, **options)]
    features, kernels, values = inputs
    size = (features.shape[-2], features.shape[-1])
    g = case[-1]
    results = {}
    for choice in ("torch", form):
        os.environ["FREQFUSION_KERNELS"] = choice
        try:
            outputs = (
                gather(features, kernels, g),
                correlate(values, features, g),
                scatter(values, kernels, size, g),
            )
            total = sum(output.square().sum() for output in outputs)
            first = torch.autograd.grad(total, inputs, create_graph=True)
            second = torch.autograd.grad(sum(o.square().sum() for o in first), inputs)
        finally:
            del os.environ["FREQFUSION_KERNELS"]
        results[choice] = (*outputs, *first, *second)
    torch.testing.assert_close(results[form], results["torch"], rtol=1e-10, atol=1e-10)
