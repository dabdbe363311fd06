"""Any feature model of timm as a Detectron2 backbone."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn


class TimmBackbone(Backbone):
    """The stages of a timm model, named ``res2`` (stride 4), ``res3``, ... as Detectron2 does.

    Images of any size: they are padded with zeros to a multiple of the largest stride, and the maps
    are cropped to the image, ``ceil(size / stride)``.

    Args:
        name: Model name of timm, with or without a tag, for example ``"convnext_tiny.fb_in1k"``.
        out_features: Which stages to return.
        pretrained: Load timm's own weights, which are downloaded.
        in_channels: Channels of the images.
        drop_path_rate: Stochastic depth; 0 leaves the model's default.
        use_checkpoint: Recompute the stages in the backward pass instead of keeping their maps.
        out_norm: Normalize each map over its channels, as Swin does in Mask2Former.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        pretrained: bool = False,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        use_checkpoint: bool = False,
        out_norm: bool = False,
    ):
        super().__init__()
        self.model = _create(name, pretrained, in_channels, drop_path_rate)
        if use_checkpoint:
            self.model.set_grad_checkpointing(True)
            # Before 1.0.31, timm's activations overwrite what a recomputed part has put out.
            for module in self.model.modules():
                if getattr(module, "inplace", False):
                    module.inplace = False
        # Swin gives (batch, height, width, channels).
        self.channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        info = self.model.feature_info
        strides: list[int] = info.reduction()
        stages = {f"res{stride.bit_length() - 1}": stride for stride in strides}
        unknown = [name for name in out_features if name not in stages]
        if unknown:
            raise ValueError(
                f"{name} has the stages {', '.join(stages)}; MODEL.TIMM.OUT_FEATURES names "
                f"{', '.join(unknown)}"
            )
        self.stages = stages
        self._out_features = [stage for stage in stages if stage in out_features]
        self._out_feature_strides = stages
        self._out_feature_channels = dict(zip(stages, info.channels(), strict=True))
        channels = self._out_feature_channels
        self.norms = nn.ModuleDict(
            {stage: nn.LayerNorm(channels[stage]) for stage in self._out_features if out_norm}
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return arguments from ``MODEL.TIMM``."""
        node = cfg.MODEL.TIMM
        return {
            "name": node.NAME,
            "out_features": node.OUT_FEATURES,
            "pretrained": node.PRETRAINED,
            "in_channels": input_shape.channels,
            "drop_path_rate": node.DROP_PATH_RATE,
            "use_checkpoint": node.USE_CHECKPOINT,
            "out_norm": node.OUT_NORM,
        }

    @property
    def size_divisibility(self) -> int:
        """Return the number that Detectron2 pads a batch to a multiple of."""
        return max(self.stages.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of the chosen stages of images (B, 3, H, W)."""
        height, width = images.shape[-2:]
        divisor = self.size_divisibility
        padded = F.pad(images, (0, -width % divisor, 0, -height % divisor))
        maps = dict(zip(self.stages, self.model(padded), strict=True))
        results = {}
        for name in self._out_features:
            stride = self.stages[name]
            image = maps[name]
            if self.channels_last:
                image = image.permute(0, 3, 1, 2)
            if name in self.norms:
                image = self.norms[name](image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            results[name] = image[..., : -(-height // stride), : -(-width // stride)].contiguous()
        return results


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build the timm model that ``MODEL.TIMM`` names."""
    return TimmBackbone(cfg, input_shape)


def _create(name: str, pretrained: bool, in_channels: int, drop_path_rate: float) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError("this backbone comes from timm: pip install 'timm>=1.0.13'") from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        hint = f"; did you mean one of {', '.join(near)}?" if near else ""
        raise ValueError(f"timm has no model {name!r} (MODEL.TIMM.NAME){hint}")
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": in_channels}
    if drop_path_rate > 0:
        options["drop_path_rate"] = drop_path_rate
    try:
        # Models with windows have a fixed image size unless it is set.
        return timm.create_model(name, features_only=True, strict_img_size=False, **options)
    except TypeError:
        return timm.create_model(name, features_only=True, **options)
