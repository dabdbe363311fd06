"""Resampling that replaces inconsistent features by those of consistent neighbours.

The offset generator of FreqFusion: Chen et al., Frequency-aware Feature Fusion for Dense Image
Prediction, TPAMI 2024. Shapes: hr (B, C, Ho, Wo), lr (B, C, H, W), features (B, D, any, any).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.checks import (
    check_choice,
    check_map,
    check_odd,
    check_positive,
    check_same_batch,
)
from freqfusion.layers.convolution import convolve_together, zero_bias
from freqfusion.layers.neighbourhood import Geometry, correlate
from freqfusion.layers.renaming import rename_on_load
from freqfusion.layers.sampling import resize_nearest, sample_at_offsets

SamplerFeatures = Literal["sim_concat", "sim"]
FusionInit = Literal["published", "identity"]
SimilarityMeasure = Literal["cosine", "dot"]

# Names in the research code, by their beginnings, and here.
ORIGINAL_NAMES = {
    "offset.": "lr_offset.",
    "direct_scale.": "lr_scale.",
    "hr_direct_scale.": "hr_scale.",
    "norm_lr.": "lr_norm.",
    "norm_hr.": "hr_norm.",
}
ORIGINAL_BUFFERS = {"init_pos": ""}
# Without learned scales every learned offset is multiplied by this.
_FIXED_SCALE = 0.25
# Norms are kept above this, so that a pixel of zeros resembles nothing instead of giving NaN.
_SMALLEST_NORM = 1e-8


class LocalSimilaritySampler(nn.Module):
    """Sample features at positions predicted from the local similarity of two guides.

    Each output pixel, in each channel group, is read (bilinear, border repeated) at its own place
    plus an offset. Offsets come from a low-resolution guide and a high-resolution guide, are scaled
    by a predicted factor in (0, 1), and are measured in pairs of high-resolution pixels, which is
    one low-resolution pixel at the usual ratio of two. An offset of zero leaves the pixel where it
    is.

    Args:
        channels: C of both guides.
        groups: Channel groups of the features that move independently.
        kernel_size: Width of the convolutions that predict offsets and scales.
        local_window: Odd width, from 3 on, of the neighbourhood that each pixel of a guide is
            compared with, in every second pixel; published weights have 3.
        normalize: Apply group normalisation (``channels // 8`` groups) to each guide first.
        guide_features: What the convolutions see. ``"sim_concat"``: guide and similarities for all
            of them; ``"sim"``: similarities for the offsets, the guide for the scales.
        learn_scale: Predict the factor; otherwise it is 0.25.
        init: ``"published"`` (Xavier, the start of published weights, with offsets of about a
            pixel) or ``"identity"`` (all zero, so that sampling changes nothing until it is
            trained).
    """

    def __init__(
        self,
        *,
        channels: int,
        groups: int = 4,
        kernel_size: int = 3,
        local_window: int = 3,
        normalize: bool = True,
        guide_features: SamplerFeatures = "sim_concat",
        learn_scale: bool = True,
        init: FusionInit = "published",
    ):
        super().__init__()
        check_positive(channels=channels, groups=groups)
        check_odd(kernel_size=kernel_size)
        _check_neighbourhood(local_window=local_window)
        check_choice(SamplerFeatures, guide_features=guide_features)
        check_choice(FusionInit, init=init)
        if normalize and (channels < 8 or channels % (channels // 8)):
            raise ValueError(
                f"group normalisation uses channels // 8 groups, which must divide the channels; "
                f"got {channels} channels: take a multiple of 8, or switch the normalisation off"
            )
        self.channels, self.groups = channels, groups
        self.local_window, self.guide_features = local_window, guide_features
        neighbours = local_window**2 - 1
        offset_in = channels + neighbours if guide_features == "sim_concat" else neighbours
        scale_in = channels + neighbours if guide_features == "sim_concat" else channels
        low, high = 8 * groups, 2 * groups
        padding = kernel_size // 2
        self.lr_offset = nn.Conv2d(offset_in, low, kernel_size, padding=padding)
        self.hr_offset = nn.Conv2d(offset_in, high, kernel_size, padding=padding)
        self.lr_scale = self.hr_scale = None
        if learn_scale:
            self.lr_scale = nn.Conv2d(scale_in, low, kernel_size, padding=padding)
            self.hr_scale = nn.Conv2d(scale_in, high, kernel_size, padding=padding)
        self.lr_norm: nn.Module = nn.Identity()
        self.hr_norm: nn.Module = nn.Identity()
        if normalize:
            self.lr_norm = nn.GroupNorm(channels // 8, channels)
            self.hr_norm = nn.GroupNorm(channels // 8, channels)
        self.init = init
        self.reset_parameters()
        rename_on_load(self, ORIGINAL_NAMES, ORIGINAL_BUFFERS)

    def reset_parameters(self) -> None:
        """Initialise the convolutions as ``init`` says; biases start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if self.init == "published":
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.zeros_(module.weight)
                zero_bias(module)

    def forward(self, hr: Tensor, lr: Tensor, features: Tensor) -> Tensor:
        """Sample ``features`` on the lattice of ``hr``; they may have any size themselves."""
        check_map("features", features)
        if features.shape[1] % self.groups:
            raise ValueError(
                f"groups must divide the channels of the features to sample, got {self.groups} "
                f"groups for {features.shape[1]} channels"
            )
        return sample_at_offsets(features, self.predict_offsets(hr, lr))

    def predict_offsets(self, hr: Tensor, lr: Tensor) -> Tensor:
        """Return offsets in high-resolution pixels, (B, 2, groups, Ho, Wo), x first, then y."""
        for name, guide in (("hr", hr), ("lr", lr)):
            check_map(name, guide, self.channels, like=self.lr_offset.weight)
        check_same_batch(hr=hr, lr=lr)
        hr, lr = self.hr_norm(hr), self.lr_norm(lr)
        size = (hr.shape[-2], hr.shape[-1])
        # A low-resolution pixel predicts for its 2 x 2 output pixels.
        low = F.pixel_shuffle(self._predict(lr, self.lr_offset, self.lr_scale), 2)
        logits = self._predict(hr, self.hr_offset, self.hr_scale) + resize_nearest(low, size)
        if self.lr_scale is None:
            scaled = logits * _FIXED_SCALE
        else:
            offset, scale = logits.chunk(2, dim=1)
            scaled = offset * scale.sigmoid()
        offsets: Tensor = (2 * scaled).unflatten(1, (2, self.groups))
        return offsets

    def _predict(self, guide: Tensor, offset: nn.Conv2d, scale: nn.Conv2d | None) -> Tensor:
        """Return offsets and, after them, the logits of their scales."""
        similarity = local_similarity(guide, kernel_size=self.local_window)
        if self.guide_features == "sim_concat":
            both = torch.cat([guide, similarity], dim=1)
            return convolve_together([offset] if scale is None else [offset, scale], both)
        parts = [offset(similarity)] if scale is None else [offset(similarity), scale(guide)]
        return torch.cat(parts, dim=1)


def local_similarity(
    features: Tensor,
    *,
    kernel_size: int = 3,
    dilation: int = 2,
    measure: SimilarityMeasure = "cosine",
) -> Tensor:
    """Compare every pixel with its neighbours over channels (FreqFusion, section 3.3).

    Args:
        features: (B, C, H, W).
        kernel_size: Odd width of the neighbourhood in taps.
        dilation: Distance between taps in pixels.
        measure: ``"cosine"`` or the plain ``"dot"`` product.

    Returns:
        (B, kernel_size ** 2 - 1, H, W): the neighbours in row-major order without the centre. A
        neighbour outside the image has similarity 0. The dtype is that of ``features``.

    Raises:
        ValueError: for an even ``kernel_size`` or one below 3, or an unknown ``measure``.
    """
    _check_neighbourhood(kernel_size=kernel_size)
    check_positive(dilation=dilation)
    check_choice(SimilarityMeasure, measure=measure)
    check_map("features", features)
    geometry = Geometry(kernel_size, dilation=dilation)
    products = correlate(features, features, geometry)
    centre = kernel_size**2 // 2
    if measure == "cosine":
        # Not unit vectors: the product of every pixel with itself is there already, and dividing
        # products touches fewer numbers than dividing features.
        squares = products[:, centre : centre + 1].clamp_min(_SMALLEST_NORM**2)
        inverse = squares.rsqrt()
        products = products * correlate(inverse, inverse, geometry)
    neighbours = torch.cat([products[:, :centre], products[:, centre + 1 :]], dim=1)
    return neighbours.to(features.dtype)


def _check_neighbourhood(**sizes: int) -> None:
    """Refuse windows that have no centre, or nothing around it."""
    check_odd(**sizes)
    for name, size in sizes.items():
        if size == 1:
            raise ValueError(f"{name} must be at least 3, since a pixel is not its own neighbour")
