"""An interrupted run gives what an uninterrupted one gives, to the last bit."""

import pytest
from checkpoint_runs import assert_same_state, disturb, train
from toy_configs import change

from freqfusion.data.bad_samples import BadSample, Policy
from freqfusion.engine import Trainer

FLIPS_AND_CROPS = {
    "SOLVER__MAX_ITER": 4,
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "INPUT__CROP__ENABLED": True,
    "INPUT__COLOR_JITTER__ENABLED": True,
    "DATALOADER__ASPECT_RATIO_GROUPING": True,
    "DATASETS__TEST": (),
}
MASK2FORMER = {
    "MODEL__META_ARCHITECTURE": "Mask2Former",
    "MODEL__SEM_SEG_HEAD__NAME": "Mask2FormerHead",
    "MODEL__BACKBONE__NAME": "build_resnet_backbone",
    "MODEL__MASK2FORMER__CONV_DIM": 32,
    "MODEL__MASK2FORMER__MASK_DIM": 32,
    "MODEL__MASK2FORMER__HIDDEN_DIM": 32,
    "MODEL__MASK2FORMER__NHEADS": 2,
    "MODEL__MASK2FORMER__NUM_QUERIES": 6,
    "MODEL__MASK2FORMER__DECODER_LAYERS": 2,
    "MODEL__MASK2FORMER__ENCODER_LAYERS": 1,
    "MODEL__MASK2FORMER__TRAIN_NUM_POINTS": 64,
    "MODEL__MASK2FORMER__DROPOUT": 0.1,
    "SOLVER__OPTIMIZER": "ADAMW",
}
SFM = {
    "MODEL__META_ARCHITECTURE": "SFMSegmentor",
    "MODEL__BACKBONE__NAME": "build_sfm_freqfusion_fpn_backbone",
    "MODEL__SFM__ENABLED": True,
    "MODEL__SFM__PSP_RATIO": 4,
}
BFLOAT16 = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bfloat16"}
FLOAT16 = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "float16"}
PRECISE_BN = {
    "TEST__PRECISE_BN__ENABLED": True,
    "TEST__PRECISE_BN__NUM_ITER": 2,
    "TEST__EVAL_PERIOD": 2,
}


def check(cfg, tmp_path, workers=0):
    """Kills before the last iteration but one; the checkpoint is one iteration older."""
    change(cfg, FLIPS_AND_CROPS)
    whole, broken = cfg.clone(), cfg.clone()
    whole.OUTPUT_DIR, broken.OUTPUT_DIR = str(tmp_path / "whole"), str(tmp_path / "broken")
    broken.DATALOADER.NUM_WORKERS = workers
    expected = train(whole)
    assert train(broken, killed_before=3) is None
    disturb()
    resumed = train(broken, resume=True, seed=99)
    assert resumed.start_iter == 2
    assert_same_state(resumed, expected)


@pytest.mark.slow
def test_panoptic_fpn(small_cfg, tmp_path):
    check(small_cfg, tmp_path, workers=2)


def test_mask2former_with_random_points_and_dropout(semantic_cfg, tmp_path):
    check(change(semantic_cfg, MASK2FORMER), tmp_path, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [{}, BFLOAT16])
def test_sfm(semantic_cfg, tmp_path, precision):
    check(change(semantic_cfg, SFM | precision), tmp_path)


def test_scale_of_the_losses(semantic_cfg):
    trainer = Trainer(change(semantic_cfg, FLOAT16))
    scaler = trainer._trainer.grad_scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": 128.0, "_growth_tracker": 7})
    trainer.iter = 3
    trainer.checkpointer.save("model_0000003", iteration=3)
    resumed = Trainer(semantic_cfg)
    resumed.resume_or_load()
    assert resumed.start_iter == 4
    assert resumed._trainer.grad_scaler.state_dict() == scaler.state_dict()


@pytest.mark.slow
def test_precise_statistics(semantic_cfg, tmp_path):
    """They come from the same images, whether or not the run was interrupted before."""
    check(change(semantic_cfg, PRECISE_BN), tmp_path)


def test_images_left_out_are_those_of_the_whole_run(semantic_cfg):
    cfg = change(semantic_cfg, {"SOLVER__MAX_ITER": 1, "DATASETS__TEST": ()})
    trainer = Trainer(cfg)
    trainer.skipped_images.policy = Policy("skip", 3)
    trainer.skipped_images.skip(BadSample("a.png", "is broken", 7))
    trainer.skipped_images.note("b.png is odd")
    trainer.train()
    resumed = Trainer(cfg)
    resumed.resume_or_load()
    assert resumed.skipped_images.state_dict() == trainer.skipped_images.state_dict()
    assert resumed.skipped_images.skipped["a.png"] == BadSample("a.png", "is broken", 7)


def test_drawn_seed_is_kept(semantic_cfg, tmp_path):
    """Without SEED the order of the images is another one in each run, but not in a resumed one."""
    cfg = change(semantic_cfg, {"SEED": -1, "SOLVER__MAX_ITER": 1, "DATASETS__TEST": ()})
    first = place(train(cfg, seed=1))
    disturb()
    cfg.SOLVER.MAX_ITER = 2
    assert place(train(cfg, resume=True, seed=2)) == {**first, "taken": 2}
    other = train(change(cfg, {"OUTPUT_DIR": str(tmp_path / "other")}), seed=5)
    assert place(other)["seed"] != first["seed"]


def place(trainer):
    return trainer.state_dict()["loader"]
