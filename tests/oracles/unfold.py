"""The same maths on unfolded features, as research code does it without a compiled operator.

Every neighbourhood is written out: k * k copies of the features, k * k * scale ** 2 of them where
they are upsampled. These are the references for both numbers and speed.
"""

import torch
import torch.nn.functional as F


def reassemble(features, kernels, *, kernel_size, scale=1, padding_mode="zeros"):
    batch, channels, height, width = features.shape
    reach = kernel_size // 2
    mode = "constant" if padding_mode == "zeros" else "reflect"
    padded = F.pad(features, (reach,) * 4, mode=mode)
    taps = F.unfold(padded, kernel_size).view(batch, channels * kernel_size**2, height, width)
    taps = F.interpolate(taps, scale_factor=scale, mode="nearest")
    taps = taps.view(batch, channels, kernel_size**2, height * scale, width * scale)
    return (taps * kernels.unsqueeze(1)).sum(2)


def local_similarity(features, *, kernel_size=3, dilation=2):
    batch, channels, height, width = features.shape
    padding = dilation * (kernel_size // 2)
    taps = F.unfold(features, kernel_size, dilation=dilation, padding=padding)
    taps = taps.view(batch, channels, kernel_size**2, height, width)
    similarity = F.cosine_similarity(features.unsqueeze(2), taps, dim=1)
    centre = kernel_size**2 // 2
    return torch.cat([similarity[:, :centre], similarity[:, centre + 1 :]], dim=1)


def normalize(logits, window):
    kernels = F.softmax(logits, dim=1)
    if window is None:
        return kernels
    kernels = kernels * window.flatten()[:, None, None]
    return kernels / kernels.sum(1, keepdim=True)


def freqfusion(module, hr, lr):
    """What a FreqFusion (semi_conv, comp_feat_upsample and high pass on) returns, hr twice lr."""
    options = {"padding_mode": module.padding_mode}
    low, high = module.lowpass_kernel, module.highpass_kernel
    low_window, high_window = module.lowpass_window, module.highpass_window
    hr_guide, lr_guide = module.hr_compressor(hr), module.lr_compressor(lr)

    high_logits = module.highpass_generator(hr_guide)
    kernels = normalize(high_logits, high_window)
    hr_guide = 2 * hr_guide - reassemble(hr_guide, kernels, kernel_size=high, **options)
    low_logits = module.lowpass_generator(hr_guide)
    kernels = normalize(low_logits, low_window)
    lr_logits = module.lowpass_generator(lr_guide)
    low_logits = low_logits + reassemble(lr_logits, kernels, kernel_size=low, scale=2, **options)
    kernels = normalize(low_logits, low_window)
    lr_logits = module.highpass_generator(lr_guide)
    high_logits = high_logits + reassemble(lr_logits, kernels, kernel_size=low, scale=2, **options)

    smooth = reassemble(lr, kernels, kernel_size=low, scale=2, **options)
    high_kernels = normalize(high_logits, high_window)
    detail = hr - reassemble(hr, high_kernels, kernel_size=high, **options)
    if module.sampler is not None:
        smooth = resample(module.sampler, hr_guide, lr_guide, smooth)
    return kernels, hr + detail if module.hr_residual else detail, smooth


def resample(sampler, hr, lr, features):
    """The offset generator on the low-resolution lattice, as the paper's code arranges it."""
    hr, lr = sampler.hr_norm(hr), sampler.lr_norm(lr)
    batch, _, height, width = lr.shape
    groups = sampler.groups

    def guide(image):
        similarity = local_similarity(image, kernel_size=sampler.local_window)
        both = torch.cat([image, similarity], dim=1)
        return (similarity, image) if sampler.guide_features == "sim" else (both, both)

    (hr_offset, hr_scale), (lr_offset, lr_scale) = guide(hr), guide(lr)
    offset = sampler.lr_offset(lr_offset) + F.pixel_unshuffle(sampler.hr_offset(hr_offset), 2)
    if sampler.lr_scale is None:
        scale = 0.25
    else:
        scale = sampler.lr_scale(lr_scale) + F.pixel_unshuffle(sampler.hr_scale(hr_scale), 2)
        scale = scale.sigmoid()
    sub = torch.tensor([-0.25, 0.25], dtype=hr.dtype)
    start = torch.stack([sub.expand(2, 2), sub[:, None].expand(2, 2)])  # axis, sub-row, sub-column
    start = start[:, None].expand(2, groups, 2, 2).reshape(1, -1, 1, 1)
    offset = (offset * scale + start).view(batch, 2, groups * 4, height, width)
    centre_x = torch.arange(width, dtype=hr.dtype) + 0.5
    centre_y = torch.arange(height, dtype=hr.dtype)[:, None] + 0.5
    x = 2 * (centre_x + offset[:, 0]) / width - 1
    y = 2 * (centre_y + offset[:, 1]) / height - 1
    x, y = (F.pixel_shuffle(axis, 2).flatten(0, 1) for axis in (x, y))
    blocks = features.reshape(batch * groups, -1, *features.shape[-2:])
    sampled = F.grid_sample(
        blocks, torch.stack([x, y], -1), padding_mode="border", align_corners=False
    )
    return sampled.reshape(batch, -1, *sampled.shape[-2:])
