"""FreqFusion from the coarsest to the finest map of a pyramid, joined by concatenation.

The form of semantic segmentation heads in Chen et al., FreqFusion, TPAMI 2024. Shapes: feature
maps (B, C_i, H_i, W_i), fine to coarse.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import check_map, check_positive, check_same_batch
from freqfusion.layers.convolution import PointwiseConv2d
from freqfusion.layers.freqfusion import FreqFusion
from freqfusion.layers.renaming import rename_on_load

# The published segmentation heads differ from FreqFusion's own defaults in these.
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"feature_resample": True, "hamming_window": False, "sampler_features": "sim"}
)


class Concatenation(nn.Module):
    """Bring all levels of a pyramid to the size of the finest one, step by step, and join them.

    Args:
        in_channels: Channels of the maps, fine to coarse; at least two.
        make_fusion: Builds the module of a step from the channels of its fine and coarse map.
            Called with ``hr_feat`` and ``lr_feat`` it returns something, the fine map and the
            coarse map at the fine size.
        groups: Channels are joined group by group, so that a next step that treats this many groups
            of channels apart does not mix maps.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        make_fusion: Callable[[int, int], nn.Module],
        groups: int = 1,
    ):
        super().__init__()
        if len(in_channels) < 2:
            raise ValueError(f"in_channels must list at least two maps, got {list(in_channels)}")
        check_positive(groups=groups)
        if any(width % groups for width in in_channels):
            raise ValueError(
                f"feature_resample_group must divide the channels of every map, got {groups} "
                f"groups and {list(in_channels)} channels"
            )
        self.groups = groups
        self.fusions = nn.ModuleList()
        self.out_channels = in_channels[-1]
        for hr_channels in reversed(in_channels[:-1]):
            self.fusions.append(make_fusion(hr_channels, self.out_channels))
            self.out_channels += hr_channels

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join the maps, fine to coarse, into (B, sum of channels, H_0, W_0)."""
        wanted = f"expected {len(self.fusions) + 1} feature maps, fine to coarse"
        if not isinstance(features, Sequence):
            raise TypeError(f"{wanted}, in a list; got {type(features).__name__}")
        if len(features) != len(self.fusions) + 1:
            raise ValueError(f"{wanted}; got {len(features)}")
        for level, image in enumerate(features):
            check_map(f"features[{level}]", image)
        check_same_batch(**{f"features[{level}]": image for level, image in enumerate(features)})
        low = features[-1]
        for step, high in enumerate(reversed(features[:-1])):
            _, high, low = self.fusions[step](hr_feat=high, lr_feat=low)
            high = self._refine(step, high, low)
            blocks = [image.unflatten(1, (self.groups, -1)) for image in (high, low)]
            low = torch.cat(blocks, dim=2).flatten(1, 2)
        return low

    def _refine(self, step: int, high: Tensor, low: Tensor) -> Tensor:
        """Return what is joined in place of the fine map of a step: here the map itself."""
        return high


class FreqFusionConcat(Concatenation):
    """The concatenation with FreqFusion at every step.

    Args:
        in_channels: Channels of the maps, fine to coarse; at least two.
        compress_ratio: The filters of each step are predicted from maps with this fraction of the
            channels that the step joins.
        fusion: Arguments of :class:`~freqfusion.layers.FreqFusion` beside the three widths. Unlike
            there, ``feature_resample`` is on, ``hamming_window`` off and ``sampler_features``
            ``"sim"`` unless they are named, as in the published heads.
        low2high_residual: Add to the fine map of each step a pointwise convolution of the upsampled
            map that the step before has joined, and do not join group by group.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        compress_ratio: int = 8,
        fusion: Mapping[str, Any] = _DEFAULTS,
        low2high_residual: bool = False,
    ):
        check_positive(compress_ratio=compress_ratio)
        options = {**_DEFAULTS, **fusion}

        def make_fusion(hr_channels: int, lr_channels: int) -> nn.Module:
            compressed = (hr_channels + lr_channels) // compress_ratio
            try:
                return FreqFusion(
                    hr_channels=hr_channels,
                    lr_channels=lr_channels,
                    compressed_channels=compressed,
                    **options,
                )
            except ValueError as error:
                raise ValueError(
                    f"joining {lr_channels} and {hr_channels} channels at compress_ratio "
                    f"{compress_ratio} gives {compressed} compressed channels: {error}"
                ) from error

        in_groups = options["feature_resample"] and not low2high_residual
        groups = options.get("feature_resample_group", 4) if in_groups else 1
        super().__init__(in_channels=in_channels, make_fusion=make_fusion, groups=groups)
        self.low2high_convs = None
        if low2high_residual:
            # From the map that was joined last, the first one of the joined channels, to the next.
            widths = pairwise(reversed(in_channels))
            self.low2high_convs = nn.ModuleList(PointwiseConv2d(*width) for width in widths)
        rename_on_load(self, {"freqfusions.": "fusions."}, {})

    def _refine(self, step: int, high: Tensor, low: Tensor) -> Tensor:
        if self.low2high_convs is None:
            return high
        convolution = self.low2high_convs[step]
        refined: Tensor = high + convolution(low[:, : convolution.in_channels])
        return refined
