import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from freqfusion.data.synthetic.rle import compress, decode, decompress, encode, run_lengths

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


def test_hand_derived_runs():
    """Down the columns of [[0, 1], [1, 1], [0, 0]]: 0 1 0 1 1 0, so runs 1 1 1 2 1."""
    mask = np.array([[0, 1], [1, 1], [0, 0]], dtype=bool)
    assert encode(mask, compressed=False) == {"size": [3, 2], "counts": [1, 1, 1, 2, 1]}


def test_a_leading_foreground_has_an_empty_background():
    assert run_lengths(np.ones((2, 3), dtype=bool)).tolist() == [0, 6]
    assert run_lengths(np.zeros((2, 3), dtype=bool)).tolist() == [6]


def test_hand_derived_characters():
    """Runs 1 40 1 38: from the fourth on the difference to two before, here 38 - 40 = -2.

    1 -> chr(48 + 1) = "1". 40 = 0b01_01000: low bits 8 and more follow, chr(48 + 8 + 32) = "X",
    then 1 = "1". -2 in five bits is 30, and the sign bit is set: chr(48 + 30) = "N".
    """
    assert compress(np.array([1, 40, 1, 38])) == "1X11N"
    assert decompress("1X11N").tolist() == [1, 40, 1, 38]


@given(MASKS)
def test_round_trip(mask):
    np.testing.assert_array_equal(decode(encode(mask)), mask)
    np.testing.assert_array_equal(decode(encode(mask, compressed=False)), mask)


@given(MASKS)
def test_same_string_as_pycocotools(mask):
    coco = pytest.importorskip("pycocotools.mask")
    reference = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode(mask) == {
        "size": list(reference["size"]),
        "counts": reference["counts"].decode("ascii"),
    }


@given(st.lists(st.integers(0, 2**40), max_size=30))
def test_large_runs(runs):
    assert decompress(compress(np.array(runs, dtype=np.int64))).tolist() == runs


def test_damaged_runs():
    with pytest.raises(ValueError, match="cover 5 pixels, but a 2x3 mask has 6"):
        decode({"size": [2, 3], "counts": [2, 3]})
    with pytest.raises(ValueError, match="end within a number"):
        decompress("1X")
