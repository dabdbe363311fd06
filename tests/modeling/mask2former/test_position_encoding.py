import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freqfusion.modeling.mask2former.attention_layers import (
    SinePositionEncoding,
    sine_position_encoding,
)


def by_loops(size, channels):
    """One number after the other, in double precision."""
    result = torch.zeros(channels, *size, dtype=torch.float64)
    half = channels // 2
    for y in range(size[0]):
        for x in range(size[1]):
            for axis, (index, length) in enumerate(((y, size[0]), (x, size[1]))):
                for k in range(half):
                    wave = 10000 ** (2 * (k // 2) / half)
                    phase = (index + 1) / (length + 1e-6) * 2 * math.pi / wave
                    value = math.cos(phase) if k % 2 else math.sin(phase)
                    result[axis * half + k, y, x] = value
    return result


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 9))
def test_is_the_loop(height, width, half):
    actual = sine_position_encoding((height, width), 2 * half)
    expected = by_loops((height, width), 2 * half)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, atol=2e-6, rtol=0)


def test_quarters_by_hand():
    """Four columns are at 1/4, 1/2, 3/4 and 1 of a turn; the only row is at a whole turn."""
    encoding = sine_position_encoding((1, 4), 4)
    row_sine, row_cosine, column_sine, column_cosine = encoding[:, 0]
    near = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(row_sine, torch.zeros(4), **near)
    torch.testing.assert_close(row_cosine, torch.ones(4), **near)
    torch.testing.assert_close(column_sine, torch.tensor([1.0, 0, -1, 0]), **near)
    torch.testing.assert_close(column_cosine, torch.tensor([0.0, -1, 0, 1]), **near)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_module_follows_the_map(dtype):
    module = SinePositionEncoding(channels=6)
    assert not module.state_dict()
    encoding = module(torch.zeros(2, 9, 3, 5, dtype=dtype))
    assert encoding.dtype == dtype
    assert torch.equal(encoding, sine_position_encoding((3, 5), 6).to(dtype))
    assert "channels=6" in repr(module)


def test_errors():
    for channels in (0, 3, -2):
        with pytest.raises(ValueError, match=f"positive even number.*got {channels}"):
            SinePositionEncoding(channels=channels)
    with pytest.raises(ValueError, match=r"at least \(1, 1\), got \(0, 3\)"):
        sine_position_encoding((0, 3), 4)
