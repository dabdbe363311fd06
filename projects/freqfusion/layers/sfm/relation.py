"""Local pixel relation: every pixel becomes a learned mean of its neighbourhood.

Densely and sparsely sampled areas of a demodulated map lie side by side; cascaded relation modules
let them exchange what they know at several ranges (Chen et al., Spatial Frequency Modulation, TPAMI
2025). The operator follows the author's related code; start, gate and implementation are our
design.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.checks import check_map, check_odd, check_positive
from freqfusion.layers.neighbourhood import Geometry, gather
from freqfusion.layers.reassembly import favor_center, normalize_kernels

_CONV_INIT_STD = 1e-3
_NORM_INIT_GAIN = 0.1
# The gate opens to 2 % at the start.
_GATE_INIT_BIAS = -4.0


class LocalPixelRelation(nn.Module):
    """One relation module: kernels from a relation map, features averaged with them.

    The weights of a pixel are positive and sum to one, so constants stay and the output keeps the
    range of the input. At the start they are nearly the same everywhere, ``center_init`` at the
    centre. The bias of the normalisation is the taps' bias, so that solvers which spare
    normalisation from weight decay spare it too.

    Args:
        relation_channels: Channels of the relation map that comes in; it leaves with
            ``groups * kernel_size ** 2``.
        kernel_size: Odd width of the neighbourhood and of the convolution.
        dilation: Distance of the taps of both.
        groups: Contiguous channel blocks with weights of their own.
        gate: Blend with the input by a learned number per image and group, nearly shut at first.
        center_init: Weight of the centre at the start, in (0, 1).
    """

    def __init__(
        self,
        *,
        relation_channels: int = 9,
        kernel_size: int = 3,
        dilation: int = 1,
        groups: int = 1,
        gate: bool = False,
        center_init: float = 0.9,
    ):
        super().__init__()
        check_positive(relation_channels=relation_channels, dilation=dilation, groups=groups)
        check_odd(kernel_size=kernel_size)
        if kernel_size == 1:
            raise ValueError("kernel_size must be 3 or more: one tap has no neighbours, got 1")
        if not 0 < center_init < 1:
            raise ValueError(f"center_init must lie between 0 and 1, got {center_init}")
        self.relation_channels, self.center_init = relation_channels, center_init
        self.geometry = Geometry(kernel_size, dilation=dilation, groups=groups)
        taps = groups * kernel_size**2
        self.conv = nn.Conv2d(relation_channels, taps, kernel_size, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(taps)
        self.gate = nn.Linear(relation_channels, groups) if gate else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the class says."""
        nn.init.normal_(self.conv.weight, std=_CONV_INIT_STD)
        nn.init.constant_(self.norm.weight, _NORM_INIT_GAIN)
        favor_center(self.norm.bias, self.geometry.taps, self.center_init)
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, _GATE_INIT_BIAS)

    def forward(self, relation: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Average the features; beyond the border they repeat their edge.

        Args:
            relation: (B, relation_channels, H, W).
            features: (B, C, H, W), C a multiple of ``groups``; any size.

        Returns:
            The relation for the next module, the logits of the weights
            (B, groups * kernel_size ** 2, H, W), and the features (B, C, H, W).

        Raises:
            ValueError: if the maps do not fit the module or each other.
        """
        self._check(relation, features)
        g = self.geometry
        logits: Tensor = self.norm(self.conv(replicate_pad(relation, g.reach)))
        kernels = normalize_kernels(logits, groups=g.groups)
        output = gather(replicate_pad(features, g.reach), kernels, g._replace(margin=g.reach))
        if self.gate is not None:
            share = self.gate(relation.mean((-2, -1))).sigmoid()
            share = share.repeat_interleave(features.shape[1] // g.groups, 1)[..., None, None]
            output = torch.lerp(features, output, share.to(features.dtype))
        return logits, output

    def _check(self, relation: Tensor, features: Tensor) -> None:
        check_map("relation", relation, self.relation_channels, like=self.conv.weight)
        check_map("features", features)
        same = relation.shape[:1] + relation.shape[2:] == features.shape[:1] + features.shape[2:]
        if not same:
            raise ValueError(
                "features must be (batch, channels, height, width) with the batch and size of "
                f"relation, {tuple(relation.shape)}, got {tuple(features.shape)}"
            )
        if features.shape[1] % self.geometry.groups:
            raise ValueError(
                f"groups must divide the {features.shape[1]} channels of features, "
                f"got {self.geometry.groups}"
            )


def replicate_pad(image: Tensor, border: int) -> Tensor:
    """Repeat the edge of an image (B, C, H, W) ``border`` times on every side."""
    # Autocasting on a CPU pads half precision in float32.
    return F.pad(image, (border,) * 4, mode="replicate").to(image.dtype)
