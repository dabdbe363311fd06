"""How cases are cut into programs: everything is covered, and the limits are kept."""

import importlib.util
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freqfusion.layers.neighbourhood import Geometry

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from freqfusion.layers.neighbourhood.fused import plan

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))
CASES = {
    "size": SIZES,
    "out_size": SIZES,
    "whole": st.booleans(),
    "kernel_size": st.sampled_from([1, 3, 5, 7, 9, 11]),
    "scale": st.integers(1, 5),
    "images": st.integers(1, 64),
    "channels": st.integers(1, 2048),
    "channels_last": st.booleans(),
}


def is_power_of_two(number):
    return number > 0 and number & (number - 1) == 0


@given(**CASES)
def test_programs_cover_pixels_and_channels_within_limits(
    size, out_size, whole, kernel_size, scale, **options
):
    g = Geometry(kernel_size, scale=scale)
    if whole:
        out_size = (size[0] * scale, size[1] * scale)
    gather = plan.plan_gather(size, out_size, g, **options)
    correlate = plan.plan_correlate(size, out_size, g, **options)
    scatter = plan.plan_scatter(size, size, out_size, g, **options)
    for p, lattice in ((gather, out_size), (correlate, out_size), (scatter, size)):
        for axis in (0, 1):
            assert p.tiles[axis] * p.tile[axis] * p.sub >= lattice[axis]
            # No tile is empty, and none is twice as long as what it covers.
            assert (p.tiles[axis] - 1) * p.tile[axis] < p.base[axis]
            assert p.tile[axis] < 2 * p.base[axis]
        assert all(map(is_power_of_two, (*p.tile, p.block)))
        assert p.block < 2 * options["channels"]
        assert p.warps in (1, 2, 4, 8)
    for p in (gather, scatter):
        assert p.block * p.chunks * p.parts >= options["channels"]
        columns = plan.scatter_columns(size[1], out_size[1]) if p is scatter else p.sub**2
        assert p.block * math.prod(p.tile) * columns <= 64 * 128
    taps = plan.next_power_of_two(kernel_size**2)
    assert taps * math.prod(correlate.tile) * correlate.sub**2 * correlate.block <= 4096


def test_offsets_must_fit_32_bits():
    """Strides count, not sizes; an expanded tensor is small, and the batch has 64 bits."""

    def fits(size, stride):
        return plan.can_be_indexed(torch.empty_strided(size, stride, device="meta"))

    assert fits((1, 1 << 20, 1 << 20, 1 << 20), (0, 0, 0, 0))
    assert fits((9, 1, 1, 2), (1 << 30, 1, 1, 1))
    assert fits((1, 1, 2, 2), (0, 0, (1 << 30) - 2, 1))
    assert not fits((1, 1, 2, 2), (0, 0, 1 << 30, 1))
