"""Modulated backbones: the bare ones until they are trained, and known answers afterwards."""

import threading

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import Backbone, build_backbone
from sfm_backbones import IMAGE, KINDS, STAGES, Picks, build_pair, disturb, relative_errors, sfm_cfg
from sfm_signals import band_limited
from torch import nn

from freqfusion.modeling import TimmBackbone
from freqfusion.modeling.sfm import modulate_backbone, record_modulations

SIZES = [(64, 96), (65, 97), (33, 130)]


def image(height=64, width=96, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_it_is_the_bare_backbone(kind):
    """Invariant 21, for every backbone, on odd sizes too: relative 1e-5."""
    modulated, bare = build_pair(kind)
    for size in SIZES[:2]:
        with torch.no_grad():
            found, expected = modulated(image(*size)), bare(image(*size))
        assert max(relative_errors(found, expected).values()) <= 1e-5
    assert modulated.output_shape() == bare.output_shape()
    assert modulated.size_divisibility == bare.size_divisibility
    assert modulated.padding_constraints == bare.padding_constraints


def test_untrained_resnet50():
    """Invariant 21: d2's R50; mappings at 1/4, 1/8 and 1/16; parameters counted by hand.

    A head on C channels with C / 16 pooled ones: C * (1 + 9) + 1 for the projection, the high-pass
    and the bias, and four bins of C * C / 16 + 3 * C / 16 (convolution, norm, projection).
    """
    keys = {"MODEL__RESNETS__DEPTH": 50, "MODEL__RESNETS__RES2_OUT_CHANNELS": 256}
    modulated, bare = build_pair(**keys)
    with torch.no_grad():
        found, mappings, logits = modulated.forward_with_mappings(image(64, 96))
        expected = bare(image(64, 96))
        assert max(relative_errors(modulated(image(64, 96)), expected).values()) <= 1e-5
    assert [mapping.size for mapping in mappings["res5"]] == [(16, 24), (8, 12), (4, 6)]
    assert [len(mappings[name]) for name in STAGES] == [0, 1, 2, 3]
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "res2": (1, 1, 16, 24),
        "res3": (1, 1, 8, 12),
        "res4": (1, 1, 4, 6),
    }
    assert max(relative_errors(found, expected).values()) <= 1e-5
    for name, channels in [("res2", 256), ("res3", 512), ("res4", 1024)]:
        width = channels // 16
        by_hand = channels * 10 + 1 + 4 * (channels * width + 3 * width)
        assert sum(p.numel() for p in modulated.sfm[name].parameters()) == by_hand


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_keys_are_the_wrapped_backbones(kind, tmp_path):
    """Also those of named_parameters; a published file loads by Detectron2's checkpointer."""
    modulated, bare = build_pair(kind)
    state, expected = modulated.state_dict(), bare.state_dict()
    assert [name for name in state if not name.startswith("sfm.")] == list(expected)
    names = [name for name, _ in modulated.named_parameters() if not name.startswith("sfm.")]
    assert names == [name for name, _ in bare.named_parameters()]
    with torch.no_grad():
        for value in expected.values():
            if value.is_floating_point():
                value.mul_(1.1)
    torch.save({"model": bare.state_dict()}, tmp_path / "bare.pth")
    DetectionCheckpointer(modulated).load(str(tmp_path / "bare.pth"))
    for name, value in expected.items():
        assert torch.equal(modulated.state_dict()[name], value), name
    # What it writes is read by itself, strictly, and by the bare backbone but for what is new.
    other, _ = build_pair(kind)
    assert not any(other.load_state_dict(modulated.state_dict(), strict=True))
    missing, unexpected = bare.load_state_dict(modulated.state_dict(), strict=False)
    assert not missing
    assert unexpected
    assert all(name.startswith("sfm.") for name in unexpected)


@pytest.mark.parametrize("kind", ["resnet", "convnext", "swin"])
def test_modulated_maps_have_the_right_shapes(kind):
    modulated, bare = build_pair(kind)
    disturb(modulated)
    for size in [*SIZES, (1, 1)]:
        with torch.no_grad():
            found, expected = modulated(image(*size)), bare(image(*size))
        assert {name: value.shape for name, value in found.items()} == {
            name: value.shape for name, value in expected.items()
        }
        assert all(value.isfinite().all() for value in found.values())
        assert torch.equal(found["res2"], expected["res2"])
        if min(size) > 60:
            assert relative_errors(found, expected)["res5"] > 1e-3


