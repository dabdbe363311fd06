"""Files are there in whole or not at all; what is damaged is passed over."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_runs import Tiny

from freqfusion.engine.checkpoint import RunCheckpointer, SaveError, remove_unfinished, save_file
from freqfusion.engine.checkpoint.run_checkpointer import checkpoints

NAMES = ("model_0000001.pth", "model_0000003.pth", "model_0000005.pth")


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints, of different ages."""
    checkpointer = RunCheckpointer(Tiny(), str(tmp_path))
    for age, name in enumerate(NAMES):
        checkpointer.save(name.removesuffix(".pth"), iteration=2 * age + 1)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    return tmp_path


def chosen(folder):
    return Path(RunCheckpointer(Tiny(), str(folder)).get_checkpoint_file()).name


def test_newest_whole_one_is_chosen_and_others_are_named(saved, caplog):
    assert chosen(saved) == NAMES[2]
    with open(saved / NAMES[2], "r+b") as file:
        file.truncate(1000)
    assert chosen(saved) == NAMES[1]
    assert f"Going on from {saved / NAMES[1]} instead" in caplog.text
    assert f"because {saved / NAMES[2]} is damaged" in caplog.text


def test_one_changed_byte_is_noticed(saved):
    """By the checksums of the archive, which does not count what lies between its entries."""
    weight = torch.load(saved / NAMES[2], weights_only=True)["model"]["layer.weight"]
    content = bytearray((saved / NAMES[2]).read_bytes())
    content[content.index(weight.numpy().tobytes())] ^= 1
    (saved / NAMES[2]).write_bytes(content)
    assert chosen(saved) == NAMES[1]


def test_missing_one_is_passed_over(saved, caplog):
    (saved / NAMES[2]).unlink()
    assert chosen(saved) == NAMES[1]
    assert "names model_0000005.pth, which is not there" in caplog.text


def test_earlier_one_that_is_noted_goes_first(saved):
    (saved / "last_checkpoint").write_text(NAMES[0])
    assert [path.name for path in checkpoints(saved)] == [NAMES[0], NAMES[2], NAMES[1]]


def test_all_damaged_is_a_sentence_and_none_is_no_checkpoint(saved, tmp_path_factory):
    for name in NAMES:
        (saved / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used: .*start again with"):
        RunCheckpointer(Tiny(), str(saved)).has_checkpoint()
    assert not RunCheckpointer(Tiny(), str(tmp_path_factory.mktemp("empty"))).has_checkpoint()


def test_best_weights_are_nothing_to_go_on_from(tmp_path):
    torch.save({}, tmp_path / "model_best.pth")
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize(("keep", "left"), [(1, 1), (2, 2), (9, 3)])
def test_old_ones_go(saved, keep, left):
    (saved / "model_final.pth").write_bytes(b"x")
    RunCheckpointer(Tiny(), str(saved)).remove_old(keep)
    assert sorted(path.name for path in saved.glob("model_0*.pth")) == list(NAMES[3 - left :])
    assert (saved / "model_final.pth").exists()


def test_last_one_never_goes(saved):
    (saved / "last_checkpoint").write_text(NAMES[0])
    RunCheckpointer(Tiny(), str(saved)).remove_old(1)
    assert (saved / NAMES[0]).exists()


def test_unfinished_files_go_and_other_files_stay(saved):
    ours = (".model_0000007.pth.12.part", ".last_checkpoint.12.part", ".model_best.json.12.part")
    others = ("my.part", ".my.12.part", "model_1.pth.part")
    for name in ours + others:
        (saved / name).write_bytes(b"")
    remove_unfinished(saved)
    assert {path.name for path in saved.glob("*.part")} == set(others)


@pytest.fixture
def small_files():
    """Writes beyond 20 kB fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_failing_write_keeps_what_was_there(saved, small_files):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    big = RunCheckpointer(torch.nn.Linear(200, 200), str(saved))
    for name in ("model_0000005", "model_0000007"):
        with pytest.raises(
            SaveError, match=r"could not be written: .*File too large.* MiB are free"
        ):
            big.save(name)
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_defect_is_no_error_of_the_disk(tmp_path):
    with pytest.raises(Exception, match="lambda"):
        save_file(tmp_path / "x", lambda: None)
    assert not list(tmp_path.iterdir())


KILLED_WHILE_SAVING = """
import sys, torch
from freqfusion.engine.checkpoint import RunCheckpointer
model = torch.nn.Linear(1000, 1000)
checkpointer = RunCheckpointer(model, sys.argv[1])
number = 0
while True:
    torch.nn.init.constant_(model.weight, number)
    checkpointer.save(f"model_{number:07d}", iteration=number)
    checkpointer.remove_old(2)
    print(number, flush=True)
    number += 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("tenths", range(10))
def test_killed_while_saving_all_the_time(tmp_path, tenths):
    """Whatever was said to be saved can be gone on from, or something newer."""
    program = subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    said = [program.stdout.readline() for _ in range(3)]
    try:
        program.wait(timeout=tenths * 0.013)
    except subprocess.TimeoutExpired:
        program.kill()
    said += program.stdout.read().split("\n")
    last = max(int(one) for one in said if one.strip().isdigit())
    name = RunCheckpointer(torch.nn.Linear(1000, 1000), str(tmp_path)).get_checkpoint_file()
    content = torch.load(name, weights_only=True)
    assert content["iteration"] >= last
    assert (content["model"]["weight"] == content["iteration"]).all()
