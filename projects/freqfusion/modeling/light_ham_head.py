"""The head of SegNeXt: maps joined, and their context as a matrix of low rank.

Shapes: maps (B, C, H, W).

Geng et al., Is Attention Better Than Matrix Decomposition?, ICLR 2021 (Hamburger and its
non-negative factorization); Guo et al., SegNeXt, NeurIPS 2022, section 3.2; with FreqFusion: Chen
et al., TPAMI 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from freqfusion.layers import Concatenation
from freqfusion.layers.checks import check_map, check_positive, check_same_batch
from freqfusion.modeling.mask2former.structures import without_autocast
from freqfusion.modeling.semantic_head import PixelHead, build_join, head_arguments, used_maps

_SEED = 0
_SMALLEST = 1e-6


def factorize(vectors: Tensor, bases: Tensor, *, steps: int) -> Tensor:
    """Return the product of non-negative factors that approximates non-negative matrices.

    Lee and Seung's multiplicative updates, codes before bases, then the codes once more. Gradients
    pass through all of them.

    Args:
        vectors: (..., D, N), the matrices.
        bases: (..., D, R), where the first factor starts: not negative, of any length.
        steps: Updates of both factors.

    Returns:
        (..., D, N).
    """
    bases = F.normalize(bases, dim=-2)
    codes = (vectors.mT @ bases).softmax(-1)
    for _ in range(steps):
        codes = _update(codes, vectors.mT @ bases, bases)
        bases = _update(bases, vectors @ codes, codes)
    codes = _update(codes, vectors.mT @ bases, bases)
    return bases @ codes.mT


def _update(factor: Tensor, correlation: Tensor, other: Tensor) -> Tensor:
    return factor * correlation / (factor @ (other.mT @ other) + _SMALLEST)


class NonNegativeFactorization(nn.Module):
    """Approximate maps by a matrix of low rank: few vectors, mixed at each pixel.

    In training the factorization starts from bases that are drawn anew from torch's generator. In
    evaluation it starts from bases that were drawn once with a fixed seed, the same for each image:
    the result for an image depends on nothing but the image. They are a buffer that checkpoints do
    not have.

    Args:
        channels: Of the maps.
        rank: Number of the vectors.
        splits: Channels are cut into so many blocks, each with vectors of its own.
        train_steps: Updates of both factors in training.
        eval_steps: In evaluation.
    """

    bases: Tensor

    def __init__(
        self,
        *,
        channels: int,
        rank: int = 64,
        splits: int = 1,
        train_steps: int = 6,
        eval_steps: int = 7,
    ):
        super().__init__()
        check_positive(channels=channels, rank=rank, splits=splits)
        check_positive(train_steps=train_steps, eval_steps=eval_steps)
        if channels % splits:
            raise ValueError(
                f"splits must divide the channels, got {splits} splits of {channels} channels"
            )
        self.channels, self.splits = channels, splits
        self.train_steps, self.eval_steps = train_steps, eval_steps
        shape = (splits, channels // splits, rank)
        generator = torch.Generator().manual_seed(_SEED)
        drawn = torch.rand(shape, generator=generator, device="cpu")
        # A copy into memory of the default device, on which a generator may not draw.
        self.register_buffer("bases", torch.empty(shape).copy_(drawn), persistent=False)

    def forward(self, maps: Tensor, bases: Tensor | None = None) -> Tensor:
        """Approximate maps that are nowhere negative.

        Args:
            maps: (B, C, H, W).
            bases: Where to start, (splits, C / splits, rank), or with B in front to have those of
                each image; not given: as the class says.

        Returns:
            (B, C, H, W) in the dtype of ``maps``; computed in float32 or better.
        """
        check_map("maps", maps, self.channels)
        # The products would lose the smallest denominators in half precision.
        dtype = torch.promote_types(maps.dtype, torch.float32)
        with without_autocast(maps.device):
            vectors = maps.to(dtype).flatten(2).unflatten(1, (self.splits, -1))
            if bases is None:
                bases = self._draw(vectors) if self.training else self.bases
            steps = self.train_steps if self.training else self.eval_steps
            product = factorize(vectors, bases.to(dtype), steps=steps)
        return product.view_as(maps).to(maps.dtype)

    def _draw(self, vectors: Tensor) -> Tensor:
        shape = (vectors.shape[0], *self.bases.shape)
        return torch.rand(shape, device=vectors.device, dtype=vectors.dtype)


class Hamburger(nn.Module):
    """A factorization between two pointwise convolutions, added to what came in.

    Args:
        channels: Of input and output.
        norm: Normalization of the second convolution, as in Detectron2.
        rank: Of the factorization, as its further arguments.
        splits: As there.
        train_steps: As there.
        eval_steps: As there.
    """

    def __init__(
        self,
        *,
        channels: int,
        norm: str | Callable[[int], nn.Module] = "GN",
        rank: int = 64,
        splits: int = 1,
        train_steps: int = 6,
        eval_steps: int = 7,
    ):
        super().__init__()
        self.channels = channels
        self.ham_in = Conv2d(channels, channels, kernel_size=1)
        self.ham = NonNegativeFactorization(
            channels=channels,
            rank=rank,
            splits=splits,
            train_steps=train_steps,
            eval_steps=eval_steps,
        )
        self.ham_out = Conv2d(
            channels, channels, kernel_size=1, bias=not norm, norm=get_norm(norm, channels)
        )
        weight_init.c2_msra_fill(self.ham_in)
        weight_init.c2_msra_fill(self.ham_out)

    def forward(self, maps: Tensor, bases: Tensor | None = None) -> Tensor:
        """Return maps of the same shape; for ``bases`` see :class:`NonNegativeFactorization`."""
        context = self.ham(F.relu(self.ham_in(maps)), bases)
        return F.relu(maps + self.ham_out(context))


class ResizedConcatenation(nn.Module):
    """Concatenate maps at the size of the first one, to which the others are interpolated.

    Args:
        in_channels: Channels of the maps.
        align_corners: As in ``torch.nn.functional.interpolate``.
    """

    def __init__(self, *, in_channels: Sequence[int], align_corners: bool = False):
        super().__init__()
        self.out_channels = sum(in_channels)
        self.align_corners = align_corners

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join the maps into (B, sum of channels, H_0, W_0)."""
        maps = {f"features[{level}]": image for level, image in enumerate(features)}
        for name, image in maps.items():
            check_map(name, image)
        check_same_batch(**maps)
        size = features[0].shape[-2:]
        resized = [
            F.interpolate(image, size=size, mode="bilinear", align_corners=self.align_corners)
            for image in features
        ]
        return torch.cat(resized, dim=1)