def test_no_state_between_calls_and_no_influence_between_images():
    """Invariant 16: two sizes alternating, and an image alone or in a batch."""
    modulated, _ = build_pair("convnext")
    disturb(modulated)
    small, large = image(64, 64, batch=2), image(96, 130, seed=1)
    before = set(modulated.__dict__)
    with torch.no_grad():
        first = [modulated(small), modulated(large)]
        for found, expected in zip([modulated(small), modulated(large)], first, strict=True):
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        alone = modulated(small[1:])
    for name, value in alone.items():
        assert torch.allclose(value, first[0][name][1:], atol=1e-4)
    assert set(modulated.__dict__) == before
    assert not any(isinstance(value, torch.Tensor) for value in modulated.__dict__.values())


def test_threads_do_not_see_each_other():
    modulated, _ = build_pair("convnext")
    disturb(modulated)
    sizes = [(64, 64), (64, 96), (96, 64)]
    expected = [modulated.forward_with_mappings(image(*size))[1] for size in sizes]
    found = [None] * len(sizes)

    def work(index):
        with torch.no_grad(), record_modulations() as seen:
            for _ in range(3):
                modulated(image(*sizes[index]))
        found[index] = seen

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seen, mappings in zip(found, expected, strict=True):
        assert len(seen) == 3
        for modulations in seen:
            for one, other in zip(modulations.mappings["res5"], mappings["res5"], strict=True):
                assert torch.equal(one.displacement, other.displacement)


def test_recording_reaches_through_a_pyramid():
    backbone = build_backbone(sfm_cfg(builder="build_sfm_freqfusion_fpn_backbone"), IMAGE)
    with record_modulations() as seen:
        backbone(image())
        backbone(image(32, 32))
    assert [list(modulations.logits) for modulations in seen] == [["res2", "res3", "res4"]] * 2
    assert seen[1].mappings["res3"][0].size == (8, 8)
    backbone(image())
    assert len(seen) == 2


def test_bfloat16_autocast():
    """Invariant 17: coordinates stay float32; maps come in the type of the bare backbone's."""
    modulated, bare = build_pair("swin")
    disturb(modulated)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        features, mappings, _ = modulated.forward_with_mappings(image())
        found, expected = modulated(image()), bare(image())
    for name, value in found.items():
        assert value.dtype == features[name].dtype == expected[name].dtype
        assert value.isfinite().all()
    assert {mapping.displacement.dtype for mapping in mappings["res5"]} == {torch.float32}


@pytest.mark.parametrize("kind", ["resnet", "internimage"])
def test_the_task_teaches_the_attention(kind):
    """Invariant 14: at the identity start, gradients of a task reach the heads of all stages.

    The map of one stage alone reaches those before it.
    """
    modulated, _ = build_pair(kind)
    modulated.train()
    modulated(image(96, 128, batch=2))["res5"].square().sum().backward()
    for name in ("res2", "res3", "res4"):
        gradient = modulated.sfm[name].attention.project.weight.grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    modulated.zero_grad()
    modulated(image(96, 128, batch=2))["res3"].square().sum().backward()
    reached = [
        name
        for name in ("res2", "res3", "res4")
        if (weight := modulated.sfm[name].attention.project.weight).grad is not None
        and weight.grad.abs().max() > 0
    ]
    assert reached == ["res2"]


def test_detached_grid_and_implicit_gradients():
    """Detached, only logits carry gradients. Implicit, the exit has gradients of its own."""

    def gradient(**options):
        modulated = modulate_backbone(Picks(), **options)
        disturb(modulated)
        images = band_limited(64, 0.05, batch=3).float().view(1, 3, 64, 64)
        modulated(images)["res5"].square().sum().backward()
        return modulated.sfm["res2"].attention.project.weight.grad

    assert gradient(detach_grid=True) is None
    values, implicit = gradient(), gradient(grad="implicit")
    assert (values - implicit).abs().max() > 1e-3 * values.abs().max()


