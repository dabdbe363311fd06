"""Sampling feature maps of several sizes at places that every query chooses itself.

One operator (:mod:`.operators`) with a form for CPUs (:mod:`.rows`, its gradients in
:mod:`.gradients`), one in standard operators for exporters, other devices and second derivatives
(:mod:`.sampled`), and a way to kernels for GPUs (:mod:`.compiled`).

Shapes used throughout this package::

    value      (B, S, heads, D)                  the maps, flattened row by row, one after another
    shapes     [(H, W), ...]                     their sizes; S is the sum of H * W
    locations  (B, Q, heads, levels, points, 2)  x, y; 0 and 1 are the outer edges of a map
    weights    (B, Q, heads, levels, points)     of the samples
    output     (B, Q, heads * D)
"""

from freqfusion.layers.deformable.compiled import is_installed, sample_with_deformops
from freqfusion.layers.deformable.operators import attend

__all__ = ["attend", "is_installed", "sample_with_deformops"]
