"""Swin: against attention pixel by pixel, against timm, of any size, under the published names."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from freqfusion import get_freqfusion_cfg
from freqfusion.layers.windows import (
    relative_position_index,
)
from freqfusion.modeling import SwinTransformer

SMALL = {"embed_dim": 8, "depths": (2, 3), "num_heads": (2, 4), "out_features": ("res2", "res3")}
SIZES = [(33, 95), (1, 1), (24, 24), (5, 40)]


def randomized(module, seed=0):
    """Weights of any size, so that every part has its say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            scale = 1 if value.dim() == 1 or "table" in name else value[0].numel() ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return module


def small(**changes):
    return randomized(SwinTransformer(**({"window_size": 3} | SMALL | changes))).eval()


def images(*size, batch=1, seed=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def slow_attention(attn, maps, size, shift):
    """Attention of each pixel of padded maps to all pixels of its window, in one image.

    The windows lie on a grid that begins at (shift, shift); those before it are cut off by the edge
    of the map. So nothing is rolled and nothing needs a mask.
    """
    height, width, channels = maps.shape
    heads = attn.num_heads
    depth = channels // heads
    parts = attn.qkv(maps).view(height, width, 3, heads, depth)
    result = torch.empty_like(maps)
    for y in range(height):
        for x in range(width):
            top, left = ((at - shift) // size * size + shift for at in (y, x))
            window = [
                (v, u)
                for v in range(max(top, 0), min(top + size, height))
                for u in range(max(left, 0), min(left + size, width))
            ]
            for head in range(heads):
                query = parts[y, x, 0, head]
                logits = torch.stack(
                    [
                        query @ parts[v, u, 1, head] / math.sqrt(depth)
                        + attn.relative_position_bias_table[
                            (y - v + size - 1) * (2 * size - 1) + (x - u + size - 1), head
                        ]
                        for v, u in window
                    ]
                )
                values = torch.stack([parts[v, u, 2, head] for v, u in window])
                result[y, x, head * depth : (head + 1) * depth] = logits.softmax(0) @ values
    return attn.proj(result)


def slow_swin(model, image, size):
    """The published network on one image (3, H, W), written out."""

    def padded(maps, divisor):
        height, width = maps.shape[:2]
        full = maps.new_zeros(-(-height // divisor) * divisor, -(-width // divisor) * divisor, 0)
        full = full.new_zeros(*full.shape[:2], maps.shape[2])
        full[:height, :width] = maps
        return full

    pixels = padded(image.permute(1, 2, 0), 4)
    kernel = model.patch_embed.proj
    maps = torch.stack(
        [
            torch.stack(
                [
                    (kernel.weight * pixels[y : y + 4, x : x + 4].permute(2, 0, 1)).sum((1, 2, 3))
                    for x in range(0, pixels.shape[1], 4)
                ]
            )
            for y in range(0, pixels.shape[0], 4)
        ]
    )
    maps = maps + kernel.bias
    if model.patch_embed.norm is not None:
        maps = model.patch_embed.norm(maps)
    results = []
    for index, stage in enumerate(model.layers):
        for number, block in enumerate(stage.blocks):
            height, width = maps.shape[:2]
            shift = size // 2 if number % 2 else 0
            attended = slow_attention(block.attn, padded(block.norm1(maps), size), size, shift)
            maps = maps + attended[:height, :width]
            maps = maps + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(maps))))
        results.append(getattr(model, f"norm{index}")(maps).permute(2, 0, 1))
        if stage.downsample is not None:
            even = padded(maps, 2)
            four = [even[0::2, 0::2], even[1::2, 0::2], even[0::2, 1::2], even[1::2, 1::2]]
            joined = stage.downsample.norm(torch.cat(four, -1))
            maps = joined @ stage.downsample.reduction.weight.T
    return results


class TestNumbers:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("window", [2, 3])
    def test_are_those_of_attention_pixel_by_pixel(self, window, size):
        model = small(window_size=window).double()
        image = images(*size).double()
        with torch.no_grad():
            expected = slow_swin(model, image[0], window)
            for ours, theirs in zip(model(image).values(), expected, strict=True):
                torch.testing.assert_close(ours[0], theirs, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(
        "changes", [{"qkv_bias": False}, {"patch_norm": False}, {"mlp_ratio": 1.5}], ids=str
    )
    def test_follow_the_arguments(self, changes):
        model = small(**changes).double()
        image = images(20, 12).double()
        with torch.no_grad():
            for ours, expected in zip(
                model(image).values(), slow_swin(model, image[0], 3), strict=True
            ):
                torch.testing.assert_close(ours[0], expected, rtol=1e-9, atol=1e-9)
        hidden = [stage.blocks[0].mlp.fc1.out_features for stage in model.layers]
        assert hidden == ([12, 24] if "mlp_ratio" in changes else [32, 64])

    def test_are_timms_where_windows_fit(self):
        """At 224 x 224, with windows moved in the last stage too, as published."""
        timm = pytest.importorskip("timm", reason="needs the extra 'timm'")
        sizes = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
        options = {"features_only": True, "always_partition": True, **sizes}
        theirs = timm.create_model("swin_tiny_patch4_window7_224", **options).eval()
        ours = randomized(SwinTransformer(**sizes)).eval()
        state = {}
        for name, value in ours.state_dict().items():
            if name.startswith("layers."):
                stage, rest = name.removeprefix("layers.").split(".", 1)
                name = f"layers_{int(stage) + rest.startswith('downsample.')}.{rest}"
            if not name.startswith("norm"):
                state[name] = value
        theirs.load_state_dict(state)
        image = images(224, 224)
        with torch.no_grad():
            expected, maps = theirs(image), list(ours(image).values())
            for index, (one, other) in enumerate(zip(maps, expected, strict=True)):
                other = getattr(ours, f"norm{index}")(other).permute(0, 3, 1, 2)
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


class TestContract:
    def test_configuration_reaches_the_constructor(self):
        cfg = get_freqfusion_cfg()
        changes = {
            "EMBED_DIM": 16,
            "DEPTHS": [1, 2],
            "NUM_HEADS": [1, 4],
            "WINDOW_SIZE": 5,
            "MLP_RATIO": 2.0,
            "QKV_BIAS": False,
            "DROP_PATH_RATE": 0.25,
            "PATCH_NORM": False,
            "OUT_FEATURES": ["res3"],
            "USE_CHECKPOINT": True,
        }
        assert set(changes) == set(cfg.MODEL.SWIN)
        for name, value in changes.items():
            cfg.MODEL.SWIN[name] = value
        found = SwinTransformer.from_config(cfg, ShapeSpec(channels=4))
        assert found == {k.lower(): v for k, v in changes.items()} | {"in_channels": 4}
        assert list(SwinTransformer(cfg, ShapeSpec(channels=4)).output_shape()) == ["res3"]

    def test_gradients_reach_every_parameter(self):
        model = small(out_features=("res3",), drop_path_rate=0.0).train()
        maps = model(images(33, 41))
        weights = {name: torch.randn_like(value) for name, value in maps.items()}
        sum((maps[name] * weights[name]).sum() for name in maps).backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert idle == []


class TestStateDict:
    def test_has_as_many_parameters_as_published(self):
        with torch.device("meta"):
            model = SwinTransformer()
        # 28,288,354 of the published classifier of 1000 classes, less its last norm and its head,
        # and with a norm of each stage.
        norms = [2 * 96 * 2**stage for stage in range(4)]
        expected = 28_288_354 - 2 * 768 - (768 * 1000 + 1000) + sum(norms)
        assert sum(p.numel() for p in model.parameters()) == expected

    def test_published_buffers_are_accepted(self):
        model = small()
        state = model.state_dict()
        for name in [name for name in state if name.endswith("bias_table")]:
            state[name.replace("bias_table", "index")] = relative_position_index(3)
        other = SwinTransformer(**SMALL | {"window_size": 3})
        other.load_state_dict(state, strict=True)
        image = images(20, 20)
        with torch.no_grad():
            assert torch.equal(other.eval()(image)["res3"], model(image)["res3"])

    def test_weights_of_another_window_are_refused(self):
        state = small(window_size=2).state_dict()
        index = "layers.0.blocks.0.attn.relative_position_index"
        state[index] = relative_position_index(2)
        with pytest.raises(RuntimeError, match=f'"{index}" has 16 elements .* expects 81'):
            small().load_state_dict(state)

    def test_begins_as_published(self):
        torch.manual_seed(0)
        model = SwinTransformer(embed_dim=48, num_heads=(1, 2, 4, 8))
        for name, value in model.named_parameters():
            if "norm" in name:
                assert value.eq(1 if name.endswith("weight") else 0).all(), name
            elif name.endswith("bias") and "patch_embed" not in name:
                assert not value.any(), name
            elif value.numel() > 10_000:
                assert value.std().item() == pytest.approx(0.02, rel=0.05), name
