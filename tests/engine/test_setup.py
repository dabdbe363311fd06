"""Configurations are data, fit the machine, and describe models that train and are evaluated."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from freqfusion.data.registration import SYNTHETIC_SPLITS, register_datasets, register_synthetic
from freqfusion.data.synthetic import write_coco
from freqfusion.engine import Trainer, setup
from freqfusion.engine.setup import fit_device, load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "configs").rglob("*.yaml")
    if not path.name.startswith("Base-")
)
NAMES = [f"synthetic_panoptic_{split}_separated" for split in SYNTHETIC_SPLITS]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A few scenes, registered under the names of the configurations."""
    folder = write_coco(
        tmp_path_factory.mktemp("datasets") / "synthetic",
        num_train=4,
        num_val=1,
        size=(64, 80),
        progress=False,
        workers=1,
    )
    forget()
    register_synthetic(folder)
    yield folder
    forget()


def forget():
    for name in NAMES:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def arguments(config, *opts):
    return argparse.Namespace(
        config_file=str(ROOT / config), opts=list(opts), eval_only=False, resume=False
    )


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_trains_a_step_and_evaluates_an_image(config, scenes, tmp_path):
    overrides = ("SOLVER.MAX_ITER", "1", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2")
    cfg = setup(arguments(config, *overrides, "OUTPUT_DIR", str(tmp_path), "SEED", "1"))
    assert "freqfusion" in config.name or not cfg.MODEL.FREQFUSION.ENABLED
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = Trainer.test(cfg, trainer.model)
    assert {"bbox", "segm", "sem_seg", "panoptic_seg"} <= set(results)
    assert 0 <= results["sem_seg"]["mIoU"] <= 100
    assert (tmp_path / "model_final.pth").is_file()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert all(json.loads(line) for line in lines)


def test_a_methods_configuration_differs_from_its_baseline_by_one_key():
    folder = ROOT / "configs/synthetic/panoptic-segmentation"
    baseline = load_config(str(folder / "panoptic_fpn_r18.yaml"))
    method = load_config(str(folder / "freqfusion_panoptic_fpn_r18.yaml"))
    assert method.MODEL.FREQFUSION.ENABLED
    method.MODEL.FREQFUSION.ENABLED = False
    method.OUTPUT_DIR = baseline.OUTPUT_DIR
    assert method == baseline


def test_configuration_cannot_run_code(tmp_path):
    file = tmp_path / "evil.yaml"
    file.write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match=r"evil\.yaml holds a YAML tag that would run code"):
        load_config(str(file))


def test_overrides_come_last():
    cfg = load_config("", ["MODEL.FREQFUSION.LOWPASS_KERNEL", "3"])
    assert cfg.MODEL.FREQFUSION.LOWPASS_KERNEL == 3


@pytest.mark.parametrize(("gpu", "device"), [(False, "cpu"), (True, "cuda")])
def test_device_fits_the_machine(monkeypatch, gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    cfg = load_config("")
    assert fit_device(cfg) == (not gpu)
    assert device == cfg.MODEL.DEVICE


def test_registering_twice_changes_nothing(scenes):
    before = MetadataCatalog.get(NAMES[0]).panoptic_root
    register_datasets()
    assert MetadataCatalog.get(NAMES[0]).panoptic_root == before
