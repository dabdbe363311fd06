"""What ``train_net.py`` does: arguments, errors in plain words, one run in each process."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from torch import nn

from freqfusion.config_names import find_config
from freqfusion.data.bad_samples import BadSampleError
from freqfusion.engine.checkpoint import (
    INTERRUPTED,
    Interrupted,
    LastSaveFailedError,
    RunCheckpointer,
)
from freqfusion.engine.launch import (
    is_in_torchrun,
    may_report,
    start_processes,
    work_in_torchrun,
)
from freqfusion.engine.results import skipped_in, write_results
from freqfusion.engine.setup import check, read, setup
from freqfusion.engine.trainer import Trainer
from freqfusion.files import add_unsafe_config
from freqfusion.messages import DEBUG
from freqfusion.modeling.tta import TestTimeAugmentation

USER_ERROR = 2


def argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return a parser of Detectron2's arguments and of those that this project adds."""
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
        DEBUG,
        action="store_true",
        help="show where an error of the configuration or of the data was found, deprecation"
        " warnings, and the model and the whole configuration, which stand in log.txt anyway",
    )
    return parser


def main(options: argparse.Namespace) -> int:
    """Check the configuration, run in every process, and return the exit code.

    The processes are those that ``torchrun`` has started, or those that ``--num-gpus`` or
    ``--num-processes`` asks for.
    """
    if options.config_file:
        with explain_errors(debug=options.debug):
            options.config_file = find_config(options.config_file)
    try:
        return _in_torchrun(options) if is_in_torchrun() else _started_here(options)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            _say("interrupted")
        return INTERRUPTED


def _started_here(options: argparse.Namespace) -> int:
    with explain_errors(debug=options.debug):
        device, count = check(options)
    return start_processes(
        run,
        options,
        count=count,
        device=device,
        machines=options.num_machines,
        machine=options.machine_rank,
        url="auto" if options.num_machines == 1 else options.dist_url,
    )


def _in_torchrun(options: argparse.Namespace) -> int:
    """Run as one of the processes that ``torchrun`` has started."""
    try:
        device = str(read(options)[1].MODEL.DEVICE)
    except (ValueError, OSError):
        device = ""  # reported by ``_check_and_run``
    work_in_torchrun(_check_and_run, options, device)
    return 0


def _check_and_run(options: argparse.Namespace) -> None:
    """Check in one process of each machine; rank 0 reports what it or another has found."""
    problem = ""
    if comm.get_local_rank() == 0:
        try:
            check(options, comm.get_world_size())
        except (ValueError, OSError) as error:
            if options.debug:
                raise
            problem = str(error)
    problem = next(filter(None, comm.all_gather(problem)), "")
    if problem:
        if comm.is_main_process():
            _say(problem)
        comm.synchronize()  # the first process that ends with a code ends the others
        raise SystemExit(USER_ERROR)
    run(options)


def _say(sentence: object) -> None:
    sys.stderr.write(f"train_net.py: {sentence}\n")
    sys.stderr.flush()


@contextmanager
def explain_errors(
    *, debug: bool, kinds: tuple[type[Exception], ...] = (ValueError, OSError)
) -> Iterator[None]:
    """End the program with a sentence and exit code 2 for what the user can mend.

    That is a ValueError or OSError of the preparation, and later on an image that cannot be used:
    what else goes wrong in training needs its trace. Of several processes the first one reports.

    Args:
        debug: Let the error pass, with its trace.
        kinds: Errors to explain.
    """
    try:
        yield
    except kinds as error:
        if debug:
            raise
        if may_report():
            _say(error)
        raise SystemExit(USER_ERROR) from None


def run(arguments: argparse.Namespace) -> Any:
    """Train or evaluate in one process; the configuration has been checked."""
    try:
        with ExitStack() as hold:
            return _run(arguments, hold)
    except KeyboardInterrupt:
        if comm.is_main_process():
            goes_on = "the same command with --resume goes on from the last checkpoint, if any"
            _say("interrupted" if arguments.eval_only else f"interrupted; {goes_on}")
        raise SystemExit(INTERRUPTED) from None


def _run(arguments: argparse.Namespace, hold: ExitStack) -> Any:
    with explain_errors(debug=arguments.debug):
        cfg = setup(arguments, checked=True, hold=hold)
        if arguments.eval_only:
            every = not getattr(arguments, "allow_random_weights", False)
            given = load_for_evaluation(cfg, resume=arguments.resume, every=every)
        else:
            trainer = Trainer(cfg, config_file=arguments.config_file)
            trainer.resume_or_load(resume=arguments.resume)
    try:
        with explain_errors(debug=arguments.debug, kinds=(BadSampleError,)):
            if arguments.eval_only:
                return evaluate_given(cfg, given, config_file=arguments.config_file)
            return trainer.train()
    except (Interrupted, LastSaveFailedError) as end:
        if comm.is_main_process():
            _say(end)
        comm.synchronize()  # the first process that ends with a code ends the others
        code = end.code if isinstance(end, Interrupted) else USER_ERROR
        if code:
            raise SystemExit(code) from None
        return None


# A model with its weights: the file, and the number of its last iteration, if it has one.
Given = tuple[nn.Module, str, int | None]


def evaluate(cfg: CfgNode, *, resume: bool = False, config_file: str = "") -> Any:
    """Test ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint, and write the results."""
    return evaluate_given(cfg, load_for_evaluation(cfg, resume=resume), config_file=config_file)


def load_for_evaluation(cfg: CfgNode, *, resume: bool = False, every: bool = False) -> Given:
    """Return the model with ``MODEL.WEIGHTS``, or with ``resume`` those of the last checkpoint.

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
    return model, weights, checkpoint.get("iteration")


def evaluate_given(cfg: CfgNode, given: Given, *, config_file: str = "") -> Any:
    """Test a model, and write the results.

    With ``TEST.AUG.ENABLED`` the results of several sizes and of mirrored images are merged;
    evaluations during training are without, because that takes many times as long.
    """
    model, weights, iteration = given
    model = TestTimeAugmentation(cfg, model) if cfg.TEST.AUG.ENABLED else model
    results = Trainer.test(cfg, model)
    write_results(
        cfg,
        results,
        iteration=None if iteration is None else int(iteration) + 1,
        config_file=config_file,
        weights=weights,
        skipped=skipped_in(results),
    )
    return results
