import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from freqfusion.metrics import id_to_rgb, rgb_to_id


def test_known_values():
    """1 is red, 256 green, 65536 blue; 0x0A0B0C = 658188 has blue 10, green 11, red 12."""
    ids = np.array([[0, 1, 256], [65536, 658188, 256**3 - 1]])
    colors = [
        [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
        [[0, 0, 1], [12, 11, 10], [255, 255, 255]],
    ]
    assert id_to_rgb(ids).tolist() == colors
    assert rgb_to_id(np.array(colors, dtype=np.uint8)).tolist() == ids.tolist()


@given(
    hnp.arrays(
        st.sampled_from([np.int32, np.int64, np.uint32]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
        elements=st.integers(0, 256**3 - 1),
    )
)
def test_round_trip(ids):
    colors = id_to_rgb(ids)
    assert colors.shape == (*ids.shape, 3)
    assert colors.dtype == np.uint8
    np.testing.assert_array_equal(rgb_to_id(colors), ids)


@pytest.mark.parametrize("wrong", [-1, 256**3])
def test_ids_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"0..16777215.*{wrong}"):
        id_to_rgb(np.array([5, wrong]))


def test_wrong_types():
    with pytest.raises(ValueError, match="integers, not float64"):
        id_to_rgb(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="uint8"):
        rgb_to_id(np.zeros((2, 2, 3), dtype=np.int32))
    with pytest.raises(ValueError, match="RGB"):
        rgb_to_id(np.zeros((2, 2), dtype=np.uint8))
