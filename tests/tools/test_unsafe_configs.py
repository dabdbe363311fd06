"""Every tool that reads a configuration refuses tags that run code, unless it is told to trust."""

import importlib
from pathlib import Path

import pytest

import freqfusion.tools

pytestmark = pytest.mark.detectron2

FOLDER = Path(freqfusion.tools.__file__).parent
TOOLS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
# What each of them wants besides its configuration. A tool with a new option --config-file is
# found by its help, and has to be listed here.
SCORED = ("--dataset", "x", "--weights", "x.pth", "--output", "out")
ARGUMENTS = {
    "aliasing": SCORED,
    "analyze": (),
    "app": ("--weights", "x.pth"),
    "check_dataset": (),
    "export": ("--output", "x.onnx"),
    "feature_similarity": SCORED,
    "report": ("--weights", "x.pth", "--output", "out.html"),
    "visualize": SCORED,
}


def run(tool, *arguments):
    """Exit code of a tool."""
    main = importlib.import_module(f"freqfusion.tools.{tool}").main
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder of work with a file of weights, for tools that look at them first."""
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}}, tmp_path / "x.pth")


@pytest.mark.parametrize("tool", TOOLS)
def test_all_that_read_one_are_here_and_have_the_option(tool, capsys):
    assert run(tool, "--help") == 0
    told = capsys.readouterr().out
    assert ("--config-file" in told) == (tool in ARGUMENTS)
    assert ("--allow-unsafe-config" in told) == (tool in ARGUMENTS)


@pytest.mark.parametrize("tool", ARGUMENTS)
@pytest.mark.usefixtures("weights")
def test_refused(tool, tmp_path, capsys):
    """The file has no such key either, which is what is told once its tag has run."""
    marker, file = tmp_path / "marker", tmp_path / "a.yaml"
    file.write_text(f'SEDE: !!python/object/apply:os.system ["touch {marker}"]\n')
    arguments = (*ARGUMENTS[tool], "--config-file", file)
    assert run(tool, *arguments) == 2
    told = capsys.readouterr().err
    assert "a.yaml holds a YAML tag that would run code" in told
    assert "!!python/object/apply:os.system in line 1" in told
    assert not marker.exists()
    assert run(tool, *arguments, "--allow-unsafe-config") == 2
    assert "there is no key SEDE" in capsys.readouterr().err
    assert marker.exists()


@pytest.mark.usefixtures("weights")
def test_refused_in_a_list_of_models(tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("SEED: !!python/name:os.system\n")
    arguments = ("--model", "a", file, "x.pth", "--dataset", "x", "--output", "out")
    assert run("feature_similarity", *arguments) == 2
    assert "!!python/name:os.system in line 1" in capsys.readouterr().err
