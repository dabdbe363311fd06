"""Training, evaluation and tools refuse weights and configurations that would run code."""

import importlib.util
import logging
import os
from pathlib import Path

import pytest
import torch
from malicious import PAYLOADS, WEIGHTS
from torch import nn

from freqfusion.engine import load_config
from freqfusion.engine.checkpoint import RunCheckpointer, SafeCheckpointer
from freqfusion.tools import aliasing, visualize

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "train_net.py"
CONFIG = str(ROOT / "configs/synthetic/panoptic-segmentation/panoptic_fpn_r18.yaml")
KINDS = ("archive.pth", "pickle.pkl")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(6))


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


@pytest.fixture(autouse=True)
def quiet():
    """Runs leave handlers of logging that write to what the test has closed."""
    yield
    for name in ("detectron2", "d2", "fvcore", "freqfusion"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)


@pytest.fixture(scope="module")
def train_net():
    spec = importlib.util.spec_from_file_location("train_net", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def refused(main, capsys, *arguments):
    """What is told by a program that ends with 2, by return or by exit."""
    try:
        code = main([str(word) for word in arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


def poison(folder, kind, marker):
    path = folder / kind
    PAYLOADS[kind](path, marker)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointer(kind, tmp_path, marker):
    """By name, and as the checkpoint that ``--resume`` takes; the next load goes well."""
    path = poison(tmp_path, kind, marker)
    (tmp_path / "last_checkpoint").write_text(kind)
    model = Small()
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    for resume in (True, False):
        with pytest.raises(ValueError, match=f"^{path} "):
            checkpointer.resume_or_load(str(path), resume=resume)
    torch.save(WEIGHTS, tmp_path / "good.pth")
    checkpointer.load(str(tmp_path / "good.pth"))
    assert model.a.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_evaluation(kind, train_net, tmp_path, marker, capsys, datasets):
    path, run = poison(tmp_path, kind, marker), tmp_path / "run"
    options = ("--config-file", CONFIG)
    keys = ("MODEL.WEIGHTS", path, "OUTPUT_DIR", run, "MODEL.DEVICE", "cpu")
    for more in ((), ("--eval-only",)):
        told = refused(train_net, capsys, *options, *more, *keys)
        assert f"1. MODEL.WEIGHTS: {path} " in told
        assert not run.exists()


def test_resuming(train_net, tmp_path, marker, capsys, datasets):
    path = poison(tmp_path, "archive.pth", marker)
    (tmp_path / "last_checkpoint").write_text("archive.pth")
    keys = ("OUTPUT_DIR", tmp_path, "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0")
    told = refused(train_net, capsys, "--config-file", CONFIG, "--resume", *keys)
    assert f"no checkpoint in {tmp_path} can be used: {path} names posix.system" in told


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_passes_over_it(kind, tmp_path, marker, caplog):
    checkpointer = RunCheckpointer(Small(), str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    path = tmp_path / "model_0000002.pth"
    PAYLOADS[kind](path, marker)
    (tmp_path / "last_checkpoint").write_text(path.name)
    content = RunCheckpointer(Small(), str(tmp_path)).resume_or_load("", resume=True)
    assert content["iteration"] == 1
    assert f"Going on from {tmp_path}/model_0000001.pth instead, because {path} " in caplog.text


@pytest.mark.parametrize("tool", [visualize, aliasing])
def test_tools(tool, tmp_path, marker, capsys):
    path = poison(tmp_path, "pickle.pkl", marker)
    (tmp_path / "a.png").touch()
    arguments = ("--config-file", CONFIG, "--weights", path, "--input", tmp_path / "a.png")
    told = refused(tool.main, capsys, *arguments, "--output", tmp_path / "out")
    assert f": {path} " in told


@pytest.mark.parametrize(
    "name",
    ["../x.pth", "/tmp/x.pth", "..", "", "a\nb.pth", "x" * 300],
)
def test_last_checkpoint_names_a_file_of_its_folder(name, tmp_path):
    (tmp_path / "run").mkdir()
    torch.save(WEIGHTS, tmp_path / "x.pth")
    (tmp_path / "run/last_checkpoint").write_text(name)
    checkpointer = SafeCheckpointer(Small(), str(tmp_path / "run"))
    with pytest.raises(ValueError, match="must hold the name of a checkpoint in its folder, got"):
        checkpointer.resume_or_load("", resume=True)


def test_checkpoint_that_is_gone(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model.pth")
    checkpointer = SafeCheckpointer(Small(), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*model\.pth"):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize("address", ["file:///a.pth", "s3://a/b.pth", "catalog://a"])
def test_addresses_that_lead_nowhere(address):
    with pytest.raises(ValueError, match=f"^{address} (is no address|cannot be fetched)"):
        SafeCheckpointer(Small()).load(address)


def test_options_behind_a_file(tmp_path):
    """Detectron2's way to have names guessed."""
    torch.save({"module": torch.ones(6)}, tmp_path / "x.pth")
    checkpointer = SafeCheckpointer(Small())
    with pytest.raises(ValueError, match="colour is not known after a question mark"):
        checkpointer.load(str(tmp_path / "x.pth?colour=red"))
    checkpointer.load(str(tmp_path / "x.pth?matching_heuristics=True"))


EVIL = 'SEED: 1\nVERSION: !!python/object/apply:os.system ["touch {}"]\n'


def test_configurations(train_net, tmp_path, marker, capsys):
    """Of training and evaluation, also behind ``_BASE_``."""
    evil, file = tmp_path / "evil.yaml", tmp_path / "a.yaml"
    evil.write_text(EVIL.format(marker))
    file.write_text("_BASE_: evil.yaml\n")
    for path in (evil, file):
        told = refused(train_net, capsys, "--config-file", path)
        assert "evil.yaml holds a YAML tag that would run code" in told
        assert "!!python/object/apply:os.system in line 2" in told


def test_declared_data_sets(tmp_path, marker):
    from freqfusion.data.declared import read_declaration

    (tmp_path / "own.yaml").write_text(EVIL.format(marker))
    with pytest.raises(ValueError, match="holds a YAML tag that would run code"):
        read_declaration(tmp_path / "own.yaml")


def test_those_who_must(train_net, tmp_path, capsys):
    """The option lets the tag run; what is wrong then is something else."""
    marker = tmp_path / "marker"
    text = f'SOLVER:\n  MAX_ITER: !!python/object/apply:os.system ["touch {marker}"]\nSEDE: 1\n'
    (tmp_path / "a.yaml").write_text(text)
    arguments = ("--config-file", tmp_path / "a.yaml", "--allow-unsafe-config")
    assert "there is no key SEDE" in refused(train_net, capsys, *arguments)
    assert marker.exists()
    (tmp_path / "b.yaml").write_text("SOLVER:\n  STEPS: !!python/tuple [1, 2]\n")
    assert load_config(str(tmp_path / "b.yaml"), unsafe=True).SOLVER.STEPS == (1, 2)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("/etc/passwd", "names '/etc/passwd', which is no YAML file"),
        ("../../secret.json", "which is no YAML file"),
        ("https://example.com/a.yaml", "on another machine; download it"),
        ("pipe.yaml", "is no regular file"),
        ("large.yaml", "is larger than"),
        ("folder.yaml", "is a folder"),
    ],
)
def test_bases(base, message, tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"#" * (2 << 20))
    (tmp_path / "a.yaml").write_text(f"_BASE_: {base}\n")
    with pytest.raises(ValueError, match=message):
        load_config(str(tmp_path / "a.yaml"))
