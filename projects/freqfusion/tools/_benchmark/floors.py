"""The least work of each case: what must cross the memory once, and what must be computed.

Bytes count every input as read once and every result as written once, in float32, and nothing in
between, as if all else stayed in the cache. Operations count a multiply-add as two. With C
channels, p pixels of the coarse map and q = 4 p of the fine one; no machine can do with less.
"""

from freqfusion.tools._benchmark.suite import Floor, Size

_FLOAT = 4
_LOW, _HIGH, _SIMILAR = 25, 9, 9
_COMPRESSED, _GROUPS = 64, 4


def reassembly_floor(size: Size, case: str) -> Floor:
    """Forward: C p features and 25 q kernels in, C q values out; a multiply-add per tap and value.

    Backward: C q gradients and both inputs in, both gradients out; two products of the same size.
    """
    coarse, fine = _pixels(size)
    inputs, values = size.channels * coarse + _LOW * fine, size.channels * fine
    numbers, operations = inputs + values, 2 * _LOW * values
    if "backward" in case:
        numbers, operations = numbers + values + 2 * inputs, 3 * operations
    return Floor(_FLOAT * numbers, operations)


def fusion_floor(size: Size, case: str) -> Floor:
    """Both maps in, both filtered maps and the low-pass kernels out; backward as for reassembly.

    Multiply-adds: compression to 64 channels; 3 x 3 convolutions to 25 + 9 logits on both maps;
    filtering the compressed fine map (9), the coarse logits (25 taps of 34 maps), the coarse map
    (25) and the fine map (9); similarities with 8 neighbours and the norm; 3 x 3 convolutions to 64
    (coarse) and 16 (fine) offsets and scales; 4 corners of each sample. Three times that with
    gradients.
    """
    coarse, fine = _pixels(size)
    inputs = size.channels * (coarse + fine)
    results = 2 * size.channels * fine + _LOW * fine
    both, guide = coarse + fine, _COMPRESSED + 8
    products = (
        size.channels * _COMPRESSED * both
        + 9 * _COMPRESSED * (_LOW + _HIGH) * both
        + (_HIGH * _COMPRESSED + _LOW * (_LOW + _HIGH)) * fine
        + (_LOW + _HIGH) * size.channels * fine
        + _SIMILAR * _COMPRESSED * both
        + 9 * guide * (16 * _GROUPS * coarse + 4 * _GROUPS * fine)
        + 4 * size.channels * fine
    )
    numbers, operations = inputs + results, 2 * products
    if "backward" in case:
        numbers, operations = numbers + results + 2 * inputs, 3 * operations
    return Floor(_FLOAT * numbers, operations)


def deformable_floor(size: Size, case: str) -> Floor:
    """Values in and out, three numbers for each of 12 samples in 8 heads; 4 corners per sample.

    Backward: the gradient and the inputs in, gradients of all inputs out.
    """
    coarse, fine = _pixels(size)
    queries = coarse // 4 + coarse + fine
    values, samples = size.channels * queries, 8 * 12 * 3 * queries
    numbers, operations = 2 * values + samples, 2 * 4 * 12 * values
    if "backward" in case:
        numbers, operations = numbers + values + 2 * (values + samples), 3 * operations
    return Floor(_FLOAT * numbers, operations)


def demodulation_floor(size: Size, case: str) -> Floor:
    """Two numbers of displacement and C of features in, C out, for every pixel of the fine map.

    Operations: finding a place takes one step of Newton's at least, about 40; reading it takes 4
    corners. Backward: gradients in and out, and the corners once more.
    """
    _, fine = _pixels(size)
    numbers = (2 + 2 * size.channels) * fine
    operations = (40 + 8 * size.channels) * fine
    if "backward" in case:
        numbers += 2 * size.channels * fine
        operations += 8 * size.channels * fine
    return Floor(_FLOAT * numbers, operations)


def panoptic_quality_floor(size: Size, case: str) -> Floor:
    """Two maps of 32-bit ids in; one comparison of each pixel with the one before, on both."""
    height, width = size.image
    return Floor(2 * 4 * height * width, 2 * height * width)


def data_floor(size: Size, case: str) -> Floor:
    """Three bytes of colour in and out and one byte of label in, eight out; nothing to compute.

    The files are compressed, and unpacking them takes most of the time.
    """
    height, width = size.image
    return Floor((3 + 3 + 1 + 8) * height * width, 0)


def _pixels(size: Size) -> tuple[int, int]:
    coarse = size.height * size.width
    return coarse, 4 * coarse
