"""The matrix and its runs: what is read, what is trained and what is not, and the messages."""

import threading

import pytest
from ablations import MATRIX, ROOT, row, write_matrix

pytest.importorskip("detectron2")

from benchmarks import ablation
from benchmarks.ablation_matrix import (
    check_configurations,
    choose_rates,
    plan,
    read_matrix,
    tuning_runs,
    write_rates,
)
from benchmarks.ablation_page import read_rows
from benchmarks.ablation_training import RunTrainer, train_all
from benchmarks.documents import write_json


@pytest.fixture
def matrix(tmp_path):
    return read_matrix(write_matrix(tmp_path))


def waiting(runs):
    return [run for run in runs if not run.is_done()]


def fake(run, **changes):
    """A row as training would make it."""
    made = row(run.experiment, run.method, run.seed, dict(run.dial), mIoU=10.0 + run.seed)
    return made | {"overrides": dict(run.overrides), "data": dict(run.data)} | changes


def test_the_matrix_of_the_project_is_whole(tmp_path):
    """Every configuration has all keys that are set, and no two rows have one name."""
    found = read_matrix(ROOT / "benchmarks/ablation.yaml")
    runs = plan(found, tmp_path)
    check_configurations(runs)
    assert len({run.row for run in runs}) == len(runs)
    assert all(min(one.seeds.values()) >= 3 for one in found.experiments.values())
    assert found.smallest == ("panoptic_fpn", ("bilinear", "freqfusion"), (0,))
    methods = {name for one in found.experiments.values() for name in one.methods}
    wanted = "bilinear freqfusion without_low_pass without_high_pass without_offsets"
    wanted += " sfm sfm_without_cascade"
    assert {*wanted.split(), "fcn_cascade", "sfm_fcn_without_supervision"} <= methods


def test_the_seeds_of_a_method_are_counted(tmp_path):
    text = MATRIX.replace("carafe: 3}", "carafe: 1}")
    runs = plan(read_matrix(write_matrix(tmp_path, text)), tmp_path, ["fpn"])
    assert [run.seed for run in runs if run.method == "carafe"] == [0]
    assert [run.seed for run in runs if run.method == "freqfusion"] == [0, 1, 2]


