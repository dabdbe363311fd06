"""Every layer that reads maps at computed places, with one number of one tensor made not finite.

A program, since what it looks for ends the process: ``tests/layers/test_sampling.py`` runs it.
"""

import math

import torch
from torch import nn

from freqfusion.layers import (
    AdaptiveResampling,
    DySampleUpsampling,
    FreqFusion,
    LocalSimilaritySampler,
    MappingStack,
    MultiScaleAdaptiveUpsampling,
    MultiScaleDeformableAttention,
    NonUniformUpsample,
    ThreePointReassembly,
    deformable_attention,
    deformable_convolution_v3,
    sample_at_offsets,
)
from freqfusion.layers.deformable_convolution import DeformableConvolutionV3
from freqfusion.layers.sfm import SemanticHighFreqAttention, modulate, warp_edge_target

VALUES = (math.nan, math.inf, -math.inf, 1e30)
SIZE = (6, 8)


class Function(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function, **options):
        super().__init__()
        self.function, self.options = function, options

    def forward(self, *tensors):
        return self.function(*tensors, **self.options)


class Resampled(nn.Module):
    """Adaptive resampling and one of the layers that undo it."""

    def __init__(self, undo):
        super().__init__()
        attention = SemanticHighFreqAttention(channels=8, bins=(2,))
        self.resampling = AdaptiveResampling(channels=8, attention=attention)
        self.undo = undo

    def forward(self, fine):
        """The layers get what a strided layer makes of the modulated map."""
        modulated, mapping, logits = self.resampling(fine)
        coarse, stack = modulated[..., ::2, ::2], MappingStack([mapping])
        if isinstance(self.undo, ThreePointReassembly):
            return self.undo(fine, coarse, mapping)
        if isinstance(self.undo, MultiScaleAdaptiveUpsampling):
            return self.undo(coarse, coarse, stack, SIZE)
        target = warp_edge_target(fine[:, :1], SIZE, stack)
        return self.undo(coarse, stack, SIZE), (logits - target).square()


def cases():
    """Name, module and the shapes of its inputs."""
    fine, coarse, maps = (2, 8, *SIZE), (2, 8, 3, 4), [SIZE, (3, 4)]
    samples = (2, 5, 2, 2, 3)
    fusion = FreqFusion(hr_channels=8, lr_channels=8, compressed_channels=8, feature_resample=True)
    yield "FreqFusion", fusion, fine, coarse
    yield "LocalSimilaritySampler", LocalSimilaritySampler(channels=8), fine, coarse, coarse
    yield "DySample", DySampleUpsampling(lr_channels=8), fine, coarse
    yield "sample_at_offsets", Function(sample_at_offsets), coarse, (2, 2, 4, *SIZE)
    yield (
        "deformable_attention",
        Function(lambda v, x, w: deformable_attention(v, maps, x, w)),
        (2, 60, 2, 4),
        (*samples, 2),
        samples,
    )
    attention = MultiScaleDeformableAttention(embed_dim=8, num_levels=2, num_heads=2, num_points=3)
    run = Function(lambda q, p, v: attention(q, p, v, maps))
    run.attention = attention
    yield "MultiScaleDeformableAttention", run, (2, 5, 8), (2, 5, 2, 2), (2, 60, 8)
    yield (
        "deformable_convolution_v3",
        Function(deformable_convolution_v3, kernel_size=3, padding=1, groups=2),
        (2, *SIZE, 8),
        (2, *SIZE, 36),
        (2, *SIZE, 18),
    )
    yield "DCNv3", DeformableConvolutionV3(channels=8, groups=2), (2, *SIZE, 8)
    yield "modulate", Function(modulate), fine, (2, 2, *SIZE)
    yield "modulate bicubic", Function(modulate, mode="bicubic"), fine, (2, 2, *SIZE)
    yield "SFM", Resampled(NonUniformUpsample(grad="implicit")), fine
    relations = MultiScaleAdaptiveUpsampling(
        guide_channels=8, dilations=(1,), out_stride=1, guide_density=True
    )
    yield "SFM with relations", Resampled(relations), fine
    yield "SFM at a hop", Resampled(ThreePointReassembly(channels=8, offsets=True)), fine


def tensors_of(result):
    """The tensors of the result of a layer."""
    parts = result if isinstance(result, tuple) else (result,)
    return [part for part in parts if part is not None]


def main():
    """Print each case before it runs, so that the last line says what has ended the process."""
    for name, module, *shapes in cases():
        for dtype in (torch.float32, torch.bfloat16):
            module.to(dtype)
            names = [*range(len(shapes)), *dict(module.named_parameters())]
            for changed in names:
                # Weights become numbers of the same kinds, whatever their type.
                if not isinstance(changed, int) and dtype != torch.float32:
                    continue
                for value in VALUES if isinstance(changed, int) else (math.nan,):
                    print(name, dtype, changed, value, flush=True)
                    inputs = [torch.rand(shape).to(dtype) for shape in shapes]
                    state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
                    target = inputs[changed] if isinstance(changed, int) else None
                    if target is None:
                        target = module.get_parameter(changed).detach()
                    target.view(-1)[target.numel() // 2] = value
                    outputs = tensors_of(module(*(t.requires_grad_() for t in inputs)))
                    sum(output.float().sum() for output in outputs).backward()
                    module.load_state_dict(state)
    print("done")


if __name__ == "__main__":
    main()
