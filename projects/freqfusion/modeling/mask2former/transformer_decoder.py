"""The transformer decoder of Mask2Former.

Cheng, Misra, Schwing, Kirillov, Girdhar: Masked-attention Mask Transformer for Universal Image
Segmentation, CVPR 2022, section 3.2. Shapes: B images, Q queries, K classes, C channels, S pixels
of a map; H x W is the size of the mask features.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.layers.renaming import rename_on_load
from freqfusion.modeling.mask2former.attention_layers import (
    CrossAttentionLayer,
    FeedForwardLayer,
    MultiLayerPerceptron,
    SelfAttentionLayer,
    SinePositionEncoding,
)
from freqfusion.modeling.mask2former.structures import DecoderOutput, MaskPredictions

_MASK_EMBED_LAYERS = 3


class MaskedAttentionDecoder(nn.Module):
    """Turn learned queries into classes and masks by looking at the image layer after layer.

    A layer lets each query look at the pixels of its present mask, then at the other queries. The
    layers take the maps in turn, from coarse to fine and again. Parameter names are those of the
    published weights.

    Args:
        in_channels: Channels of the maps.
        num_classes: Number of classes K, "no object" not counted.
        hidden_dim: Width C of the queries; even.
        num_queries: Number of queries Q.
        nheads: Attention heads; a divisor of ``hidden_dim``.
        dim_feedforward: Width inside the feed-forward networks.
        dec_layers: Number of layers; 0 predicts from the learned queries alone. The configuration
            of the published models counts the prediction before the first layer too, so that its
            10 is 9 here.
        pre_norm: Normalize the input of a layer instead of its output.
        mask_dim: Channels of the mask features.
        enforce_input_project: Have a 1x1 convolution before the decoder even where ``in_channels``
            is ``hidden_dim``.
        num_levels: Number of maps.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        nheads: int,
        dim_feedforward: int,
        dec_layers: int,
        pre_norm: bool,
        mask_dim: int,
        enforce_input_project: bool,
        num_levels: int = 3,
    ):
        super().__init__()
        check_positive(
            in_channels=in_channels,
            num_classes=num_classes,
            num_queries=num_queries,
            num_levels=num_levels,
        )
        if dec_layers < 0:
            raise ValueError(f"dec_layers must not be negative, got {dec_layers}")
        self.in_channels, self.num_classes, self.mask_dim = in_channels, num_classes, mask_dim
        self.num_levels = num_levels
        self.pe_layer = SinePositionEncoding(channels=hidden_dim)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(channels=hidden_dim, heads=nheads, pre_norm=pre_norm)
            for _ in range(dec_layers)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(channels=hidden_dim, heads=nheads, pre_norm=pre_norm)
            for _ in range(dec_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(
                channels=hidden_dim, hidden_channels=dim_feedforward, pre_norm=pre_norm
            )
            for _ in range(dec_layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(num_levels, hidden_dim)
        project = enforce_input_project or in_channels != hidden_dim
        self.input_proj = nn.ModuleList(
            _projection(in_channels, hidden_dim) if project else nn.Identity()
            for _ in range(num_levels)
        )
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MultiLayerPerceptron(
            channels=hidden_dim, out_channels=mask_dim, num_layers=_MASK_EMBED_LAYERS
        )
        # Checkpoints of the first release have another name for the queries.
        rename_on_load(self, {"static_query.": "query_feat."}, {})

    def forward(
        self, features: Sequence[Tensor], mask_features: Tensor, *, auxiliary: bool = True
    ) -> DecoderOutput:
        """Predict classes and masks.

        Args:
            features: ``num_levels`` maps (B, in_channels, h, w), from coarse to fine, of any sizes.
            mask_features: (B, mask_dim, H, W), the map whose pixels the masks are made of.
            auxiliary: Return the predictions before each layer as well, which deep supervision
                needs. Without them the masks are written out once, at the end.

        Returns:
            ``pred_logits`` (B, Q, K + 1), ``pred_masks`` (B, Q, H, W) as logits and
            ``aux_outputs``, such predictions in the order of the layers.

        Raises:
            ValueError: if the maps do not fit the decoder or each other.
        """
        self._check_inputs(features, mask_features)
        levels = [self._level_tokens(index, feat) for index, feat in enumerate(features)]
        thumbnails = _resized(mask_features, [(f.shape[-2], f.shape[-1]) for f in features])
        queries, query_positions = (
            embedding.weight.expand(mask_features.shape[0], -1, -1)
            for embedding in (self.query_feat, self.query_embed)
        )
        outputs: list[MaskPredictions] = []
        for index, (cross_attention, self_attention, feed_forward) in enumerate(self._layers()):
            level = index % self.num_levels
            mask_tokens, logits = self._embed(queries)
            if auxiliary:
                masks = _dot_products(mask_tokens, mask_features)
                outputs.append({"pred_logits": logits, "pred_masks": masks})
            allowed = _allowed_pixels(mask_tokens, thumbnails[level])
            queries = cross_attention(queries, query_positions, *levels[level], allowed)
            queries = self_attention(queries, query_positions)
            queries = feed_forward(queries)
        mask_tokens, logits = self._embed(queries)
        return {
            "pred_logits": logits,
            "pred_masks": _dot_products(mask_tokens, mask_features),
            "aux_outputs": outputs,
        }

    def _layers(self) -> Iterator[tuple[nn.Module, nn.Module, nn.Module]]:
        return zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )

    def _embed(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask embeddings (B, Q, mask_dim) and class logits (B, Q, K + 1)."""
        queries = self.decoder_norm(queries)
        return self.mask_embed(queries), self.class_embed(queries)

    def _level_tokens(self, index: int, feat: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels (B, S, C) of a map and their positions (S, C)."""
        feat = self.input_proj[index](feat)
        pixels = feat.flatten(2).transpose(1, 2) + self.level_embed.weight[index]
        return pixels, self.pe_layer(feat).flatten(1).transpose(0, 1)

    def _check_inputs(self, features: Sequence[Tensor], mask_features: Tensor) -> None:
        if len(features) != self.num_levels:
            raise ValueError(
                f"the decoder was built for {self.num_levels} maps (num_levels), got "
                f"{len(features)}"
            )
        maps = [(f"features[{i}]", feat, self.in_channels) for i, feat in enumerate(features)]
        for name, feat, channels in [*maps, ("mask_features", mask_features, self.mask_dim)]:
            if feat.dim() != 4 or feat.shape[1] != channels:
                raise ValueError(
                    f"{name} must have shape (batch, {channels}, height, width), as the decoder "
                    f"was built for; got {tuple(feat.shape)}"
                )
            if feat.shape[0] != mask_features.shape[0]:
                raise ValueError(
                    f"all maps must have the same batch size; {name} has {feat.shape[0]}, "
                    f"mask_features has {mask_features.shape[0]}"
                )


def _dot_products(embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """Mask logits (B, Q, h, w) of embeddings (B, Q, mask_dim) and pixels (B, mask_dim, h, w)."""
    masks = torch.matmul(embeddings, mask_features.flatten(2))
    return masks.reshape(*masks.shape[:2], *mask_features.shape[2:])


@torch.no_grad()
def _resized(mask_features: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the mask features at the size of each map.

    A mask is linear in the mask features, so a resized mask is one of resized features: that are
    a few maps to resize, instead of all masks in every layer.
    """
    return [F.interpolate(mask_features, size=size, mode="bilinear") for size in sizes]


@torch.no_grad()
def _allowed_pixels(mask_tokens: Tensor, thumbnail: Tensor) -> Tensor:
    """Return pixels (B, Q, S) inside the present masks; all of them for an empty mask."""
    inside = _dot_products(mask_tokens, thumbnail).flatten(2) >= 0  # a probability of one half
    return inside | ~inside.any(dim=-1, keepdim=True)


def _projection(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
