"""FreqFusion from the coarsest to the finest map of a pyramid, joined by concatenation.

The form of semantic segmentation heads in Chen et al., FreqFusion, TPAMI 2024. Shapes: feature
maps (B, C_i, H_i, W_i), fine to coarse.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.layers.freqfusion import FreqFusion
from freqfusion.layers.reassembly import PaddingMode
from freqfusion.layers.renaming import rename_on_load
from freqfusion.layers.sampler import SamplerFeatures, SamplerInit


class FreqFusionConcat(nn.Module):
    """Bring all levels of a pyramid to the size of the finest one and concatenate them.

    The arguments beside these are those of :class:`~freqfusion.layers.FreqFusion`.

    Args:
        in_channels: Channels of the maps, fine to coarse; at least two.
        compress_ratio: The filters of each step are predicted from maps with this fraction of the
            channels that the step joins.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        compress_ratio: int = 8,
        lowpass_kernel: int = 5,
        highpass_kernel: int = 3,
        feature_resample: bool = True,
        feature_resample_group: int = 4,
        feature_resample_norm: bool = True,
        comp_feat_upsample: bool = True,
        use_high_pass: bool = True,
        hr_residual: bool = True,
        semi_conv: bool = True,
        hamming_window: bool = False,
        padding_mode: PaddingMode = "zeros",
        sampler_features: SamplerFeatures = "sim",
        sampler_init: SamplerInit = "xavier",
        use_checkpoint: bool = False,
    ):
        super().__init__()
        if len(in_channels) < 2:
            raise ValueError(f"in_channels must list at least two maps, got {list(in_channels)}")
        check_positive(compress_ratio=compress_ratio, feature_resample_group=feature_resample_group)
        # Channels stay together with their sampling group when maps are joined; otherwise the next
        # step's groups would mix maps.
        self.groups = feature_resample_group if feature_resample else 1
        indivisible = [width for width in in_channels if width % self.groups]
        if indivisible:
            raise ValueError(
                f"feature_resample_group must divide the channels of every map, got "
                f"{self.groups} groups and {list(in_channels)} channels"
            )
        self.out_channels = in_channels[-1]
        self.fusions = nn.ModuleList()
        for hr_channels in reversed(in_channels[:-1]):
            lr_channels, self.out_channels = self.out_channels, self.out_channels + hr_channels
            compressed = self.out_channels // compress_ratio
            try:
                fusion = FreqFusion(
                    hr_channels=hr_channels,
                    lr_channels=lr_channels,
                    compressed_channels=compressed,
                    lowpass_kernel=lowpass_kernel,
                    highpass_kernel=highpass_kernel,
                    feature_resample=feature_resample,
                    feature_resample_group=feature_resample_group,
                    feature_resample_norm=feature_resample_norm,
                    comp_feat_upsample=comp_feat_upsample,
                    use_high_pass=use_high_pass,
                    hr_residual=hr_residual,
                    semi_conv=semi_conv,
                    hamming_window=hamming_window,
                    padding_mode=padding_mode,
                    sampler_features=sampler_features,
                    sampler_init=sampler_init,
                    use_checkpoint=use_checkpoint,
                )
            except ValueError as error:
                raise ValueError(
                    f"joining {lr_channels} and {hr_channels} channels at compress_ratio "
                    f"{compress_ratio} gives {compressed} compressed channels: {error}"
                ) from error
            self.fusions.append(fusion)
        rename_on_load(self, {"freqfusions.": "fusions."}, {})

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join the maps, fine to coarse, into (B, sum of channels, H_0, W_0)."""
        if len(features) != len(self.fusions) + 1:
            raise ValueError(
                f"expected {len(self.fusions) + 1} feature maps, fine to coarse; "
                f"got {len(features)}"
            )
        low = features[-1]
        for fusion, high in zip(self.fusions, reversed(features[:-1]), strict=True):
            _, high, low = fusion(hr_feat=high, lr_feat=low)
            blocks = [image.unflatten(1, (self.groups, -1)) for image in (high, low)]
            low = torch.cat(blocks, dim=2).flatten(1, 2)
        return low
