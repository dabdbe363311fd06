"""Three-point reassembly: one hop of a feature pyramid out of a modulated space.

A pyramid with adaptive resampling and a CARAFE-like reassembly with dynamically weighted samples of
three points is published by name only (model card of Chen et al., Spatial Frequency Modulation,
TPAMI 2025); this reading of it is our design. The second step follows Wang et al., CARAFE:
Content-Aware ReAssembly of FEatures, ICCV 2019.
"""

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import check_map, check_odd, check_positive, check_same_batch
from freqfusion.layers.convolution import PointwiseConv2d, zero_bias
from freqfusion.layers.kernels import favor_center, normalize_kernels
from freqfusion.layers.reassembly import reassemble
from freqfusion.layers.sfm.coordinates import lattice_points_of, to_normalized
from freqfusion.layers.sfm.interpolation import TriangleCorners, interpolate_at, triangle_corners
from freqfusion.layers.sfm.mapping import Mapping

_COMPRESSED_CHANNELS = 64
_GENERATOR_INIT_STD = 1e-3
_CENTRE_INIT = 0.9
# Keeps the logarithm of a barycentric coordinate finite on the edges of the triangles.
_LEAST_WEIGHT = 1e-6
# Pixels of the coarse map per unit of the predicted offsets.
_OFFSET_SCOPE = 0.25


class ThreePointReassembly(nn.Module):
    """Add a coarse, more modulated map to a finer one.

    Every fine pixel reads the three coarse nodes around the place where it has gone, with weights
    that start as barycentric ones and are corrected by what the maps show. A predicted kernel then
    averages the fine neighbourhood, and the lateral map is added.

    Args:
        channels: Channels of both maps.
        kernel: Odd width of the predicted kernels; 1 leaves the second step out.
        groups: Contiguous channel blocks with weights, offsets and kernels of their own.
        offsets: Let the three points move, too.
    """

    def __init__(self, *, channels: int, kernel: int = 5, groups: int = 1, offsets: bool = False):
        super().__init__()
        check_positive(channels=channels, groups=groups)
        check_odd(kernel=kernel)
        if channels % groups:
            raise ValueError(
                f"groups must divide channels, got {groups} groups for {channels} channels"
            )
        self.channels, self.kernel, self.groups = channels, kernel, groups
        self.weight = nn.Conv2d(2 * channels, 3 * groups, 3, padding=1)
        self.offset = nn.Conv2d(2 * channels, 6 * groups, 3, padding=1) if offsets else None
        self.compressor: PointwiseConv2d | None = None
        self.generator: nn.Conv2d | None = None
        if kernel > 1:
            self.compressor = PointwiseConv2d(2 * channels, _COMPRESSED_CHANNELS)
            self.generator = nn.Conv2d(_COMPRESSED_CHANNELS, groups * kernel**2, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Three-point demodulation; kernels with nine tenths of their weight at the centre."""
        for layer in (self.weight, self.offset):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                zero_bias(layer)
        if self.compressor is not None and self.generator is not None:
            nn.init.xavier_uniform_(self.compressor.weight)
            zero_bias(self.compressor)
            nn.init.normal_(self.generator.weight, std=_GENERATOR_INIT_STD)
            assert self.generator.bias is not None
            favor_center(self.generator.bias, self.kernel**2, _CENTRE_INIT)

    def forward(self, lateral: Tensor, coarse: Tensor, mapping: Mapping) -> Tensor:
        """Join both maps.

        Args:
            lateral: (B, channels, H, W), the fine map, in the space that the mapping starts from.
            coarse: (B, channels, h, w), the downsampled map that the mapping leads to.
            mapping: The one stage between them.

        Returns:
            (B, channels, H, W) in the space and the dtype of ``lateral``.

        Raises:
            ValueError: if the maps do not fit the module or each other.
        """
        self._check(lateral, coarse)
        aligned = self.align(lateral, coarse, mapping)
        if self.compressor is not None and self.generator is not None:
            guide = self.compressor(torch.cat([lateral, aligned], dim=1))
            kernels = normalize_kernels(self.generator(guide), groups=self.groups)
            aligned = reassemble(
                aligned,
                kernels,
                kernel_size=self.kernel,
                groups=self.groups,
                padding_mode="reflect",
            )
        return lateral + aligned

    def align(self, lateral: Tensor, coarse: Tensor, mapping: Mapping) -> Tensor:
        """The first step alone: the coarse map at the fine pixels, without the lateral one."""
        size = (lateral.shape[-2], lateral.shape[-1])
        corners = self._corners(size, coarse, mapping)
        values, weights = corners.read(coarse), corners.weights[:, None]
        plain = (values * weights).sum(2).to(lateral.dtype)
        guide = torch.cat([lateral, plain], dim=1)
        if self.offset is not None:
            offsets = _OFFSET_SCOPE * self.offset(guide).to(corners.weights.dtype)
            values = self._read_moved(coarse, corners, offsets, mapping.align_corners)
        correction = self.weight(guide).unflatten(1, (self.groups, 3)).to(weights.dtype)
        logits = weights.clamp(min=0).add(_LEAST_WEIGHT).log() + correction
        grouped = values.unflatten(1, (self.groups, -1))
        aligned: Tensor = (grouped * logits.softmax(2)[:, :, None]).sum(3)
        return aligned.flatten(1, 2).to(lateral.dtype)

    def _corners(self, size: tuple[int, int], coarse: Tensor, mapping: Mapping) -> TriangleCorners:
        """The coarse nodes around the places where fine pixels have gone."""
        points = lattice_points_of(mapping.displacement, size, mapping.align_corners)
        points = mapping.to_downsampled(mapping.inverse_points(points))
        coarse_size = (coarse.shape[-2], coarse.shape[-1])
        return triangle_corners(points, coarse_size, mapping.align_corners)

    def _read_moved(
        self, coarse: Tensor, corners: TriangleCorners, offsets: Tensor, align_corners: bool
    ) -> Tensor:
        """The coarse map (B, C, 3, H, W) at the nodes plus offsets (B, groups * 6, H, W)."""
        batch, _, height, width = coarse.shape
        nodes = torch.stack([corners.x, corners.y], dim=-1).to(offsets.dtype)
        moved = offsets.unflatten(1, (self.groups, 3, 2)).movedim(3, -1) + nodes[:, None]
        points = to_normalized(moved, (height, width), align_corners).flatten(0, 1).flatten(1, 2)
        blocks = coarse.reshape(batch * self.groups, -1, height, width)
        values = interpolate_at(blocks, points, align_corners=align_corners)
        return values.reshape((batch, self.channels, *corners.weights.shape[1:]))

    def _check(self, lateral: Tensor, coarse: Tensor) -> None:
        check_map("lateral", lateral, self.channels, like=self.weight.weight)
        check_map("coarse", coarse, self.channels)
        check_same_batch(lateral=lateral, coarse=coarse)
