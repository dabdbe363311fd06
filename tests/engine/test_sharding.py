"""Weights shared out over processes: what each keeps, and what is saved and read."""

import json

import pytest
import torch
from sharding_workers import train_save_and_resume
from torch import nn
from toy_configs import change
from worker_runs import register

from freqfusion.engine.health import read_dump
from freqfusion.engine.launch import start_processes
from freqfusion.engine.sharding import blocks, shares_weights


def recorded(cfg, folder, count, *, sharded):
    folder.mkdir()
    cfg = change(cfg.clone(), {"SOLVER__FSDP__ENABLED": sharded, "DATASETS__TEST": ()})
    cfg.OUTPUT_DIR, path = str(folder), str(folder / "record.pt")
    assert start_processes(train_save_and_resume, (cfg, path), count=count, device="cpu") == 0
    return torch.load(path, weights_only=True)


def test_checkpoints_are_whole_and_taken_up_again(semantic_cfg, tmp_path, datasets):
    """By the same processes, and by one that shares nothing."""
    register()
    folder = tmp_path / "two"
    two = recorded(semantic_cfg, folder, 2, sharded=True)
    saved = torch.load(folder / "model_final.pth", weights_only=True)
    torch.testing.assert_close(saved["model"], dict(two["weights"]))
    torch.testing.assert_close(two["again"], two["weights"], rtol=0, atol=0)
    assert two["momentum"]
    torch.testing.assert_close(two["momentum again"], two["momentum"], rtol=0, atol=0)
    states = saved["trainer"]["_trainer"]["optimizer"]["state"]
    assert {n: one["momentum_buffer"].shape for n, one in states.items()} == {
        n: one.shape for n, one in two["momentum"].items()
    }
    assert "is that of sem_seg_head.predictor;" in two["said"]
    dump = read_dump(str(folder / "non_finite" / "iter_0.pth"))
    weights = dump.weights["sem_seg_head.predictor.weight"]
    assert weights.shape == two["weights"]["sem_seg_head.predictor.weight"].shape
    assert weights.isinf().all()
    notes = [json.loads((folder / f"record.pt.{rank}").read_text()) for rank in (0, 1)]
    assert sum(note["kept"] for note in notes) == notes[0]["all"]
    assert max(note["kept"] for note in notes) < 0.55 * notes[0]["all"]


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.stages = nn.ModuleList([nn.Sequential(Block(), Block()), nn.Sequential(Block())])
        self.after = block


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(1, 1), Inner())


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(1, 1)


def test_blocks_are_what_a_backbone_repeats():
    model = nn.Module()
    assert blocks(model) == []
    model.backbone = Backbone()
    stages = model.backbone.stages
    assert blocks(model) == [stages[0][0], stages[0][1], stages[1][0]]
    model.backbone = nn.Module()
    model.backbone.bottom_up, model.backbone.other = Backbone(), Backbone()
    assert len(blocks(model)) == 3


@pytest.mark.parametrize("enabled", [True, False])
def test_one_process_has_nothing_to_share(enabled, semantic_cfg):
    assert not shares_weights(change(semantic_cfg, {"SOLVER__FSDP__ENABLED": enabled}))
