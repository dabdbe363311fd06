"""InternImage as a Detectron2 backbone, alone and under the pyramid.

Its numbers are compared with the reference's in ``test_golden_internimage.py``.
"""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from toy_configs import change, resnet18_cfg

from freqfusion.config import get_freqfusion_cfg
from freqfusion.modeling import InternImage
from freqfusion.modeling.internimage import BlockSettings, InternImageBlock

IMAGE = ShapeSpec(channels=3)
TINY = {"channels": 8, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8), "drop_path_rate": 0.0}
PUBLISHED = {
    "T": {"channels": 64, "depths": (4, 4, 18, 4), "groups": (4, 8, 16, 32)},
    "B": {
        "channels": 112,
        "depths": (4, 4, 21, 4),
        "groups": (7, 14, 28, 56),
        "post_norm": True,
    },
}


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    return InternImage(**{**TINY, **options})


def config(builder="build_internimage_freqfusion_fpn_backbone", **keys):
    cfg = resnet18_cfg()
    cfg.MODEL.BACKBONE.NAME = builder
    for key, value in TINY.items():
        number = list(value) if isinstance(value, tuple) else value
        cfg.MODEL.INTERNIMAGE[key.upper()] = number
    return change(cfg, keys)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("T", 28_769_520),
        ("B", 94_909_920),
    ],
)
def test_published_sizes(name, parameters):
    """Counted by hand in the class's docstring; with a classifier 29.9 and 97.5 million.

    The classifier, for 8C channels at the end: a convolution to 12C and its normalisation, then
    1000 classes. The paper's table has 30 and 97 million.
    """
    options = PUBLISHED[name]
    with torch.device("meta"):
        model = InternImage(**options)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    last = 8 * options["channels"]
    head = last * last * 3 // 2 + 2 * (last * 3 // 2) + 1000 * (last * 3 // 2) + 1000
    assert (parameters + head) / 1e6 == pytest.approx({"T": 30, "B": 97}[name], abs=0.5)
    maps = model(torch.empty(2, 3, 129, 64, device="meta"))
    channels = options["channels"]
    assert {stage: tuple(value.shape) for stage, value in maps.items()} == {
        "res2": (2, channels, 33, 16),
        "res3": (2, 2 * channels, 17, 8),
        "res4": (2, 4 * channels, 9, 4),
        "res5": (2, 8 * channels, 5, 2),
    }


