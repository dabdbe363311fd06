"""Weighted sums over a pixel's neighbourhood, with weights that differ from pixel to pixel.

Three operators that are each other's derivatives (:mod:`.operators`): what they are in plain torch
(:mod:`.plain`), compiled for a CPU (:mod:`.compiled`) and as Triton kernels (:mod:`.fused`).

Shapes used throughout this package::

    features  (B, C, H, W)            what is read
    kernels   (B, G * k * k, Ho, Wo)  one k x k window of weights per output pixel and channel group
    values    (B, C, Ho, Wo)          what is written (or its gradient)
"""

from freqfusion.layers.neighbourhood.geometry import Geometry
from freqfusion.layers.neighbourhood.operators import correlate, gather, scatter

__all__ = ["Geometry", "correlate", "gather", "scatter"]
