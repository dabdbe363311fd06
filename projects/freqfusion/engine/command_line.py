"""What ``train_net.py`` does: arguments, errors in plain words, one run in each process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from freqfusion.engine.results import write_results
from freqfusion.engine.setup import setup
from freqfusion.engine.trainer import Trainer
from freqfusion.modeling.tta import with_augmentation

USER_ERROR = 2


def argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Detectron2's arguments, and ``--debug``."""
    parser: argparse.ArgumentParser = default_argument_parser(epilog=description)
    parser.add_argument(
        "--debug",
        action="store_true",
        help="show where an error of the configuration or of the data was found",
    )
    return parser


@contextmanager
def explain_errors(*, debug: bool) -> Iterator[None]:
    """End the program with a sentence and exit code 2 for what the user can mend.

    That is a ValueError or OSError of the preparation. Put it around nothing else: what goes wrong
    in training needs its trace.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if debug:
            raise
        sys.stderr.write(f"train_net.py: {error}\n")
        raise SystemExit(USER_ERROR) from None


def run(arguments: argparse.Namespace) -> Any:
    """Train or evaluate in one process; the configuration has been checked."""
    with explain_errors(debug=arguments.debug):
        cfg = setup(arguments, checked=True)
    if arguments.eval_only:
        return evaluate(cfg, resume=arguments.resume, config_file=arguments.config_file)
    with explain_errors(debug=arguments.debug):
        trainer = Trainer(cfg, config_file=arguments.config_file)
        trainer.resume_or_load(resume=arguments.resume)
    return trainer.train()


def evaluate(cfg: CfgNode, *, resume: bool = False, config_file: str = "") -> Any:
    """Test ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint, and write the results.

    With ``TEST.AUG.ENABLED`` the results of several sizes and of mirrored images are merged;
    evaluations during training are without, because that takes many times as long.
    """
    model = Trainer.build_model(cfg)
    checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR)
    resumes = resume and checkpointer.has_checkpoint()
    weights = checkpointer.get_checkpoint_file() if resumes else cfg.MODEL.WEIGHTS
    checkpoint = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if cfg.TEST.AUG.ENABLED:
        model = with_augmentation(cfg, model)
    results = Trainer.test(cfg, model)
    # Checkpoints have the number of their last iteration, from 0; other weights have none.
    iteration = checkpoint.get("iteration")
    write_results(
        cfg,
        results,
        iteration=None if iteration is None else int(iteration) + 1,
        config_file=config_file,
        weights=weights,
    )
    return results
