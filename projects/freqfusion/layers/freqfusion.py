"""FreqFusion: fuse a coarse and a fine feature map with predicted filters and offsets.

Chen, Fu, Gu, Yan, Harada, Huang: Frequency-aware Feature Fusion for Dense Image Prediction,
TPAMI 2024. Symbols: hr (B, Ch, Ho, Wo) is the fine map, lr (B, Cl, H, W) the coarse one.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freqfusion.layers.checks import (
    check_choice,
    check_map,
    check_odd,
    check_positive,
    check_same_batch,
)
from freqfusion.layers.convolution import PointwiseConv2d, convolve_together, zero_bias
from freqfusion.layers.neighbourhood.geometry import accumulation_dtype
from freqfusion.layers.reassembly import (
    CENTER_WEIGHT,
    PaddingMode,
    favor_center,
    normalize_kernels,
    reassemble,
)
from freqfusion.layers.reassembly import hamming_window as make_hamming_window
from freqfusion.layers.renaming import rename_on_load
from freqfusion.layers.sampler import FusionInit, LocalSimilaritySampler, SamplerFeatures
from freqfusion.layers.sampling import resize_nearest

UpsampleMode = Literal["nearest", "bilinear", "bicubic"]

# Names in the research code, by their beginnings, and here.
ORIGINAL_NAMES = {
    "hr_channel_compressor.": "hr_compressor.",
    "lr_channel_compressor.": "lr_compressor.",
    "content_encoder.": "lowpass_generator.",
    "content_encoder2.": "highpass_generator.",
    "dysampler.": "sampler.",
}
ORIGINAL_BUFFERS = {
    "hamming_lowpass": "lowpass_window",
    "hamming_highpass": "highpass_window",
}
_GENERATOR_INIT_STD = 0.001


class FusionSteps(NamedTuple):
    """What :meth:`FreqFusion.steps` computes on its way, in the shapes of the module's docstring.

    ``hr_guide`` (B, C, Ho, Wo) and ``lr_guide`` (B, C, H, W) are what the offsets are predicted
    from; ``lowpass`` and ``highpass`` (B, k * k, Ho, Wo) are kernels that sum to one, the latter
    those of the smoothing whose result is taken from the fine map, and None for a filter that is
    off. ``upsampled`` is the coarse map at the fine size before it is resampled; ``hr`` and ``lr``
    are the module's results.
    """

    hr_guide: Tensor
    lr_guide: Tensor
    lowpass: Tensor | None
    highpass: Tensor | None
    upsampled: Tensor
    hr: Tensor
    lr: Tensor


class FreqFusion(nn.Module):
    """Prepare a fine and a coarse feature map for being added or concatenated.

    The adaptive low-pass filter smooths and upsamples the coarse map, the offset generator moves
    its features to more consistent neighbours, and the adaptive high-pass filter adds to the fine
    map the detail that the way through the network has blurred. Argument names are those of the
    research code.

    Args:
        hr_channels: Channels Ch of the fine map.
        lr_channels: Channels Cl of the coarse map.
        lowpass_kernel: Odd width of the low-pass kernels.
        highpass_kernel: Odd width of the high-pass kernels.
        compressed_channels: Width of the maps that filters and offsets are predicted from.
        encoder_kernel: Odd width of the convolutions that predict them.
        encoder_dilation: Dilation of the convolutions that predict the filters.
        upsample_mode: How the coarse map is brought to the fine size without ``semi_conv`` or
            without ``use_low_pass``.
        align_corners: As in ``torch.nn.functional.interpolate``, for the two smooth modes.
        feature_resample: Use the offset generator.
        feature_resample_group: Channel groups of the coarse map that move independently.
        feature_resample_norm: Normalise the offset generator's inputs.
        comp_feat_upsample: Upsample the coarse logits with predicted kernels instead of repeating
            them, and sharpen the compressed fine map first (``semi_conv`` only).
        use_low_pass: Use the low-pass filter; without it the coarse map is only interpolated.
        use_high_pass: Use the high-pass filter; without it the fine map is returned as it came.
        hr_residual: Add the high-pass part to the fine map instead of returning it alone.
        semi_conv: Predict filters on both resolutions and sum the logits, instead of predicting
            them once from the sum of both maps.
        hamming_window: Weight the kernels with a Hamming window.
        padding_mode: What the filters see beyond the border: ``"zeros"``, which published weights
            were trained with, or ``"reflect"``.
        sampler_features: What offsets are predicted from, ``"sim_concat"`` or ``"sim"``; see
            :class:`~freqfusion.layers.LocalSimilaritySampler`.
        init: ``"published"``, the start of published weights: uniform kernels, which blur, and
            random offsets; or ``"identity"``, with which an untrained module returns the fine map
            and the coarse map by nearest upsampling, both to 1 %.
        use_checkpoint: Recompute the module in the backward pass instead of keeping its
            intermediate maps.
    """

    def __init__(
        self,
        *,
        hr_channels: int,
        lr_channels: int,
        lowpass_kernel: int = 5,
        highpass_kernel: int = 3,
        compressed_channels: int = 64,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        upsample_mode: UpsampleMode = "nearest",
        align_corners: bool = False,
        feature_resample: bool = False,
        feature_resample_group: int = 4,
        feature_resample_norm: bool = True,
        comp_feat_upsample: bool = True,
        use_low_pass: bool = True,
        use_high_pass: bool = True,
        hr_residual: bool = True,
        semi_conv: bool = True,
        hamming_window: bool = True,
        padding_mode: PaddingMode = "zeros",
        sampler_features: SamplerFeatures = "sim_concat",
        init: FusionInit = "published",
        use_checkpoint: bool = False,
    ):
        super().__init__()
        check_positive(
            hr_channels=hr_channels,
            lr_channels=lr_channels,
            compressed_channels=compressed_channels,
            encoder_dilation=encoder_dilation,
            feature_resample_group=feature_resample_group,
        )
        check_odd(
            lowpass_kernel=lowpass_kernel,
            highpass_kernel=highpass_kernel,
            encoder_kernel=encoder_kernel,
        )
        check_choice(UpsampleMode, upsample_mode=upsample_mode)
        check_choice(PaddingMode, padding_mode=padding_mode)
        check_choice(SamplerFeatures, sampler_features=sampler_features)
        check_choice(FusionInit, init=init)
        if not (use_low_pass or use_high_pass or feature_resample):
            raise ValueError(
                "use_low_pass, use_high_pass and feature_resample are all off, which leaves plain"
                " interpolation: use InterpolationUpsampling (FUSE_TYPE nearest or bilinear)"
            )
        if align_corners and upsample_mode == "nearest":
            raise ValueError("align_corners=True needs upsample_mode 'bilinear' or 'bicubic'")
        if feature_resample and lr_channels % feature_resample_group:
            raise ValueError(
                f"feature_resample_group must divide lr_channels, since each group of channels is "
                f"moved as a whole; got {feature_resample_group} groups for {lr_channels} channels"
            )
        self.hr_channels, self.lr_channels = hr_channels, lr_channels
        self.lowpass_kernel, self.highpass_kernel = lowpass_kernel, highpass_kernel
        self.upsample_mode, self.align_corners = upsample_mode, align_corners
        self.comp_feat_upsample, self.semi_conv = comp_feat_upsample, semi_conv
        self.hr_residual = hr_residual
        self.padding_mode: PaddingMode = padding_mode
        self.use_checkpoint = use_checkpoint
        self.init = init

        def generator(kernel: int) -> nn.Conv2d:
            padding = encoder_dilation * (encoder_kernel // 2)
            return nn.Conv2d(
                compressed_channels,
                kernel**2,
                encoder_kernel,
                padding=padding,
                dilation=encoder_dilation,
            )

        self.hr_compressor = PointwiseConv2d(hr_channels, compressed_channels)
        self.lr_compressor = PointwiseConv2d(lr_channels, compressed_channels)
        self.lowpass_generator = generator(lowpass_kernel) if use_low_pass else None
        self.highpass_generator = generator(highpass_kernel) if use_high_pass else None
        self.sampler = None
        if feature_resample:
            self.sampler = LocalSimilaritySampler(
                channels=compressed_channels,
                groups=feature_resample_group,
                kernel_size=encoder_kernel,
                normalize=feature_resample_norm,
                guide_features=sampler_features,
                init=init,
            )
        self.lowpass_window: Tensor | None
        self.highpass_window: Tensor | None
        for name, size in (("lowpass", lowpass_kernel), ("highpass", highpass_kernel)):
            window = make_hamming_window(size) if hamming_window else None
            self.register_buffer(f"{name}_window", window, persistent=False)
        self.reset_parameters()
        rename_on_load(self, ORIGINAL_NAMES, ORIGINAL_BUFFERS)

    def reset_parameters(self) -> None:
        """Initialize as ``init`` says; the compressors by Xavier."""
        for compressor in (self.hr_compressor, self.lr_compressor):
            nn.init.xavier_uniform_(compressor.weight)
            zero_bias(compressor)
        for generator, window in (
            (self.lowpass_generator, self.lowpass_window),
            (self.highpass_generator, self.highpass_window),
        ):
            if generator is not None:
                nn.init.normal_(generator.weight, std=_GENERATOR_INIT_STD)
                self._reset_bias(generator, window)
        if self.sampler is not None:
            self.sampler.reset_parameters()

    def _reset_bias(self, generator: nn.Conv2d, window: Tensor | None) -> None:
        zero_bias(generator)
        if self.init == "identity":
            assert generator.bias is not None
            favor_center(generator.bias, generator.out_channels, CENTER_WEIGHT, window)
            if self.semi_conv:
                # The logits of both resolutions add up.
                with torch.no_grad():
                    generator.bias.mul_(0.5)

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Filter both maps.

        Args:
            hr_feat: (B, Ch, Ho, Wo), the fine map.
            lr_feat: (B, Cl, H, W), the coarse map; usually half the size, but any size works (see
                ``out_size`` of :func:`~freqfusion.layers.reassemble`).

        Returns:
            The low-pass kernels (B, lowpass_kernel ** 2, Ho, Wo), None without ``use_low_pass``;
            the fine map (B, Ch, Ho, Wo) and the coarse map at the fine size (B, Cl, Ho, Wo), ready
            to be added or concatenated.

        Raises:
            ValueError: if the maps do not fit the module or each other.
        """
        self._check_inputs(hr_feat, lr_feat)
        if self.use_checkpoint and torch.is_grad_enabled():
            maps: tuple[Tensor | None, Tensor, Tensor] = checkpoint(
                self._fuse, hr_feat, lr_feat, use_reentrant=False
            )
            return maps
        return self._fuse(hr_feat, lr_feat)

    def steps(self, hr_feat: Tensor, lr_feat: Tensor) -> FusionSteps:
        """The same computation with what it computes on its way, for analysis; nothing is kept."""
        self._check_inputs(hr_feat, lr_feat)
        return self._steps(hr_feat, lr_feat)

    def _fuse(self, hr: Tensor, lr: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        steps = self._steps(hr, lr)
        return steps.lowpass, steps.hr, steps.lr

    def _steps(self, hr: Tensor, lr: Tensor) -> FusionSteps:
        size = (hr.shape[-2], hr.shape[-1])
        hr_guide, lr_guide = self.hr_compressor(hr), self.lr_compressor(lr)
        if self.semi_conv:
            hr_guide, lowpass, highpass = self._semi_conv_kernels(hr_guide, lr_guide)
        else:
            lowpass, highpass = self._joint_kernels(hr_guide, lr_guide)
        if lowpass is None:
            upsampled = self._interpolate(lr, size)
        elif self.semi_conv:
            upsampled = self._upsample(lr, lowpass)
        else:
            upsampled = self._filter(self._interpolate(lr, size), lowpass, self.lowpass_kernel)
        if highpass is not None:
            hr = self._sharpen(hr, highpass, 2.0 if self.hr_residual else 1.0)
        resampled = upsampled
        if self.sampler is not None:
            resampled = self.sampler(hr_guide, lr_guide, upsampled)
        return FusionSteps(hr_guide, lr_guide, lowpass, highpass, upsampled, hr, resampled)

    def _semi_conv_kernels(
        self, hr_guide: Tensor, lr_guide: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Kernels from logits that are predicted on both resolutions and summed.

        Returns the fine guide too, since it is sharpened on the way.
        """
        highpass_logits = None
        if self.highpass_generator is not None:
            highpass_logits = self.highpass_generator(hr_guide)
            if self.comp_feat_upsample:
                kernels = normalize_kernels(highpass_logits, self.highpass_window)
                hr_guide = self._sharpen(hr_guide, kernels, 2.0)
        lr_lowpass_logits, lr_highpass_logits = self._generate(lr_guide)
        lowpass = None
        if self.lowpass_generator is not None and lr_lowpass_logits is not None:
            logits = self.lowpass_generator(hr_guide)
            fine: Tensor | None = None
            if self.comp_feat_upsample:
                fine = normalize_kernels(logits, self.lowpass_window)
            logits = self._add_coarse(logits, lr_lowpass_logits, fine)
            lowpass = normalize_kernels(logits, self.lowpass_window)
        if highpass_logits is None or lr_highpass_logits is None:
            return hr_guide, lowpass, None
        fine = lowpass if self.comp_feat_upsample else None
        highpass_logits = self._add_coarse(highpass_logits, lr_highpass_logits, fine)
        return hr_guide, lowpass, normalize_kernels(highpass_logits, self.highpass_window)

    def _add_coarse(self, logits: Tensor, coarse: Tensor, kernels: Tensor | None) -> Tensor:
        """Add coarse logits, upsampled with kernels or, without any, repeated."""
        if kernels is not None:
            return logits + self._upsample(coarse, kernels)
        return logits + resize_nearest(coarse, (logits.shape[-2], logits.shape[-1]))

    def _joint_kernels(
        self, hr_guide: Tensor, lr_guide: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Kernels from logits that are predicted once, from the sum of both maps."""
        guide = hr_guide + resize_nearest(lr_guide, (hr_guide.shape[-2], hr_guide.shape[-1]))
        lowpass, highpass = self._generate(guide)
        if lowpass is not None:
            lowpass = normalize_kernels(lowpass, self.lowpass_window)
        if highpass is not None:
            highpass = normalize_kernels(highpass, self.highpass_window)
        return lowpass, highpass

    def _generate(self, guide: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Logits of the low-pass and the high-pass kernels from one guide; None for one off."""
        lowpass, highpass = self.lowpass_generator, self.highpass_generator
        if lowpass is None or highpass is None:
            return (
                None if lowpass is None else lowpass(guide),
                None if highpass is None else highpass(guide),
            )
        logits = convolve_together([lowpass, highpass], guide)
        taps = self.lowpass_kernel**2
        return logits[:, :taps], logits[:, taps:]

    def _interpolate(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        corners = None if self.upsample_mode == "nearest" else self.align_corners
        return F.interpolate(lr, size=size, mode=self.upsample_mode, align_corners=corners)

    def _upsample(self, lr: Tensor, kernels: Tensor) -> Tensor:
        return reassemble(
            lr,
            kernels,
            kernel_size=self.lowpass_kernel,
            scale=2,
            padding_mode=self.padding_mode,
            out_size=(kernels.shape[-2], kernels.shape[-1]),
        )

    def _filter(self, hr: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
        return reassemble(hr, kernels, kernel_size=kernel_size, padding_mode=self.padding_mode)

    def _sharpen(self, image: Tensor, kernels: Tensor, share: float) -> Tensor:
        """``share`` times the image minus what the kernels make of it.

        One filter with kernels for both, so that the image is passed over once and no smooth map
        is kept for the backward pass.
        """
        # In float32, since 2 minus a small weight keeps little of the weight in half precision.
        taps = torch.arange(kernels.shape[1], device=kernels.device)
        centre = share * (taps == kernels.shape[1] // 2).to(accumulation_dtype(kernels.dtype))
        return self._filter(image, centre[:, None, None] - kernels, self.highpass_kernel)

    def _check_inputs(self, hr: Tensor, lr: Tensor) -> None:
        weight = self.hr_compressor.weight
        check_map("hr_feat", hr, self.hr_channels, like=weight)
        check_map("lr_feat", lr, self.lr_channels, like=weight)
        check_same_batch(hr_feat=hr, lr_feat=lr)
