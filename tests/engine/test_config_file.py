"""Configuration files and the command line: what is read, and a sentence for what cannot be."""

import pytest
from detectron2.config import CfgNode

from freqfusion import get_freqfusion_cfg
from freqfusion.engine import load_config
from freqfusion.engine.config_file import merge_file, merge_overrides, read_config_file


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="a.yaml"):
        (tmp_path / name).write_text(text)
        return name

    return write


def message(path, overrides=()):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the message
        load_config(path, list(overrides))
    return str(caught.value)


def test_file_comes_over_its_bases_and_overrides_come_last(write):
    write("SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\nSEED: 1\n", "first.yaml")
    write("SOLVER: {MAX_ITER: 8}\nSEED: 2\n", "second.yaml")
    path = write("_BASE_: [first.yaml, second.yaml]\nSEED: 3\nDATASETS:\n  TRAIN: ('a', 'b')\n")
    cfg = load_config(path, ["MODEL.MASK_ON", "True"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SEED) == (0.5, 8, 3)
    assert cfg.DATASETS.TRAIN == ("a", "b")
    assert cfg.MODEL.MASK_ON is True


def test_base_is_looked_for_beside_its_file(write, tmp_path):
    (tmp_path / "deep").mkdir()
    write("SEED: 5\n", "base.yaml")
    write("_BASE_: ../base.yaml\n", "deep/b.yaml")
    assert load_config(write("_BASE_: deep/b.yaml\n")).SEED == 5


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_empty_file_changes_nothing(write, text):
    assert load_config(write(text)) == get_freqfusion_cfg()


def test_every_key_knows_its_line(write):
    lines = read_config_file(write("SEED: 1\nSOLVER:\n  STEPS: [1]\n")).lines
    keys = ("SEED", "SOLVER", "SOLVER.STEPS")
    assert lines == {key: f"a.yaml, line {number}" for number, key in enumerate(keys, start=1)}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "MODEL:\n  FREQFUSION:\n    FUSE_TYP: carafe\n",
            "a.yaml, line 3: there is no key MODEL.FREQFUSION.FUSE_TYP; did you mean"
            " MODEL.FREQFUSION.FUSE_TYPE?",
        ),
        (
            "SOLVER:\n  AMP:\n    QQQQQ: 1\n",
            "a.yaml, line 3: there is no key SOLVER.AMP.QQQQQ; SOLVER.AMP has ENABLED",
        ),
        ("TEST:\n  ON: 1\n", "a.yaml, line 2: there is no key TEST.ON; TEST has"),
        ("XYZZY: {A: 1, B: 2}\n", "there is no key XYZZY; the top level has VERSION, MODEL"),
        (
            "SEED: 1\nSOLVER: {MAX_ITER: 1.5}\n",
            "a.yaml, line 2: SOLVER.MAX_ITER is 1.5, but must be a whole number such as 40000",
        ),
        ("SOLVER: {BASE_LR: 1}\n", "a number with a decimal point such as 0.001; write 1.0"),
        ("MODEL: {MASK_ON: maybe}\n", "MODEL.MASK_ON is 'maybe', but must be True or False"),
        ("OUTPUT_DIR: 7\n", "OUTPUT_DIR is 7, but must be a text such as './output'"),
        ("OUTPUT_DIR: 2020-01-01\n", "OUTPUT_DIR is a date, datetime.date(2020, 1, 1), but must"),
        ("SOLVER: fast\n", "SOLVER is a section and cannot be given the value 'fast'"),
        ("SOLVER:\n", "a.yaml, line 1: SOLVER is a section and cannot be empty; set one of"),
        ("SEED: {A: 1}\n", "SEED is one value, a whole number such as -1, not a section"),
        (
            'DATASETS:\n  TRAIN: ("name")\n',
            'a.yaml, line 2: DATASETS.TRAIN must be a list, but ("name") is one text; write'
            ' ["name"]',
        ),
        ("DATASETS:\n  TRAIN: (one, two,)\n", '(one, two,) is one text; write ["one", "two"]'),
        ("SOLVER: {STEPS: (300)}\n", "SOLVER.STEPS must be a list, but (300) is one value; write"),
    ],
)
def test_key_that_does_not_fit(write, text, sentence):
    answer = message(write(text))
    assert sentence in answer
    assert "\n" not in answer


