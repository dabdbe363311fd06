"""Where samples are needed: attention to semantic detail.

The attention generator of Chen et al., Spatial Frequency Modulation, TPAMI 2025, is not described
in what is public. This one is our design, from the parts that the same author's related code has:
average pooling, a learnable high-pass filter, pyramid pooling, and a softmax over the image.
Shapes: features (B, C, H, W), logits (B, 1, H, W).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.checks import check_map, check_odd, check_positive
from freqfusion.layers.convolution import PointwiseConv2d, zero_bias
from freqfusion.layers.sampling import wide_dtype

_TAPS = 9
_CENTRE = 4


class SemanticHighFreqAttention(nn.Module):
    """Predict one bounded logit per pixel from detail and its context.

    Features are pooled and sharpened; a pyramid of average pools adds context. Each pooled map is
    projected to one channel before it is enlarged, which equals enlarging, concatenating and
    projecting. Logits are centred and bounded softly: within two of each other's middle they are
    what guarantees that the sampling lattice does not fold.

    Args:
        channels: C of the features.
        ratio: The pooled maps have C / ``ratio`` channels (at least two).
        bins: Sizes of the pooled maps. The bin of one shifts all logits alike and is taken out by
            the centring, as the softmax does without it: it is there for the published pyramid, and
            (2, 3, 7) is the same function with fewer parameters.
        highpass: Sharpen with a learnable filter per channel: twice the features minus a weighted
            mean of 3 x 3 pixels.
        pool: Odd width of the average pooling; 1 for none.
        logit_bound: Logits stay within plus and minus this number. Above 2 the lattice can fold.
        zero_init: Start with logits of zero, so that resampling starts as the identity.
    """

    def __init__(
        self,
        *,
        channels: int,
        ratio: int = 16,
        bins: Sequence[int] = (1, 2, 3, 7),
        highpass: bool = True,
        pool: int = 3,
        logit_bound: float = 2.0,
        zero_init: bool = True,
    ):
        super().__init__()
        check_positive(channels=channels, ratio=ratio)
        for size in bins:
            check_positive(**{"every size in bins": size})
        check_odd(pool=pool)
        if not logit_bound > 0:
            raise ValueError(f"logit_bound must be positive, got {logit_bound}")
        self.pool, self.logit_bound, self.zero_init = pool, logit_bound, zero_init
        self.highpass = LearnableHighPass(channels) if highpass else nn.Identity()
        self.context = nn.ModuleList(PooledContext(channels, ratio, size) for size in bins)
        self.project = PointwiseConv2d(channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero for the projections to logits with ``zero_init``, torch's own start otherwise."""
        if self.zero_init:
            zero_bias(self.project)
            nn.init.zeros_(self.project.weight)
            for branch in self.context:
                assert isinstance(branch, PooledContext)
                nn.init.zeros_(branch.project.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of features of any size: float32, or float64 where they are."""
        check_map("features", features, self.project.in_channels, like=self.project.weight)
        size = features.shape[-2:]
        if self.pool > 1:
            features = F.avg_pool2d(
                features, self.pool, stride=1, padding=self.pool // 2, count_include_pad=False
            )
        features = self.highpass(features)
        logits = self.project(features)
        # Half precision ends here: rounded logits would become rounded coordinates.
        logits = logits.to(wide_dtype(logits))
        for branch in self.context:
            pooled = branch(features).to(logits.dtype)
            logits = logits + F.interpolate(pooled, size=size, mode="bilinear")
        centred = logits - logits.mean(dim=(2, 3), keepdim=True)
        return self.logit_bound * torch.tanh(centred / self.logit_bound)


class LearnableHighPass(nn.Module):
    """Twice the features minus a learnable weighted mean of 3 x 3 pixels, for each channel.

    The weights are positive and sum to one, so constants pass unchanged. The border is repeated.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.logits = nn.Parameter(torch.ones(channels, _TAPS))
        with torch.no_grad():
            self.logits[:, _CENTRE] = 0

    def forward(self, features: Tensor) -> Tensor:
        """Sharpen (B, C, H, W)."""
        identity = torch.zeros_like(self.logits)
        identity[:, _CENTRE] = 2
        kernels = (identity - self.logits.softmax(dim=1)).view(-1, 1, 3, 3)
        padded = F.pad(features, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, kernels, groups=kernels.shape[0])


class PooledContext(nn.Module):
    """Average the features over ``size`` x ``size`` areas and give each a logit.

    Group normalisation with one group: batch normalisation has nothing to normalise where one
    image is pooled to one value per channel.
    """

    def __init__(self, channels: int, ratio: int, size: int):
        super().__init__()
        # One channel of one pixel cannot be normalised either.
        width = max(channels // ratio, 2)
        self.size = size
        self.reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.GroupNorm(1, width)
        self.project = nn.Conv2d(width, 1, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, 1, size, size)."""
        pooled = _mean_of_areas(features, self.size)
        logits: Tensor = self.project(F.relu(self.norm(self.reduce(pooled))))
        return logits


def _mean_of_areas(image: Tensor, size: int) -> Tensor:
    """Adaptive average pooling (B, C, H, W) to (B, C, size, size).

    Exporters know no such pooling for sizes that are not fixed, and get two matrix products.
    """
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(image, size)
    rows, columns = (_area_weights(length, size, image) for length in image.shape[-2:])
    return rows @ image @ columns.transpose(0, 1)


def _area_weights(length: int, size: int, like: Tensor) -> Tensor:
    """What each of ``length`` pixels counts in each of ``size`` areas, (size, length)."""
    pixels = torch.arange(length, device=like.device)
    areas = torch.arange(size, device=like.device)[:, None]
    start, stop = areas * length // size, ((areas + 1) * length + size - 1) // size
    inside = ((pixels >= start) & (pixels < stop)).to(like.dtype)
    return inside / (stop - start)
