"""Configurations are data and fit the machine; data sets are registered once."""

import pytest
import torch
from detectron2.data import MetadataCatalog

from freqfusion.data.registration import register_datasets
from freqfusion.engine.setup import fit_device, load_config


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


def test_registering_twice_changes_nothing(datasets):
    metadata = MetadataCatalog.get("synthetic_panoptic_val_separated")
    before = metadata.panoptic_root
    register_datasets()
    assert metadata.panoptic_root == before
    assert before.startswith(str(datasets))