def test_without_demodulation_maps_leave_as_they_are():
    """No stages beside them: whoever reads them takes them for the image's own."""
    modulated = modulate_backbone(Picks(), demodulate="none")
    disturb(modulated)
    features = modulated(image())
    expected, mappings, _ = modulated.forward_with_mappings(image())
    assert type(features) is dict
    assert mappings["res5"]
    assert all(torch.equal(features[name], value) for name, value in expected.items())


@pytest.mark.parametrize("kind", ["convnext", "swin"])
def test_checkpointing_changes_nothing(kind):
    """The resampling inside a recomputed stage runs twice; logits keep their gradients."""
    results = []
    for use in (False, True):
        section = "SWIN" if kind == "swin" else "TIMM"
        torch.manual_seed(0)
        keys = {f"MODEL__{section}__USE_CHECKPOINT": use, f"MODEL__{section}__DROP_PATH_RATE": 0.0}
        modulated = build_backbone(sfm_cfg(kind, **keys), IMAGE).eval()
        disturb(modulated, scale=0.1)
        images = image(64, 96).requires_grad_()
        features, mappings, logits = modulated.forward_with_mappings(images)
        loss = sum(value.square().mean() for value in [*features.values(), *logits.values()])
        (loss + mappings["res5"][2].displacement.square().sum()).backward()
        results.append({name: p.grad for name, p in modulated.named_parameters()})
    for name, gradient in results[0].items():
        other = results[1][name]
        assert (gradient is None) == (other is None), name
        assert gradient is None or torch.allclose(gradient, other, rtol=1e-3, atol=1e-5), name


def test_maps_of_timm_cover_the_padded_image_between():
    """Detectron2 pads to 32 anyway; only the maps that leave are cropped as the bare ones are."""
    modulated, bare = build_pair("convnext")
    assert isinstance(modulated, TimmBackbone)
    features, mappings, _ = modulated.forward_with_mappings(image(33, 65))
    assert features["res2"].shape[-2:] == (16, 24)
    assert mappings["res5"][-1].out_size == (2, 3)
    assert modulated(image(33, 65))["res5"].shape == bare(image(33, 65))["res5"].shape


class Grows(Backbone):
    """One whose map is larger than its strides say."""

    def __init__(self):
        super().__init__()
        self.step2 = nn.Conv2d(3, 3, 4, 4)
        self.step3 = nn.Conv2d(3, 3, 3, 2, 1)
        self._out_features = ["res2", "res3"]
        self._out_feature_strides = {"res2": 4, "res3": 8}
        self._out_feature_channels = {"res2": 3, "res3": 3}

    def forward(self, images):
        maps = self.step2(images)
        return {"res2": maps, "res3": nn.functional.pad(self.step3(maps), (1, 1))}


class Skips(Grows):
    """One whose step is never taken."""

    def forward(self, images):
        maps = self.step2(images)
        return {"res2": maps, "res3": maps[..., ::2, ::2]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Grows, r"res3 has \(4, 8\) pixels where its stages give \(4, 6\): pad images to a multip"),
        (Skips, "step3 never ran, so nothing was resampled there: name other modules"),
    ],
)
def test_backbones_that_do_otherwise(make, message):
    modulated = modulate_backbone(make())
    with pytest.raises(RuntimeError, match=message):
        modulated(image(32, 48))


def test_wrong_channels():
    backbone = Picks()
    backbone._out_feature_channels["res2"] = 4
    modulated = modulate_backbone(backbone)
    with pytest.raises(ValueError, match="module step3 must be called with a map of 4 channels"):
        modulated(image(32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demodulate": "entry"}, "demodulate must be one of"),
        ({"solver": "bisection"}, "solver must be one of"),
        ({"strength": 2.0}, r"strength must lie in \[0, 1\]"),
    ],
)
def test_errors(options, message):
    backbone = Picks()
    with pytest.raises(ValueError, match=message):
        modulate_backbone(backbone, **options)
    # Nothing was changed by the attempt.
    assert not any(module._forward_pre_hooks for module in backbone.modules())
    assert modulate_backbone(backbone)