def test_published_names():
    names = set(tiny().state_dict())
    block = "levels.2.blocks.1."
    wanted = {f"patch_embed.{n}" for n in ("conv1.weight", "conv1.bias", "norm1.1.weight")}
    wanted |= {f"patch_embed.{n}" for n in ("conv2.weight", "conv2.bias", "norm2.1.weight")}
    wanted |= {f"{block}{n}" for n in ("norm1.0.weight", "norm2.0.bias", "gamma1", "gamma2")}
    wanted |= {f"{block}mlp.{n}" for n in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")}
    wanted |= {f"{block}dcn.{n}.weight" for n in ("dw_conv.0", "dw_conv.1.1", "offset", "mask")}
    wanted |= {f"{block}dcn.{n}.weight" for n in ("input_proj", "output_proj")}
    wanted |= {"levels.2.downsample.conv.weight", "levels.2.downsample.norm.1.weight"}
    wanted |= {"levels.3.norm.0.weight"}
    assert wanted <= names
    assert not {"levels.2.downsample.conv.bias", "levels.3.downsample.conv.weight"} & names
    assert not any(name.startswith("levels.3.norm") for name in tiny(post_norm=True).state_dict())
    assert not any("gamma" in name for name in tiny(layer_scale=0.0).state_dict())


def test_published_names_with_batch_normalization():
    """It comes before the change of the layout, layer normalization after it."""
    names = set(tiny(norm="BN").state_dict())
    norms = ("patch_embed.norm1.0", "patch_embed.norm2.0", "levels.0.downsample.norm.0")
    wanted = {f"{name}.running_var" for name in (*norms, "levels.0.blocks.0.dcn.dw_conv.1.0")}
    assert wanted <= names
    assert {"levels.0.norm.0.weight", "levels.0.blocks.0.norm1.0.weight"} <= names


def test_parts_of_the_largest_models():
    """Where their parameters are, and that all of them learn."""
    torch.manual_seed(0)
    huge = {"depthwise_kernel": 5, "center_feature_scale": True, "layer_scale": 0.0}
    model = tiny(**huge, res_post_norm=True, post_norm_blocks=[1])
    names = set(model.state_dict())
    block = "levels.2.blocks.0."
    assert {f"{block}res_post_norm2.0.bias", "levels.2.post_norms.0.0.weight"} <= names
    assert f"{block}dcn.center_feature_scale_proj_weight" in names
    assert not any(name.startswith("levels.1.post_norms") for name in names)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    sum(value.square().mean() for value in model(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    giant = tiny(**huge, post_norm=True, res_post_norm=True, post_norm_blocks=[0, 1])
    names = set(giant.state_dict())
    assert not any("res_post_norm" in name for name in names)
    assert {"levels.2.post_norms.1.0.bias", "levels.3.norm.0.weight"} <= names
    with pytest.raises(ValueError, match=r"post_norm_blocks must be from 0 to 1, got \[2\]"):
        tiny(post_norm_blocks=[0, 2])


@pytest.mark.parametrize(("post_norm", "layer_scale"), [(False, 0.0), (True, 0.3)])
def test_a_block_is_the_sum_of_its_branches(post_norm, layer_scale):
    """Normalised before or after, and scaled; nothing is dropped out of training."""
    settings = BlockSettings(mlp_ratio=2.0, layer_scale=layer_scale, post_norm=post_norm)
    block = InternImageBlock(channels=8, groups=2, drop_path_rate=0.5, settings=settings).eval()
    maps = torch.randn(2, 5, 4, 8)
    # A scale of both norms makes their place matter.
    for norm in (block.norm1, block.norm2):
        nn.init.constant_(norm[0].weight, 1.7)

    def norm(x):
        return F.layer_norm(x, (8,), eps=1e-6) * 1.7

    def perceptron(x):
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        return F.gelu(x @ fc1.weight.T + fc1.bias) @ fc2.weight.T + fc2.bias

    scale = layer_scale or 1.0
    expected = maps
    for work in (block.dcn, perceptron):
        branch = norm(work(expected)) if post_norm else work(norm(expected))
        expected = expected + scale * branch
    torch.testing.assert_close(block(maps), expected)


def test_stages_follow_the_paper():
    """Stem, blocks, norm of the stage, step: by its own parts, put together here."""
    model = tiny()
    image = torch.randn(1, 3, 37, 50)
    stem = model.patch_embed
    maps = F.conv2d(image, stem.conv1.weight, stem.conv1.bias, stride=2, padding=1)
    maps = F.gelu(F.layer_norm(maps.permute(0, 2, 3, 1), (4,), eps=1e-6))
    maps = F.conv2d(
        maps.permute(0, 3, 1, 2), stem.conv2.weight, stem.conv2.bias, stride=2, padding=1
    )
    maps = F.layer_norm(maps.permute(0, 2, 3, 1), (8,), eps=1e-6)
    results = model(image)
    for index, level in enumerate(model.levels):
        for block in level.blocks:
            maps = block(maps)
        maps = F.layer_norm(maps, maps.shape[-1:], eps=1e-6)
        torch.testing.assert_close(results[f"res{index + 2}"], maps.permute(0, 3, 1, 2))
        if index < 3:
            kernel = level.downsample.conv.weight
            maps = F.conv2d(maps.permute(0, 3, 1, 2), kernel, stride=2, padding=1)
            maps = maps.permute(0, 2, 3, 1)
            maps = F.layer_norm(maps, maps.shape[-1:], eps=1e-6)


def test_without_norms_of_stages_the_sum_itself_is_returned():
    model = tiny(post_norm=True)
    image = torch.randn(1, 3, 32, 32)
    expected = model.levels[0].blocks[0](model.patch_embed(image)).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(image)["res2"], expected)


def test_start():
    """Perceptrons with a deviation of 0.02; torch would have 1 / sqrt(3 * 64) = 0.07."""
    block = tiny().levels[3].blocks[0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not block.mlp.fc1.bias.any()
    assert not block.dcn.offset.weight.any()
    # Xavier's rule: uniform up to sqrt(6 / (64 + 64)).
    assert block.dcn.input_proj.weight.abs().max().item() == pytest.approx(0.2165, rel=0.02)


# From the configuration


def test_keys_are_the_arguments_and_the_defaults_are_ts():
    cfg = get_freqfusion_cfg()
    arguments = InternImage.from_config(cfg, IMAGE)
    assert set(arguments) == set(InternImage.__init__.__annotations__) - {"return"}
    assert {name: arguments[name] for name in PUBLISHED["T"]} == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in PUBLISHED["T"].items()
    }
    keys = {"MODEL__INTERNIMAGE__POST_NORM": True, "MODEL__INTERNIMAGE__OFFSET_SCALE": 2.0}
    backbone = build_backbone(config("build_internimage_backbone", **keys), ShapeSpec(channels=4))
    assert type(backbone) is InternImage
    assert backbone.patch_embed.conv1.in_channels == 4
    assert backbone.levels[1].norm is None
    assert backbone.levels[1].blocks[0].dcn.offset_scale == 2.0
