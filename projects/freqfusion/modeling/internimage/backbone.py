"""InternImage as a Detectron2 backbone.

Wang et al., InternImage: Exploring Large-Scale Vision Foundation Models with Deformable
Convolutions, CVPR 2023.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.modeling.internimage.blocks import InternImageStage, Stem
from freqfusion.modeling.swin.blocks import Perceptron

_STEM_STRIDE = 4
_FIRST_STAGE = 2


class InternImage(Backbone):
    """InternImage; its stages are ``res2`` (stride 4), ``res3``, ... with channels first.

    Images of any size: maps have ``ceil(size / stride)`` pixels.

    ========  ==========  =================  ==================  =====================
    model     channels    depths             groups              parameters (with head)
    ========  ==========  =================  ==================  =====================
    T         64          4, 4, 18, 4        4, 8, 16, 32        28 769 520 (29.9 M)
    S         80          4, 4, 21, 4        5, 10, 20, 40       48 502 560 (50.1 M)
    B         112         4, 4, 21, 4        7, 14, 28, 56       94 909 920 (97.5 M)
    ========  ==========  =================  ==================  =====================

    T has ``post_norm=False``, S and B ``True``. The count, for C channels in groups of 16: a block
    has 10C depthwise, 27C/16 * (C + 1) for offsets and weights, 2C(C + 1) for the projections,
    8C² + 5C in the perceptron, 6C in three normalisations and 2C factors, together
    11.6875C² + 26.6875C; a step 18C² + 4C; the stem, with c for half of the channels of the first
    stage, 18c² + 36c; a stage without ``post_norm`` 2C. Four, four, eighteen and four
    blocks of T are 27 197 936, its steps 1 550 080, its stem 19 584, its norms 1 920. A classifier
    of 1000 classes over the last stage has 1.5C² + 1503C + 1000, and the sums then agree with the
    paper's 30, 50 and 97 million.

    Known from the paper: the operator, stem, steps, widths, depths and groups. From its authors'
    released code, as remembered: the names of the parameters, that taps are counted column by
    column and that ``offset_scale`` widens the kernel too, the epsilon of the normalisations, where
    stages are normalised, ``post_norm`` of each size and how weights start. No published file was
    opened, so that no published number has been compared.

    Args:
        channels: Of the first stage, even; each further one has twice as many.
        depths: Blocks of each stage.
        groups: Groups of the convolutions of each stage, which must divide its channels.
        mlp_ratio: Width of the perceptrons, in channels.
        drop_path_rate: Stochastic depth of the last block, from 0 to below 1; it grows from 0
            block by block.
        layer_scale: Where the learned factors of all branches start; 0 leaves them out.
        post_norm: Normalise what a branch gives instead of what it gets, and no stage.
        offset_scale: Widens the offsets and kernels of the convolutions.
        out_features: Which stages to return.
        in_channels: Channels of the images.
        use_checkpoint: Recompute the blocks in the backward pass instead of keeping their maps.

    Raises:
        ValueError: if the arguments do not fit together.
    """

    @configurable
    def __init__(
        self,
        *,
        channels: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        layer_scale: float = 1.0,
        post_norm: bool = False,
        offset_scale: float = 1.0,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        in_channels: int = 3,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        check_positive(channels=channels, in_channels=in_channels)
        widths = [channels * 2**stage for stage in range(len(depths))]
        _check_stages(widths, depths, groups)
        _check_rates(channels, mlp_ratio, drop_path_rate, layer_scale)
        self.patch_embed = Stem(in_channels=in_channels, channels=channels)
        blocks = sum(depths)
        rates = (drop_path_rate * index / max(blocks - 1, 1) for index in range(blocks))
        self.levels = nn.ModuleList(
            InternImageStage(
                channels=width,
                groups=parts,
                mlp_ratio=mlp_ratio,
                drop_path_rates=[next(rates) for _ in range(depth)],
                layer_scale=layer_scale,
                post_norm=post_norm,
                offset_scale=offset_scale,
                downsample=width < widths[-1],
                use_checkpoint=use_checkpoint,
            )
            for width, parts, depth in zip(widths, groups, depths, strict=True)
        )
        self._set_outputs(widths, out_features)
        for module in self.modules():
            if isinstance(module, Perceptron):
                _initialize(module)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.INTERNIMAGE``, whose keys are their names."""
        node = cfg.MODEL.INTERNIMAGE
        return {key.lower(): value for key, value in node.items()} | {
            "in_channels": input_shape.channels
        }

    @property
    def size_divisibility(self) -> int:
        """Detectron2 pads a batch to a multiple of this."""
        return _STEM_STRIDE << (len(self.levels) - 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to the maps of the chosen stages, channels first."""
        channels = self.patch_embed.conv1.in_channels
        if images.dim() != 4 or images.shape[1] != channels or images.numel() == 0:
            raise ValueError(
                f"images must be (batch, {channels}, height, width) with at least one pixel, got "
                f"{tuple(images.shape)}"
            )
        maps = self.patch_embed(images)
        stages: Iterable[Any] = self.levels
        results = {}
        for index, stage in enumerate(stages, start=_FIRST_STAGE):
            maps = stage(maps)
            if f"res{index}" in self._out_features:
                results[f"res{index}"] = maps.permute(0, 3, 1, 2).contiguous()
            if stage.downsample is not None:
                maps = stage.downsample(maps)
        return results

    def _set_outputs(self, widths: Sequence[int], out_features: Sequence[str]) -> None:
        stages = {f"res{_FIRST_STAGE + index}": width for index, width in enumerate(widths)}
        unknown = [name for name in out_features if name not in stages]
        if unknown or not out_features:
            raise ValueError(
                f"out_features must name some of the stages {', '.join(stages)}, got "
                f"{', '.join(out_features) or 'none'}"
            )
        self._out_features = [name for name in stages if name in out_features]
        self._out_feature_channels = stages
        self._out_feature_strides = {
            name: _STEM_STRIDE * 2**index for index, name in enumerate(stages)
        }


def _initialize(perceptron: Perceptron) -> None:
    """Published models began so; the convolutions have a start of their own."""
    for layer in (perceptron.fc1, perceptron.fc2):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)


def _check_stages(widths: Sequence[int], depths: Sequence[int], groups: Sequence[int]) -> None:
    if not depths or len(depths) != len(groups):
        raise ValueError(
            "depths and groups must have a number for each stage, and at least one; got "
            f"{list(depths)} and {list(groups)}"
        )
    for name, numbers in (("depths", depths), ("groups", groups)):
        if min(numbers) < 1:
            raise ValueError(f"{name} must be positive, got {list(numbers)}")
    if widths[0] % 2:
        raise ValueError(f"channels must be even, since the stem begins with half; got {widths[0]}")


def _check_rates(
    channels: int, mlp_ratio: float, drop_path_rate: float, layer_scale: float
) -> None:
    if channels * mlp_ratio < 1:
        raise ValueError(
            f"mlp_ratio must leave the perceptrons a width, got {mlp_ratio} of {channels} channels"
        )
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate must be from 0 to below 1, got {drop_path_rate}")
    if not layer_scale >= 0:
        raise ValueError(f"layer_scale must not be negative, got {layer_scale}")
