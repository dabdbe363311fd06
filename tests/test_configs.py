"""Every configuration trains a step and evaluates an image, on data of its own layout."""

import argparse
import json
import math
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from rehearsed import registered_at

from freqfusion.data.rehearsal import write_rehearsal
from freqfusion.data.synthetic import write_coco
from freqfusion.engine import Trainer, preflight, setup
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
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.TIMM.PRETRAINED": "False",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": "50",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "20",
    "MODEL.MASK2FORMER.TRAIN_NUM_POINTS": "256",
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
    """A parameter of the test; the largest backbones take long and gigabytes."""
    large = config.stem.endswith(("swin_b", "swin_l"))
    return pytest.param(config, id=str(config), marks=pytest.mark.slow if large else ())


@pytest.mark.parametrize("config", map(trained, CONFIGS))
def test_trains_a_step_and_evaluates_an_image(config, data, tmp_path):
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
    results = Trainer.test(cfg, trainer.model)
    assert SCORES[config.parent.name] <= set(results)
    scores = [score for task in results.values() for score in task.values()]
    assert all(0 <= score <= 100 or math.isnan(score) for score in scores)
    assert (tmp_path / "model_final.pth").is_file()
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
        assert not load_config(str(ROOT / config)).MODEL.FREQFUSION.ENABLED
        return
    cfg = load_config(str(ROOT / config))
    # SFM with FreqFusion stands beside SFM without it.
    rest = f"sfm_{rest.removeprefix('freqfusion_')}" if rest.startswith("freqfusion_") else rest
    baseline = load_config(str(ROOT / config.parent / rest))
    different = {name.removeprefix("MODEL.") for name in differences(cfg, baseline)}
    allowed = SWITCHES["freqfusion" if "_freqfusion_" in f"_{config.name}" else method]
    assert all(name.startswith(allowed) for name in different - {"OUTPUT_DIR"})
    assert cfg.OUTPUT_DIR != baseline.OUTPUT_DIR


def differences(one, other, path=""):
    """Full names of the keys in which two configurations differ."""
    for key in one:
        if isinstance(one[key], CfgNode):
            yield from differences(one[key], other[key], f"{path}{key}.")
        elif one[key] != other[key]:
            yield f"{path}{key}"


def test_output_folders_differ():
    folders = [load_config(str(ROOT / config)).OUTPUT_DIR for config in CONFIGS]
    assert len(set(folders)) == len(folders)