def test_runs_differ_by_method_seed_and_dial_alone(matrix, tmp_path):
    runs = plan(matrix, tmp_path)
    assert [run.name for run in runs[:4]] == [
        "fpn bilinear-s0", "fpn freqfusion-s0", "fpn carafe-s0", "fpn bilinear-s1",
    ]  # fmt: skip
    assert len(runs) == 3 * 3 + 3 * 2 * 2
    assert runs[0].overrides == {
        "SOLVER.MAX_ITER": 2,
        "MODEL.FREQFUSION.ENABLED": True,
        "MODEL.FREQFUSION.FUSE_TYPE": "bilinear",
        "SEED": 0,
    }
    assert runs[0].options()[:4] == ["SOLVER.MAX_ITER", "2", "MODEL.FREQFUSION.ENABLED", "True"]
    assert runs[-1].row == tmp_path / "curve/freqfusion-s1-line_thickness5.json"
    assert runs[-1].data == {"detail": "full", "line_thickness": 5}
    some = plan(matrix, tmp_path, ["fpn"], ["carafe"], [7])
    assert [run.name for run in some] == ["fpn carafe-s7"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    title: Gain", "    tilte: Gain", "unknown key tilte; did you mean title"),
        ("carafe: 3}", "carfae: 3}", "method carfae; did you mean carafe"),
        (
            "- [freqfusion, carafe]",
            "- [freqfusion, nearest]",
            "pairs: unknown method nearest; there are",
        ),
        ("carafe: 3}", "carafe: a}", "carafe must have a number of seeds, got 'a'"),
        ("carafe: 3}", "carafe: 0}", "carafe must have a number of seeds, got 0"),
        ("pair: [freqfusion, carafe]", "pair: [carafe, bilinear]", "question 2: .* is no pair of"),
        ('ask: "Does it help?"', "aks: Does it", "question 1: unknown key aks; did you mean ask"),
        ("metric: mIoU", "metric: PQ", "question 1: unknown metric PQ; there are mIoU"),
        ("    title: Gain\n", "", "experiment curve has no title"),
        ("learning_rates: fpn", "learning_rates: fnp", "learning_rates of fnp; did you mean fpn"),
        ("shared:", "sharde:", "unknown part sharde; did you mean shared"),
    ],
)
def test_a_wrong_matrix_is_told(tmp_path, old, new, message):
    assert old in MATRIX
    with pytest.raises(ValueError, match=message):
        read_matrix(write_matrix(tmp_path, MATRIX.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("FUSE_TYPE: carafe", "FUSE_TIPE: carafe", "method carafe: .*FUSE_TIPE.*FUSE_TYPE"),
        (
            "SOLVER.MAX_ITER: 2",
            "SOLVER.MAX_ITER: two",
            "experiment fpn, method bilinear: .*MAX_ITER",
        ),
    ],
)
def test_wrong_keys_are_told_before_anything_is_trained(tmp_path, capsys, old, new, message):
    path = write_matrix(tmp_path, MATRIX.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        check_configurations(plan(read_matrix(path), tmp_path))
    assert ablation.main(["--matrix", str(path), "--dry-run", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("ablation: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "fpm"], "unknown experiment fpm; did you mean fpn"),
        (["--matrix", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_requests_are_told(tmp_path, capsys, arguments, message):
    given = ["--matrix", str(write_matrix(tmp_path)), "--results", str(tmp_path / "rows")]
    assert ablation.main([*given, "--dry-run", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_dry_run_lists_what_is_left(tmp_path, capsys, matrix):
    rows = tmp_path / "rows"
    done = plan(matrix, rows)[1]
    write_json(done.row, fake(done))
    given = ["--matrix", str(tmp_path / "ablation.yaml"), "--results", str(rows)]
    given += ["--dry-run", "--smallest"]
    assert ablation.main(given) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 runs, 1 of them done", "to do  fpn bilinear-s0", "done   fpn freqfusion-s0",
    ]  # fmt: skip


def test_a_run_is_done_once_and_again_when_it_changes(tmp_path, matrix, capsys):
    rows = tmp_path / "rows"
    runs = plan(matrix, rows, ["fpn"])
    trained = []

    def train(run):
        trained.append(run.name)
        return fake(run)

    metrics = {"fpn": matrix.experiments["fpn"].metrics}
    assert train_all(waiting(runs), train, jobs=3, metrics=metrics) == []
    assert sorted(trained) == sorted(run.name for run in runs)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert "mIoU 1" in lines[0]
    assert "thin IoU not measured" in lines[0]
    assert "; 8 left, about 0:01:20" in lines[0]
    assert lines[-1].startswith("[9/9] fpn")
    assert waiting(runs) == []
    changed = read_matrix(write_matrix(tmp_path, MATRIX.replace("MAX_ITER: 2", "MAX_ITER: 3")))
    assert len(waiting(plan(changed, rows, ["fpn"]))) == 9
    changed = read_matrix(write_matrix(tmp_path, MATRIX.replace("num_train: 4", "num_train: 5")))
    assert len(waiting(plan(changed, rows, ["fpn"]))) == 9


def test_a_failed_run_is_reported_and_the_rest_go_on(tmp_path, matrix, capsys):
    runs = plan(matrix, tmp_path / "rows", ["fpn"], (), [0])

    def train(run):
        if run.method == "freqfusion":
            raise RuntimeError("out of paper")
        return fake(run)

    assert train_all(runs, train) == ["fpn freqfusion-s0: out of paper"]
    assert [run.method for run in waiting(runs)] == ["freqfusion"]
    assert not list((tmp_path / "rows").rglob("*.part"))
    assert "fpn freqfusion-s0 failed: out of paper" in capsys.readouterr().out


def test_an_interrupt_ends_what_runs_and_starts_nothing_else(tmp_path, matrix):
    runs = plan(matrix, tmp_path / "rows", ["fpn"])
    stopped, begun = threading.Event(), []

    def train(run):
        begun.append(run.name)
        if len(begun) == 1:
            raise KeyboardInterrupt
        assert stopped.wait(20)
        raise RuntimeError("stopped")

    with pytest.raises(KeyboardInterrupt):
        train_all(runs, train, jobs=2, stop=stopped.set)
    assert stopped.is_set()
    assert len(begun) < len(runs)
    assert not (tmp_path / "rows").exists()


def test_damaged_rows_are_told(tmp_path, matrix):
    run = plan(matrix, tmp_path)[0]
    run.row.parent.mkdir()
    run.row.write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read .*; delete it and run again"):
        waiting([run])
    run.row.write_text('{"schema": 99}')
    with pytest.raises(ValueError, match="is no result of schema 1"):
        read_rows(tmp_path)


def test_learning_rates_are_tried_on_the_third_split(tmp_path, matrix):
    trials = tuning_runs(matrix, tmp_path / "out")
    assert list(trials) == ["fpn"]  # the curve takes its choice
    assert [run.factor for run in trials["fpn"][:3]] == [0.5, 1.0, 2.0]
    first = trials["fpn"][0]
    assert first.overrides["SOLVER.BASE_LR"] == 0.00075
    assert first.overrides["DATASETS.TEST"] == ["synthetic_semantic_tune"]
    assert first.overrides["SEED"] == 100
    assert first.row == tmp_path / "out/fpn/tune-bilinear-x0.5.json"
    check_configurations(trials["fpn"])


def test_the_best_learning_rate_is_taken_by_the_runs(tmp_path, matrix):
    """Ties go to the factor nearest to 1; what was not measured does not count."""
    results = tmp_path / "rows"
    trials = tuning_runs(matrix, tmp_path / "out")["fpn"]
    scores = {"bilinear": (5.0, 4.0, 5.5), "freqfusion": (1.0, 7.0, 7.0), "carafe": [None] * 3}
    for number, trial in enumerate(trials):
        score = scores[trial.method][number % 3]
        if score is not None:
            write_json(trial.row, fake(trial, scores={"sem_seg/mIoU": score}))
    chosen = choose_rates(trials, "sem_seg/mIoU")
    assert chosen["bilinear"] == {
        "scores": {"0.5": 5.0, "1": 4.0, "2": 5.5}, "factor": 2.0, "learning_rate": 0.003,
    }  # fmt: skip
    assert chosen["freqfusion"]["factor"] == 1.0
    assert "carafe" not in chosen
    write_rates(results, "fpn", trials, "sem_seg/mIoU")
    for run in plan(matrix, results):
        factor = {"bilinear": 2.0, "freqfusion": 1.0}.get(run.method)
        assert run.tuned == (factor is not None)
        assert run.overrides.get("SOLVER.BASE_LR") == (factor and factor * 0.0015)
    assert read_rows(results) == []


def test_a_part_takes_the_learning_rate_of_the_whole(tmp_path):
    text = MATRIX.replace("    title: FreqFusion\n", "    learning_rate_of: bilinear\n")
    matrix, results = read_matrix(write_matrix(tmp_path, text)), tmp_path / "rows"
    trials = tuning_runs(matrix, tmp_path / "out", ["fpn"])["fpn"]
    assert {trial.method for trial in trials} == {"bilinear", "carafe"}
    for trial in trials:
        write_json(trial.row, fake(trial, scores={"sem_seg/mIoU": trial.factor}))
    write_rates(results, "fpn", trials, "sem_seg/mIoU")
    runs = plan(matrix, results, ["fpn"])
    assert all(run.tuned and run.factor == 2.0 for run in runs)


def test_failures_make_the_exit_code(tmp_path, matrix, monkeypatch, capsys):
    """And rows that are written make a second call short."""
    given = ["--matrix", str(tmp_path / "ablation.yaml"), "--smallest"]
    given += ["--results", str(tmp_path / "rows")]
    given += ["--output", str(tmp_path / "out")]
    monkeypatch.setattr(ablation, "prepare_data", lambda run, folder: folder)
    monkeypatch.setattr(
        RunTrainer, "__call__", lambda self, run: (_ for _ in ()).throw(OSError("no disk"))
    )
    assert ablation.main(given) == 1
    assert "ablation: fpn bilinear-s0: no disk" in capsys.readouterr().err
    monkeypatch.setattr(RunTrainer, "__call__", lambda self, run: fake(run))
    assert ablation.main(given) == 0
    assert ablation.main(given) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 runs, 2 of them done"
    assert len(read_rows(tmp_path / "rows")) == 2
