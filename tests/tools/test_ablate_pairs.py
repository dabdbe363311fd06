"""Runs of one seed are pairs: the same images in the same order, changed in the same way."""

import pytest
import torch
from ablations import ROOT
from rehearsed import registered_at

pytest.importorskip("detectron2")

from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from freqfusion.data.synthetic import write_coco
from freqfusion.engine import Trainer
from freqfusion.engine.setup import load_config
from freqfusion.tools._ablate.matrix import read_matrix
from freqfusion.tools._ablate.runs import plan


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_coco(root / "synthetic", num_train=9, num_val=1, size=(64, 80), progress=False, workers=1)
    with pytest.MonkeyPatch.context() as patch, registered_at(root, patch):
        yield root


def images_of(run, folder, steps=2):
    """File names and pixels of the batches that the first steps of a training take."""
    size = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu"]
    cfg = load_config(str(run.config), [*run.options(), *size, "OUTPUT_DIR", str(folder)])
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda _, inputs: seen.extend((one["file_name"], one["image"]) for one in inputs[0])
    )
    with EventStorage() as trainer.storage:
        for _ in range(steps):
            trainer.run_step()
            trainer.storage.step()
    return seen


def test_methods_of_a_seed_see_the_same_images(datasets, tmp_path):
    """Though they draw different numbers of random weights."""
    matrix = read_matrix(ROOT / "configs/synthetic/ablation.yaml")
    runs = plan(matrix, tmp_path, ["semantic_fpn"], ["bilinear", "sfm_pyramid_freqfusion"], [0, 1])
    seen = {(run.method, run.seed): images_of(run, tmp_path / "out") for run in runs}
    for seed in (0, 1):
        ours, reference = (seen[name, seed] for name in ("sfm_pyramid_freqfusion", "bilinear"))
        assert [name for name, _ in ours] == [name for name, _ in reference]
        assert len({name for name, _ in ours}) == 4
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, reference, strict=True))
    names = [[name for name, _ in seen["bilinear", seed]] for seed in (0, 1)]
    assert names[0] != names[1]
