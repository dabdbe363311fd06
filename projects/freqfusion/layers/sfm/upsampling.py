"""Undo adaptive resampling: bring features of a modulated space back to the original one.

:class:`NonUniformUpsample` reads them where the original pixels have gone.
:class:`MultiScaleAdaptiveUpsampling` relates pixels at several ranges afterwards (Chen et al.,
Spatial Frequency Modulation for Semantic Segmentation, TPAMI 2025); the order of the steps follows
the published figure, the rest is our design. :class:`ThreePointReassembly` is one hop of a feature
pyramid: a pyramid with adaptive resampling and a CARAFE-like reassembly with dynamically weighted
samples of three points is published by name only, in the model card of the same authors, and this
reading of it is our design. Its second step follows Wang et al., CARAFE: Content-Aware ReAssembly
of FEatures, ICCV 2019.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import (
    check_choice,
    check_map,
    check_odd,
    check_positive,
    check_same_batch,
)
from freqfusion.layers.convolution import PointwiseConv2d, zero_bias
from freqfusion.layers.reassembly import favor_center, normalize_kernels, reassemble
from freqfusion.layers.sampling import (
    CellInterpolation,
    TriangleCorners,
    interpolate_at,
    lattice_points_of,
    resize_bilinear,
    to_normalized,
    triangle_corners,
)
from freqfusion.layers.sfm.inversion import INTERPOLATION_OF, InverseGradient, InverseSolver
from freqfusion.layers.sfm.mapping import Mapping, MappingStack
from freqfusion.layers.sfm.relation import LocalPixelRelation, replicate_pad

_COMPRESSED_CHANNELS = 64
_GENERATOR_INIT_STD = 1e-3
_CENTRE_INIT = 0.9
# Keeps the logarithm of a barycentric coordinate finite on the edges of the triangles.
_LEAST_WEIGHT = 1e-6
# Pixels of the coarse map per unit of the predicted offsets.
_OFFSET_SCOPE = 0.25


class NonUniformUpsample(nn.Module):
    """Read modulated features at the places where original pixels have gone.

    The coordinates of all stages are composed and the features read once. There is nothing to
    learn. Demodulate features or logits, never labels.

    Args:
        solver: How mappings are inverted, see
            :func:`~freqfusion.layers.sfm.inversion.invert_displacement`.
        interp: How features are read: ``"bilinear"`` with the solver ``"newton"``,
            ``"barycentric"`` with ``"search"``, which comes closest to the published qhull form.
        grad: ``"values"``: gradients reach the features only; ``"implicit"``: the mappings too.
        iters: Newton steps at most.
    """

    def __init__(
        self,
        *,
        solver: InverseSolver = "newton",
        interp: CellInterpolation = "bilinear",
        grad: InverseGradient = "values",
        iters: int = 20,
    ):
        super().__init__()
        check_choice(InverseSolver, solver=solver)
        check_choice(CellInterpolation, interp=interp)
        check_choice(InverseGradient, grad=grad)
        check_positive(iters=iters)
        if interp != INTERPOLATION_OF[solver]:
            raise ValueError(
                f"the solver {solver!r} inverts {INTERPOLATION_OF[solver]} mappings and would be "
                f"off with another reading: set interp to {INTERPOLATION_OF[solver]!r}, "
                f"got {interp!r}"
            )
        self.solver: InverseSolver = solver
        self.interp: CellInterpolation = interp
        self.grad: InverseGradient = grad
        self.iters = iters

    def forward(
        self, features: Tensor, mappings: MappingStack, out_size: tuple[int, int]
    ) -> Tensor:
        """Demodulate.

        Args:
            features: (B, C, H, W), the last downsampled map of the stack or one that covers the
                same area with another number of pixels.
            mappings: The stages that lie between the original space and the features. Without any,
                the features are resized bilinearly.
            out_size: Height and width of the output, which covers the first stage's lattice.

        Returns:
            (B, C, *out_size) in the dtype of ``features``.

        Raises:
            ValueError: if the arguments do not fit together.
        """
        check_map("features", features)
        if not mappings:
            return resize_bilinear(features, out_size)
        return self.read(features, self.locate(mappings, out_size), mappings)

    def locate(self, mappings: MappingStack, out_size: tuple[int, int]) -> Tensor:
        """Find the points (B, *out_size, 2), normalised, where the original pixels have gone."""
        corners = {stage.align_corners for stage in mappings}
        if len(corners) != 1:
            raise ValueError(
                "mappings must be at least one, all with the same align_corners, "
                f"got {[stage.align_corners for stage in mappings]}"
            )
        points = lattice_points_of(mappings[0].displacement, out_size, corners.pop())
        return mappings.inverse(points, solver=self.solver, iters=self.iters, grad=self.grad)

    def read(self, features: Tensor, points: Tensor, mappings: MappingStack) -> Tensor:
        """Read features at points that :meth:`locate` has found."""
        return interpolate_at(
            features, points, interp=self.interp, align_corners=mappings[-1].align_corners
        )


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
    """Return the log of the samples per original pixel (B, 1, H, W), zero where none moved."""
    if not mappings:
        return like.new_zeros(like.shape[0], 1, *like.shape[2:])
    first, size = mappings[0], (like.shape[-2], like.shape[-1])
    with torch.no_grad():
        points = lattice_points_of(first.displacement, size, first.align_corners)
        density = mappings.density_at(points)
    return density.log().to(like.dtype)


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
        """Start as demodulation, kernels with nine tenths of their weight at the centre."""
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
        """Take the first step alone: bring the coarse map to the fine pixels."""
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
        """Find the coarse nodes around the places where fine pixels have gone."""
        points = lattice_points_of(mapping.displacement, size, mapping.align_corners)
        points = mapping.to_downsampled(mapping.inverse_points(points))
        coarse_size = (coarse.shape[-2], coarse.shape[-1])
        return triangle_corners(points, coarse_size, mapping.align_corners)

    def _read_moved(
        self, coarse: Tensor, corners: TriangleCorners, offsets: Tensor, align_corners: bool
    ) -> Tensor:
        """Read the coarse map (B, C, 3, H, W) at the nodes plus offsets (B, groups * 6, H, W)."""
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