@SEM_SEG_HEADS_REGISTRY.register()
class LightHamHead(PixelHead):
    """Join maps, add their context from a :class:`Hamburger`, and classify every pixel.

    For Detectron2's ``SemanticSegmentor``, on a backbone without a pyramid; in SegNeXt on the three
    coarser stages of MSCAN.

    Args:
        input_shape: Channels and stride of each map that is used.
        join: Built for these maps from fine to coarse: :class:`ResizedConcatenation`, or
            :class:`~freqfusion.layers.FreqFusionConcat`.
        hamburger: Built for the channels of the joined maps after the first convolution.
        num_classes: Number of classes.
        width: Channels before the classifier.
        dropout: Share of the channels that training leaves out before the classifier.
        norm: Normalization of the two convolutions, as in Detectron2.
        ignore_value: Label of pixels that have none.
        loss_weight: Factor of the loss.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        join: Concatenation | ResizedConcatenation,
        hamburger: Hamburger,
        num_classes: int,
        width: int,
        dropout: float = 0.1,
        norm: str | Callable[[int], nn.Module] = "GN",
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ):
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            width=width,
            ignore_value=ignore_value,
            loss_weight=loss_weight,
        )
        self.join = join
        self.squeeze = _convolution(join.out_channels, hamburger.channels, norm)
        self.hamburger = hamburger
        self.align = _convolution(hamburger.channels, width, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = Conv2d(width, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Return arguments from ``MODEL.{SEM_SEG_HEAD,LIGHT_HAM,FREQFUSION}``."""
        node = cfg.MODEL.LIGHT_HAM
        used, arguments = used_maps(cfg, input_shape), head_arguments(cfg)
        channels = [shape.channels for shape in used.values()]
        return {
            "input_shape": used,
            "join": build_join(cfg, channels)
            if cfg.MODEL.FREQFUSION.ENABLED
            else ResizedConcatenation(in_channels=channels),
            "hamburger": Hamburger(
                channels=node.CHANNELS or arguments["width"],
                norm=arguments["norm"],
                rank=node.RANK,
            ),
            "dropout": node.DROPOUT,
            **arguments,
        }

    def decode(self, features: Mapping[str, Tensor], bases: Tensor | None = None) -> Tensor:
        """Return the joined maps with their context; for ``bases`` see :class:`Hamburger`."""
        joined = self.squeeze(self.join([features[name] for name in self.in_features]))
        decoded: Tensor = self.dropout(self.align(self.hamburger(joined, bases)))
        return decoded


def _convolution(
    in_channels: int, out_channels: int, norm: str | Callable[[int], nn.Module]
) -> nn.Module:
    convolution: nn.Module = Conv2d(
        in_channels,
        out_channels,
        kernel_size=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(convolution)
    return convolution
