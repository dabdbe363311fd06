"""How many processes a command line means."""

import re

import pytest
import torch

from freqfusion.engine.command_line import argument_parser
from freqfusion.engine.launch import Place, check_nothing_asked, gpu_of, processes_here


@pytest.fixture
def gpus(monkeypatch):
    """Sets the number of GPUs."""
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def options(*words):
    return argument_parser().parse_args(words)


@pytest.mark.parametrize(
    ("words", "device", "count"),
    [
        ((), "cpu", 1),
        (("--num-gpus", "0"), "cpu", 1),
        (("--num-processes", "3"), "cpu", 3),
        ((), "cuda", 1),
        (("--num-gpus", "0"), "cuda", 1),
        (("--num-gpus", "4"), "cuda", 4),
        (("--num-gpus", "2", "--num-machines", "2", "--dist-url", "tcp://a:1"), "cuda", 2),
    ],
)
def test_count(words, device, count, gpus):
    gpus(4)
    assert processes_here(options(*words), device) == count


@pytest.mark.parametrize(
    ("words", "device", "sentence"),
    [
        (("--num-gpus", "2"), "cpu", "take --num-processes 2 for processes on the CPU"),
        (("--num-processes", "0"), "cpu", "--num-processes must be at least 1; got 0"),
        (("--num-processes", "2"), "cuda", "for GPUs write --num-gpus"),
        (("--num-gpus", "5"), "cuda:0", "--num-gpus 5 is more than this machine has, which is 4"),
        (("--num-machines", "2"), "cpu", "needs --dist-url tcp://<machine 0>:<port>"),
    ],
)
def test_what_does_not_fit_is_a_sentence(words, device, sentence, gpus):
    gpus(4)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        processes_here(options(*words), device)


def test_nobody_starts_processes_twice():
    place = Place(0, 2, 0, 2, "env://", "torchrun")
    assert check_nothing_asked(options(), place) is None
    words = ("--num-gpus", "2", "--num-processes", "2", "--num-machines", "2")
    asked = "--num-gpus and --num-processes and --num-machines would start processes, but torchrun"
    with pytest.raises(ValueError, match=asked):
        check_nothing_asked(options(*words), place)


def test_gpu_of_a_process(gpus):
    """SLURM may bind one GPU to each task, which then is number 0."""
    gpus(4)
    assert gpu_of(Place(5, 8, 1, 4, "env://", "torchrun")) == 1
    gpus(1)
    assert gpu_of(Place(5, 8, 1, 4, "tcp://a:1", "SLURM")) == 0
    with pytest.raises(ValueError, match="4 processes on a machine with 1 GPUs"):
        gpu_of(Place(5, 8, 1, 4, "env://", "torchrun"))
