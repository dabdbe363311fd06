"""What all tools share: what a user can mend is one sentence, and no configuration runs code."""

import importlib
from pathlib import Path

import pytest

import freqfusion.tools

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/synthetic/semantic-segmentation/freqfusion_semantic_fpn_r18.yaml")
FOLDER = Path(freqfusion.tools.__file__).parent
TOOLS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
# What each of them wants besides its configuration. A tool with a new option --config-file is
# found by its help, and has to be listed here.
SCORED = {"--dataset": "x", "--weights": "x.pth", "--output": "out"}
ARGUMENTS = {
    "aliasing": SCORED,
    "analyze": {},
    "app": {"--weights": "x.pth"},
    "check_dataset": {},
    "export": {"--output": "x.onnx"},
    "feature_similarity": SCORED,
    "report": {"--weights": "x.pth", "--output": "out.html"},
    "train": {},
    "visualize": SCORED,
}
# Those that run a model, and whether they write a file or a folder.
WRITES = {
    "aliasing": "folder",
    "analyze": "file",
    "export": "file",
    "feature_similarity": "folder",
    "report": "file",
    "visualize": "folder",
}
ONNX = ("onnx", "onnxscript", "onnxruntime")


def run(tool, *arguments):
    """Exit code of a tool."""
    main = importlib.import_module(f"freqfusion.tools.{tool}").main
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def words_of(arguments):
    return [word for pair in arguments.items() if pair[1] is not None for word in pair]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder of work with a file of weights, for tools that look at them first."""
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}}, tmp_path / "x.pth")


@pytest.mark.detectron2
@pytest.mark.parametrize("tool", TOOLS)
def test_all_that_read_a_configuration_have_the_option(tool, capsys):
    assert run(tool, "--help") == 0
    printed = capsys.readouterr().out
    assert ("--config-file" in printed) == (tool in ARGUMENTS)
    assert ("--allow-unsafe-config" in printed) == (tool in ARGUMENTS)


@pytest.mark.detectron2
@pytest.mark.parametrize("tool", ARGUMENTS)
@pytest.mark.usefixtures("weights")
def test_code_in_a_configuration_is_refused(tool, tmp_path, capsys):
    """The file has no such key either, which is the message once its tag has run."""
    marker, file = tmp_path / "marker", tmp_path / "a.yaml"
    file.write_text(f'SEDE: !!python/object/apply:os.system ["touch {marker}"]\n')
    arguments = (*words_of(ARGUMENTS[tool]), "--config-file", file)
    assert run(tool, *arguments) == 2
    error = capsys.readouterr().err
    assert "a.yaml holds a YAML tag that would run code" in error
    assert "!!python/object/apply:os.system in line 1" in error
    assert not marker.exists()
    assert run(tool, *arguments, "--allow-unsafe-config") == 2
    assert "there is no key SEDE" in capsys.readouterr().err
    assert marker.exists()


MISTAKES = {
    "no configuration": ({"--config-file": "no.yaml"}, [], "no.yaml does not exist"),
    "no such weights": ({"--weights": "no.pth"}, [], "there is no file of weights no.pth"),
    "no weights": ({"--weights": None}, [], "there are no weights to predict with"),
    "unknown key": ({}, ["MODEL.NONSENSE", "1"], "MODEL.NONSENSE"),
    "half a pair": ({}, ["MODEL.DEVICE"], "MODEL.DEVICE"),
    "output": ({}, [], ""),
    "data set": ({"--dataset": "synthetic_x"}, [], "no data set 'synthetic_x' is registered"),
}


@pytest.mark.detectron2
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("tool", WRITES)
@pytest.mark.usefixtures("weights")
def test_mistakes_are_one_sentence(tool, mistake, tmp_path, capsys):
    if tool == "export":
        for name in ONNX:
            pytest.importorskip(name, reason="needs the extra 'onnx'")
    change, settings, message = MISTAKES[mistake]
    takes_data = ARGUMENTS[tool] is SCORED
    if (mistake == "data set" and not takes_data) or (mistake, tool) == ("no weights", "analyze"):
        return
    if mistake == "output":
        (tmp_path / "file").write_text("")
        output, message = (
            ("file", "is a file; name a folder")
            if WRITES[tool] == "folder"
            else (str(tmp_path), "is a folder; name a file")
        )
        change = {"--output": output}
    given = {"--config-file": CONFIG, "--weights": "x.pth"} | ARGUMENTS[tool] | change
    assert run(tool, *words_of(given), *settings) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"{tool}: ")
    assert message in error
    assert not (tmp_path / "out").exists()


WRONG_ARGUMENTS = {
    "analyze": {
        "--size 64": "write HEIGHTxWIDTH",
        "--depth -1": "whole number from 0 on",
        "": "--config-file",
    },
    "export": {"--size 64": "write HEIGHTxWIDTH", "--opset 11": "invalid choice: 11"},
    "feature_similarity": {"--figures x": "'x' is not a whole number from 0 on"},
    "report": {"--sections nothing": "'nothing' is none of results, training"},
    "visualize": {
        "--dataset x --input y": "not allowed with argument",
        "": "one of the arguments --dataset --input is required",
        "--dataset x --score-threshold 50": "'50' is not a score from 0 to 1",
        "--dataset x --limit 0": "not a whole number from 1 on",
    },
    "demo": {
        "--steps 1": "not a whole number from 2 on",
        "--stpes 3": "unrecognized arguments: --stpes",
    },
    "synthesize": {
        "--output x --size 64": "write HEIGHTxWIDTH",
        "--output x --layout voc": "invalid choice",
        "--output x --sise 64x64": "unrecognized arguments",
    },
    "prepare": {"voc": "'voc' is none of coco, cityscapes, ade20k, camvid, nor a declaration"},
}
REQUIRED = {
    "export": ("--config-file", "x.yaml", "--output", "x.onnx"),
    "feature_similarity": ("--config-file", "x", "--dataset", "x", "--output", "out"),
    "report": ("--config-file", "x.yaml", "--output", "x.html"),
    "visualize": ("--output", "out"),
}


@pytest.mark.parametrize(
    ("tool", "words"), [(tool, words) for tool, by in WRONG_ARGUMENTS.items() for words in by]
)
def test_wrong_arguments(tool, words, capsys):
    assert run(tool, *REQUIRED.get(tool, ()), *words.split()) == 2
    assert WRONG_ARGUMENTS[tool][words] in capsys.readouterr().err
