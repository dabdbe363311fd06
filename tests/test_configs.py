"""Every configuration trains a step and evaluates an image, on data of its own layout."""

import argparse
import json
import math
from functools import cache
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from rehearsed import registered_at

from freqfusion.data.rehearsal import write_rehearsal
from freqfusion.data.synthetic import write_coco
from freqfusion.engine import Trainer, preflight, setup
from freqfusion.engine.checkpoint import RunCheckpointer
from freqfusion.engine.setup import fit_device, load_config

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = [
    path.relative_to(ROOT)
    for path in sorted(ROOT.glob("*/*/*.yaml"))
    if not path.name.startswith("Base-")
]
# What is evaluated; a Mask2Former of instances or things and stuff has the same.
SCORES = {
    "detection": {"bbox"},
    "instance-segmentation": {"segm"},
    "semantic-segmentation": {"sem_seg"},
    "panoptic-segmentation": {"panoptic_seg", "sem_seg", "segm"},
}
# Method -> the keys of MODEL in which it may differ from its baseline.
SWITCHES = {
    "freqfusion": (
        "FREQFUSION.ENABLED",
        "FREQFUSION.INIT",
        "FREQFUSION.FEATURE_RESAMPLE_NORM",
        "FREQFUSION.COMPRESS_RATIO",
    ),
    "sfm": (
        "SFM.",
        "META_ARCHITECTURE",
        "BACKBONE.NAME",
        "SEM_SEG_HEAD.NAME",
        "MASK2FORMER.PIXEL_DECODER",
    ),
}
# Trained by default: each data set with each task, each method with each architecture, and each
# backbone. All others are slow.
QUICK = {
    "ade20k/semantic-segmentation/freqfusion_segnext_t",
    "ade20k/semantic-segmentation/freqfusion_semantic_fpn_r50",
    "ade20k/semantic-segmentation/mask2former_internimage_t",
    "ade20k/semantic-segmentation/sfm_mask2former_convnext_t",
    "camvid/semantic-segmentation/freqfusion_semantic_fpn_lite0",
    "camvid/semantic-segmentation/sfm_fcn_lite0",
    "cityscapes/instance-segmentation/freqfusion_mask_rcnn_r50",
    "cityscapes/panoptic-segmentation/freqfusion_panoptic_fpn_r50",
    "cityscapes/semantic-segmentation/concat_convnext_t",
    "cityscapes/semantic-segmentation/freqfusion_concat_r50",
    "cityscapes/semantic-segmentation/sfm_fcn_r50_d8",
    "coco/detection/freqfusion_faster_rcnn_r50_1x",
    "coco/detection/freqfusion_retinanet_r50_1x",
    "coco/instance-segmentation/freqfusion_mask2former_r50",
    "coco/instance-segmentation/mask_rcnn_swin_t_1x",
    "coco/instance-segmentation/sfm_freqfusion_mask_rcnn_r50_1x",
    "coco/panoptic-segmentation/mask2former_swin_t",
    "coco/panoptic-segmentation/sfm_panoptic_fpn_r50_1x",
    "synthetic/instance-segmentation/mask_rcnn_r18",
    "synthetic/panoptic-segmentation/freqfusion_mask2former_r18",
    "synthetic/panoptic-segmentation/panoptic_fpn_r18",
    "synthetic/semantic-segmentation/fcn_r18",
    "synthetic/semantic-segmentation/sfm_semantic_fpn_r18",
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.TIMM.PRETRAINED": "False",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": "50",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "20",
    "MODEL.MASK2FORMER.TRAIN_NUM_POINTS": "256",
    "MODEL.MASK2FORMER.ENCODER_LAYERS": "1",
    "MODEL.MASK2FORMER.DECODER_LAYERS": "3",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "16",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MAX_SIZE_TRAIN": "96",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MAX_SIZE_TEST": "96",
    "INPUT.CROP.SIZE": "[64, 64]",
    "INPUT.SCALE_JITTER.SIZE": "(64, 80)",
    "SOLVER.AMP.ENABLED": "False",
    "SOLVER.MAX_ITER": "1",
    "SOLVER.STEPS": "()",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.BASE_LR": "0.0001",
    "DATALOADER.NUM_WORKERS": "0",
    "SEED": "1",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    size = (64, 80)
    root = tmp_path_factory.mktemp("datasets")
    write_rehearsal(root, num_train=4, num_val=1, size=size)
    write_coco(root / "synthetic", num_train=4, num_val=1, size=size, progress=False, workers=1)
    with pytest.MonkeyPatch.context() as patch, registered_at(root, patch):
        yield root


def trained(config):
    """Return a configuration as a parameter of the test, slow where another one stands for it."""
    marks = () if str(config.with_suffix("")) in QUICK else pytest.mark.slow
    return pytest.param(config, id=str(config), marks=marks)


@pytest.mark.parametrize("config", map(trained, CONFIGS))
def test_trains_a_step_and_evaluates_an_image(config, data, tmp_path, monkeypatch):
    """Without writing its weights, which takes as long as the rest."""
    monkeypatch.setattr(RunCheckpointer, "save", lambda *_, **__: None)
    small = SMALL | {"OUTPUT_DIR": str(tmp_path)}
    arguments = argparse.Namespace(
        config_file=str(ROOT / config),
        opts=[part for pair in small.items() for part in pair],
        eval_only=False,
        resume=False,
    )
    cfg = setup(arguments)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results
    assert SCORES[config.parent.name] <= set(results)
    scores = [score for task in results.values() for score in task.values()]
    assert all(0 <= score <= 100 or math.isnan(score) for score in scores)
    written = json.loads((tmp_path / "results.json").read_text())
    assert set(written["datasets"][cfg.DATASETS.TEST[0]]) == set(results)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_is_checked_and_built(config, data, tmp_path):
    """As it is, in full size; without memory for its weights."""
    cfg = load_config(str(ROOT / config), ["MODEL.TIMM.PRETRAINED", "False"])
    fit_device(cfg)
    cfg.MODEL.WEIGHTS = ""
    preflight(cfg)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_stands_beside_its_counterpart(config):
    """A method differs from its baseline by its switches only; every baseline has a method."""
    method, _, rest = config.name.partition("_")
    if method not in SWITCHES:
        counterparts = [ROOT / config.parent / f"{name}_{config.name}" for name in SWITCHES]
        assert any(path.is_file() for path in counterparts)
        assert not loaded(config).MODEL.FREQFUSION.ENABLED
        return
    cfg = loaded(config)
    # SFM with FreqFusion stands beside SFM without it.
    rest = f"sfm_{rest.removeprefix('freqfusion_')}" if rest.startswith("freqfusion_") else rest
    baseline = loaded(config.parent / rest)
    different = {name.removeprefix("MODEL.") for name in differences(cfg, baseline)}
    allowed = SWITCHES["freqfusion" if "_freqfusion_" in f"_{config.name}" else method]
    assert all(name.startswith(allowed) for name in different - {"OUTPUT_DIR"})
    assert cfg.OUTPUT_DIR != baseline.OUTPUT_DIR


@cache
def loaded(config):
    return load_config(str(ROOT / config))


def differences(one, other, path=""):
    """Full names of the keys in which two configurations differ."""
    for key in one:
        if isinstance(one[key], CfgNode):
            yield from differences(one[key], other[key], f"{path}{key}.")
        elif one[key] != other[key]:
            yield f"{path}{key}"


def test_quick_configurations_exist():
    assert {str(config.with_suffix("")) for config in CONFIGS} >= QUICK


def test_output_folders_differ():
    folders = [loaded(config).OUTPUT_DIR for config in CONFIGS]
    assert len(set(folders)) == len(folders)
