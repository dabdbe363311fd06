"""The three operators are derivatives of one trilinear form, whatever lattices they join."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freqfusion.layers.neighbourhood import shifted
from freqfusion.layers.neighbourhood.geometry import Geometry

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(
    size=sizes,
    out_size=sizes,
    kernel_size=st.sampled_from([1, 3, 5]),
    dilation=st.integers(1, 2),
    scale=st.integers(1, 3),
    groups=st.integers(1, 2),
    margin=st.integers(0, 3),
    tile=st.sampled_from([1, 30, 1 << 17]),
)
def test_shifted_operators_are_adjoint(
    size, out_size, kernel_size, dilation, scale, groups, margin, tile
):
    """Also where tiles are so small that each holds some lines and channels."""
    geometry = Geometry(kernel_size, dilation, scale, groups, margin)
    padded = tuple(length + 2 * margin for length in size)
    features = torch.randn(2, 4, *padded, dtype=torch.float64)
    kernels = torch.randn(2, geometry.taps * groups, *out_size, dtype=torch.float64)
    values = torch.randn(2, 4, *out_size, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_TILE_ELEMENTS", "_SUMS_ELEMENTS", "_KERNEL_ELEMENTS"):
            patch.setattr(shifted, name, tile)
        form = (shifted.gather(features, kernels, geometry) * values).sum()
        by_scatter = (shifted.scatter(values, kernels, padded, geometry) * features).sum()
        by_correlate = (shifted.correlate(values, features, geometry) * kernels).sum()
    torch.testing.assert_close(by_scatter, form)
    torch.testing.assert_close(by_correlate, form)
