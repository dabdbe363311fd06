"""What exporters get instead of operations that they do not know."""

import torch
import torch.nn.functional as F

from freqfusion.layers.sfm import attention, invert_displacement

DYNAMIC = torch.export.Dim.DYNAMIC


class Inversion(torch.nn.Module):
    def forward(self, displacement):
        return invert_displacement(displacement)[0]


class Pooling(torch.nn.Module):
    def forward(self, features):
        return attention._mean_of_areas(features, 3)


def smooth(height, width, amplitude, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rough = amplitude * torch.randn(2, 2, 5, 5, generator=generator)
    return F.interpolate(rough, size=(height, width), mode="bicubic")


def exported(module, example):
    program = torch.export.export(
        module,
        (example,),
        dynamic_shapes=({2: DYNAMIC, 3: DYNAMIC},),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    return program.module()


def test_inversion_is_one_loop_of_the_graph():
    """The same positions at other sizes, taller or wider, with damped and with full steps."""
    run = exported(Inversion(), smooth(20, 30, 0.5))
    called = [str(node.target) for node in run.graph.nodes if node.op == "call_function"]
    loops = [name for name in called if "while_loop" in name]
    assert len(loops) == 1
    for size in ((31, 17), (9, 40)):
        displacement = smooth(*size, 0.5, seed=sum(size))
        torch.testing.assert_close(
            run(displacement), invert_displacement(displacement)[0], atol=1e-6, rtol=0
        )


def test_means_of_areas_are_adaptive_pooling():
    """Areas of adaptive pooling overlap where the sides do not divide."""
    run = exported(Pooling(), torch.rand(2, 4, 6, 8))
    for size in ((3, 3), (7, 10), (4, 5)):
        features = torch.rand(2, 4, *size, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(run(features), F.adaptive_avg_pool2d(features, 3))
