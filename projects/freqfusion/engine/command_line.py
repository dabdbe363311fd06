"""What ``train_net.py`` does: arguments, errors in plain words, one run in each process."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from torch import nn

from freqfusion.data.bad_samples import BadSampleError
from freqfusion.engine.checkpoint import (
    INTERRUPTED,
    Interrupted,
    LastSaveFailedError,
    RunCheckpointer,
)
from freqfusion.engine.launch import (
    Finding,
    Meeting,
    check_nothing_asked,
    gpu_of,
    place_in_environment,
    start_processes,
    work_in_group,
)
from freqfusion.engine.results import write_results
from freqfusion.engine.setup import check, setup
from freqfusion.engine.testing import skipped_in
from freqfusion.engine.trainer import Trainer
from freqfusion.files import add_unsafe_config
from freqfusion.modeling.tta import TestTimeAugmentation

USER_ERROR = 2


def argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Detectron2's arguments, and those that this project adds."""
    parser: argparse.ArgumentParser = default_argument_parser(epilog=description)
    parser.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="number of processes on the CPU of this machine, where there is no GPU",
    )
    add_unsafe_config(parser)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start over in an OUTPUT_DIR that has a run already, whose files are deleted",
    )
    parser.add_argument(
        "--allow-random-weights",
        action="store_true",
        help="let --eval-only evaluate a model whose weights are in no file, or not all of them",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="show where an error of the configuration or of the data was found",
    )
    return parser


def main(options: argparse.Namespace) -> int:
    """Check, then run in every process; returns the exit code.

    The processes are those that ``torchrun`` or SLURM has started, or those that ``--num-gpus`` or
    ``--num-processes`` asks for.
    """
    try:
        return _main(options)
    except KeyboardInterrupt:
        if _is_first():
            _say("interrupted")
        return INTERRUPTED


def _main(options: argparse.Namespace) -> int:
    with explain_errors(debug=options.debug, may_speak=_is_first):
        place = place_in_environment(os.environ)
        if place:
            check_nothing_asked(options, place)
    if place:
        return _run_as_started(Meeting(place), options)
    with explain_errors(debug=options.debug):
        device, count = check(options)
    machines = options.num_machines
    return start_processes(
        run,
        options,
        count=count,
        device=device,
        machines=machines,
        machine=options.machine_rank,
        url="auto" if machines == 1 else options.dist_url,
        user_error=USER_ERROR,
    )


def _run_as_started(meeting: Meeting, options: argparse.Namespace) -> int:
    def found() -> Finding:
        try:
            device, _ = check(options, meeting.place.world_size)
            if device.startswith("cuda"):
                gpu_of(meeting.place)
        except (ValueError, OSError) as error:
            if options.debug:
                raise
            return Finding(USER_ERROR, str(error), "")
        return Finding(0, "", device)

    finding = meeting.agree(found, _say)
    if not finding.code:
        work_in_group(meeting, run, options, finding.device)
    return finding.code


def _say(sentence: object) -> None:
    sys.stderr.write(f"train_net.py: {sentence}\n")
    sys.stderr.flush()


def _is_first() -> bool:
    """Whether this is the first process, as far as one knows before its place is read."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


@contextmanager
def explain_errors(
    *,
    debug: bool,
    may_speak: Callable[[], bool] = lambda: True,
    kinds: tuple[type[Exception], ...] = (ValueError, OSError),
) -> Iterator[None]:
    """End the program with a sentence and exit code 2 for what the user can mend.

    That is a ValueError or OSError of the preparation, and later on an image that cannot be used:
    what else goes wrong in training needs its trace.

    Args:
        debug: Let the error pass, with its trace.
        may_speak: Asked before the sentence is written; of several processes one does.
        kinds: Errors to explain.
    """
    try:
        yield
    except kinds as error:
        if debug:
            raise
        if may_speak():
            _say(error)
        raise SystemExit(USER_ERROR) from None


def run(arguments: argparse.Namespace, may_speak: Callable[[], bool] = lambda: True) -> Any:
    """Train or evaluate in one process; the configuration has been checked."""
    try:
        with ExitStack() as hold:
            return _run(arguments, may_speak, hold)
    except KeyboardInterrupt:
        if comm.is_main_process():
            goes_on = "the same command with --resume goes on from the last checkpoint, if any"
            _say("interrupted" if arguments.eval_only else f"interrupted; {goes_on}")
        raise SystemExit(INTERRUPTED) from None


def _run(arguments: argparse.Namespace, may_speak: Callable[[], bool], hold: ExitStack) -> Any:
    with explain_errors(debug=arguments.debug, may_speak=may_speak):
        cfg = setup(arguments, checked=True, hold=hold)
    if arguments.eval_only:
        every = not getattr(arguments, "allow_random_weights", False)
        with explain_errors(debug=arguments.debug, may_speak=may_speak):
            given = load_for_evaluation(cfg, resume=arguments.resume, every=every)
        with explain_errors(debug=arguments.debug, may_speak=may_speak, kinds=(BadSampleError,)):
            return evaluate_given(cfg, given, config_file=arguments.config_file)
    with explain_errors(debug=arguments.debug, may_speak=may_speak):
        trainer = Trainer(cfg, config_file=arguments.config_file)
        trainer.resume_or_load(resume=arguments.resume)
    try:
        with explain_errors(debug=arguments.debug, may_speak=may_speak, kinds=(BadSampleError,)):
            return trainer.train()
    except (Interrupted, LastSaveFailedError) as end:
        if comm.is_main_process():
            _say(end)
        comm.synchronize()  # the first process that ends with a code ends the others
        code = end.code if isinstance(end, Interrupted) else USER_ERROR
        if code:
            raise SystemExit(code) from None
        return None


class Given(NamedTuple):
    """A model with its weights: the file, and the number of its last iteration, if it has one."""

    model: nn.Module
    weights: str
    iteration: int | None


def evaluate(cfg: CfgNode, *, resume: bool = False, config_file: str = "") -> Any:
    """Test ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint, and write the results."""
    return evaluate_given(cfg, load_for_evaluation(cfg, resume=resume), config_file=config_file)


def load_for_evaluation(cfg: CfgNode, *, resume: bool = False, every: bool = False) -> Given:
    """The model with ``MODEL.WEIGHTS``, or with ``resume`` those of the last checkpoint.

    Raises:
        ValueError: for weights that are refused or damaged, and where ``every`` parameter must be
            in the file and one is not.
        OSError: for weights that are not there.
    """
    model = Trainer.build_model(cfg)
    checkpointer = RunCheckpointer(model, cfg.OUTPUT_DIR)
    resumes = resume and checkpointer.has_checkpoint()
    weights = checkpointer.get_checkpoint_file() if resumes else cfg.MODEL.WEIGHTS
    checkpoint = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if every:
        checkpointer.check_loaded(weights, every=True)
    # Checkpoints have the number of their last iteration, from 0; other weights have none.
    return Given(model, weights, checkpoint.get("iteration"))


def evaluate_given(cfg: CfgNode, given: Given, *, config_file: str = "") -> Any:
    """Test a model, and write the results.

    With ``TEST.AUG.ENABLED`` the results of several sizes and of mirrored images are merged;
    evaluations during training are without, because that takes many times as long.
    """
    model = TestTimeAugmentation(cfg, given.model) if cfg.TEST.AUG.ENABLED else given.model
    results = Trainer.test(cfg, model)
    write_results(
        cfg,
        results,
        iteration=None if given.iteration is None else int(given.iteration) + 1,
        config_file=config_file,
        weights=given.weights,
        skipped=skipped_in(results),
    )
    return results
