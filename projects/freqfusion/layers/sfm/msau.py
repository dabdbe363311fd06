"""Multi-scale adaptive upsampling: demodulate, then relate pixels at several ranges.

Chen et al., Spatial Frequency Modulation for Semantic Segmentation, TPAMI 2025; the order of the
steps follows the published figure, the rest is our design.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import check_map, check_odd, check_positive
from freqfusion.layers.sfm.coordinates import lattice_points_of
from freqfusion.layers.sfm.mapping import MappingStack
from freqfusion.layers.sfm.relation import LocalPixelRelation, replicate_pad
from freqfusion.layers.sfm.upsampling import NonUniformUpsample, resize_bilinear


class MultiScaleAdaptiveUpsampling(nn.Module):
    """Bring modulated logits or features to the original space at any size.

    They are demodulated to a lattice of the image's size over ``out_stride``, averaged there by a
    cascade of relation modules, and resized bilinearly. What the modules average with is predicted
    from a guide, usually the decoder's features.

    Args:
        guide_channels: Channels of the guide.
        dilations: One relation module each, in this order; without any the features are only
            demodulated and resized, and the guide is not read.
        kernel_size: Odd width of their neighbourhoods.
        out_stride: Pixels of the image per pixel of the lattice.
        guide_density: Show the log of the sampling density to the modules as one more channel.
        gate: Give the modules gates, see :class:`~freqfusion.layers.sfm.LocalPixelRelation`.
    """

    def __init__(
        self,
        *,
        guide_channels: int,
        dilations: Sequence[int] = (1, 2, 4, 8, 16),
        kernel_size: int = 3,
        out_stride: int = 4,
        guide_density: bool = False,
        gate: bool = False,
    ):
        super().__init__()
        check_positive(guide_channels=guide_channels, out_stride=out_stride)
        check_odd(kernel_size=kernel_size)
        self.out_stride, self.guide_density = out_stride, guide_density
        taps = kernel_size**2
        self.demodulate = NonUniformUpsample()
        self.guide_channels = guide_channels
        self.guide_conv = self.guide_norm = None
        if dilations:
            self.guide_conv = nn.Conv2d(guide_channels + guide_density, taps, 3, bias=False)
            self.guide_norm = nn.BatchNorm2d(taps)
        self.relations = nn.ModuleList(
            LocalPixelRelation(
                relation_channels=taps, kernel_size=kernel_size, dilation=dilation, gate=gate
            )
            for dilation in dilations
        )
        if self.guide_conv is not None:
            nn.init.kaiming_normal_(self.guide_conv.weight, nonlinearity="relu")

    def forward(
        self, features: Tensor, guide: Tensor, mappings: MappingStack, out_size: tuple[int, int]
    ) -> Tensor:
        """Upsample.

        Args:
            features: (B, C, H, W), logits or features, any C.
            guide: (B, guide_channels, Hg, Wg) in the same space as the features; it may have
                another number of pixels.
            mappings: The stages between the original space and both; without any they are resized.
            out_size: Height and width of the image.

        Returns:
            (B, C, *out_size) in the original space, in the dtype of ``features``.

        Raises:
            ValueError: if the arguments do not fit together.
        """
        check_map("features", features)
        weight = None if self.guide_conv is None else self.guide_conv.weight
        check_map("guide", guide, self.guide_channels, like=weight)
        lattice = (-(-out_size[0] // self.out_stride), -(-out_size[1] // self.out_stride))
        if self.guide_conv is None or self.guide_norm is None:
            return resize_bilinear(self.demodulate(features, mappings, lattice), out_size)
        if mappings:
            points = self.demodulate.locate(mappings, lattice)
            features = self.demodulate.read(features, points, mappings)
            guide = self.demodulate.read(guide, points, mappings)
        else:
            features, guide = resize_bilinear(features, lattice), resize_bilinear(guide, lattice)
        if self.guide_density:
            guide = torch.cat([guide, _log_density(guide, mappings)], dim=1)
        relation: Tensor = self.guide_norm(self.guide_conv(replicate_pad(guide, 1))).relu()
        for module in self.relations:
            relation, features = module(relation, features)
        return resize_bilinear(features, out_size)


def _log_density(like: Tensor, mappings: MappingStack) -> Tensor:
    """Log of the samples per original pixel (B, 1, H, W); zero where nothing was moved."""
    if not mappings:
        return like.new_zeros(like.shape[0], 1, *like.shape[2:])
    first, size = mappings[0], (like.shape[-2], like.shape[-1])
    with torch.no_grad():
        points = lattice_points_of(first.displacement, size, first.align_corners)
        density = mappings.density_at(points)
    return density.log().to(like.dtype)