def test_each_wrong_key_of_file_and_base_has_its_line(write):
    write("SEDE: 1\n", "base.yaml")
    lines = message(write("_BASE_: base.yaml\nSOLVER:\n  STEP: 1\n")).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["base.yaml, line 1", "a.yaml, line 3"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("SEED: [1\n", "a.yaml, line 2: this is not valid YAML: expected ',' or ']'"),
        ("- 1\n- 2\n", "a.yaml must hold keys with values"),
        (
            "SEED: 1\nSEED: 2\n",
            "line 2: SEED is set a second time, first in a.yaml, line 1",
        ),
        ("_BASE_: 3\n", "a.yaml, line 1: _BASE_ must be a file or a list of files, got 3"),
        ("_BASE_: bass.yaml\n", "a.yaml: _BASE_ names bass.yaml, which does not exist"),
        ("_BASE_: a.yaml\n", "a.yaml is based on itself: a.yaml -> a.yaml"),
        ("SEED: !!python/object/apply:os.getcwd []\n", "YAML tag that would run code"),
    ],
)
def test_file_that_cannot_be_read(write, text, sentence):
    assert sentence in message(write(text))


def test_same_base_twice_is_no_circle(write):
    write("SEED: 4\n", "common.yaml")
    write("_BASE_: common.yaml\n", "b.yaml")
    assert load_config(write("_BASE_: [common.yaml, b.yaml]\n")).SEED == 4


def test_missing_file(write, tmp_path):
    write("", "panoptic.yaml")
    assert message("panoptik.yaml") == ("panoptik.yaml does not exist; did you mean panoptic.yaml?")
    assert message("none/a.yaml") == ("none/a.yaml does not exist; there is no folder none either")
    assert "cannot be read as a YAML file" in message(str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["MODEL.FUSE_TYPE", "carafe"],
            "command line: there is no key MODEL.FUSE_TYPE; did you mean",
        ),
        (["SOLVER.MAX_ITER.A", "1"], "there is no key SOLVER.MAX_ITER.A"),
        (["SOLVER.MAX_ITER", "ten"], "SOLVER.MAX_ITER is 'ten', but must be a whole number"),
        (["SOLVER", "ten"], "SOLVER is a section and cannot be given the value 'ten'"),
        (["DATASETS.TRAIN", "(name,)"], "but (name,) is one text; write '[\"name\"]'"),
        (["SOLVER.STEPS", "10"], "but 10 is one value; write '[10]'"),
        (["SEED"], "SEED has no value; settings are pairs of KEY VALUE, but there are 1 words"),
        (["SEED=3"], "SEED=3 must be two words, the key and its value: SEED 3"),
        (["SEED", "3", "--eval-only"], "--eval-only comes too late; options stand before"),
    ],
)
def test_command_line_that_does_not_fit(overrides, sentence):
    answer = message("", overrides)
    assert answer.startswith("command line: ")
    assert sentence in answer


def test_nothing_is_set_when_one_pair_does_not_fit():
    cfg = get_freqfusion_cfg()
    with pytest.raises(ValueError, match="SEDE"):
        merge_overrides(cfg, ["SEED", "3", "SEDE", "3"])
    assert cfg == get_freqfusion_cfg()


def test_what_yacs_allows_is_allowed(write):
    """None for anything and anything for None, lists for tuples, keys that it knows as old."""
    cfg = CfgNode({"OLD": 1, "NONE": None, "PAIR": (1, 2)})
    cfg.FREE = CfgNode(new_allowed=True)
    cfg.register_deprecated_key("GONE")
    cfg.register_renamed_key("BEFORE", "PAIR")
    merge_overrides(cfg, ["OLD", "None", "NONE", "3", "PAIR", "[3, 4, 5]", "GONE", "1"])
    assert (cfg.OLD, cfg.NONE, cfg.PAIR) == (None, 3, (3, 4, 5))
    merge_file(cfg, read_config_file(write("FREE: {NEW: 1}\nGONE: 2\n")))
    assert cfg.FREE.NEW == 1
    with pytest.raises(ValueError, match="Key BEFORE was renamed to PAIR"):
        merge_overrides(cfg, ["BEFORE", "1"])
