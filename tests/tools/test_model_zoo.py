"""The model zoo: which recipes there are, what is counted, its documents, and its arithmetic."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from freqfusion.tools import _markdown, model_zoo
from freqfusion.tools._model_zoo import estimate as estimating
from freqfusion.tools._model_zoo import published, recipes_page, record, synthetic, timing, zoo_page
from freqfusion.tools._model_zoo.catalogue import Recipe, choose, find_recipes

ROOT = Path(__file__).resolve().parents[2]
SEMANTIC = "coco/semantic-segmentation"


def checkout(folder, *names):
    """A folder with empty configurations of these names."""
    for name in names:
        path = folder / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    return folder


def recipe(name):
    return Recipe.at(Path(name))


class TestCatalogue:
    def test_bases_and_files_beside_the_tasks_are_no_recipes(self, tmp_path):
        checkout(tmp_path, f"{SEMANTIC}/fpn.yaml", f"{SEMANTIC}/Base-A.yaml", "coco/matrix.yaml")
        assert [one.name for one in find_recipes(tmp_path)] == [f"{SEMANTIC}/fpn.yaml"]

    def test_methods_follow_their_baseline_and_scenes_come_last(self, tmp_path):
        names = ["sfm_fpn", "fpn", "sfm_freqfusion_fpn", "freqfusion_fpn", "concat"]
        scene = "synthetic/semantic-segmentation/a.yaml"
        checkout(tmp_path, scene, *(f"{SEMANTIC}/{name}.yaml" for name in names))
        found = find_recipes(tmp_path)
        order = ["concat", "fpn", "freqfusion_fpn", "sfm_fpn", "sfm_freqfusion_fpn", "a"]
        assert [Path(one.name).stem for one in found] == order
        assert {one.baseline for one in found[1:5]} == {f"{SEMANTIC}/fpn.yaml"}

    def test_every_baseline_of_the_checkout_is_there(self):
        recipes = find_recipes(ROOT)
        assert {one.baseline for one in recipes} <= {one.name for one in recipes}

    def test_nothing_to_list(self, tmp_path):
        with pytest.raises(ValueError, match=r"there are no recipes in .*; run from a checkout"):
            find_recipes(tmp_path)

    def test_a_data_set_without_a_title(self, tmp_path):
        with pytest.raises(ValueError, match="lvis is not in DATASETS"):
            find_recipes(checkout(tmp_path, "lvis/detection/a.yaml"))

    def test_choice(self):
        recipes = [recipe(f"{SEMANTIC}/fpn.yaml"), recipe("ade20k/detection/sfm_a.yaml")]
        assert choose(recipes, ["configs/ade20k/*"]) == recipes[1:]
        assert choose(recipes, ["*"]) == recipes
        with pytest.raises(ValueError, match="no recipe of configs fits 'voc/"):
            choose(recipes, ["*", "voc/*"])


class TestRecord:
    def test_rows_return_and_those_of_lost_recipes_do_not(self, tmp_path):
        file, kept = tmp_path / "deep" / "rows.json", recipe(f"{SEMANTIC}/a.yaml")
        rows = record.updated({}, kept.name, {"size": [4, 8], "flops": 7})
        rows = record.updated(rows, f"{SEMANTIC}/lost.yaml", {"size": [4, 8], "flops": 8})
        record.write_rows(file, rows, [kept])
        found = record.read_rows(file)
        assert list(found) == [kept.name]
        assert found[kept.name]["flops"] == 7
        assert found[kept.name]["time"] is None
        assert not list(file.parent.glob("*.part"))

    def test_another_size_drops_what_was_measured_at_the_old_one(self):
        rows = record.updated({}, "a", {"size": [4, 8], "parameters": 5, "kept_bytes": 7})
        same = record.updated(rows, "a", {"size": [4, 8], "flops": 3})["a"]
        assert (same["kept_bytes"], same["flops"], same["parameters"]) == (7, 3, 5)
        other = record.updated(rows, "a", {"size": [8, 8], "flops": 3})["a"]
        assert (other["kept_bytes"], other["flops"], other["parameters"]) == (None, 3, 5)

    def test_files_that_are_no_records(self, tmp_path):
        file = tmp_path / "rows.json"
        assert record.read_rows(file) == {}
        for text in ("[", "[]", '{"rows": []}', '{"schema": 1, "rows": [{}]}'):
            file.write_text(text)
            with pytest.raises(ValueError, match="is not a record of the model zoo"):
                record.read_rows(file)
        file.write_text('{"schema": 0, "rows": []}')
        with pytest.raises(ValueError, match="has schema 0, not 1"):
            record.read_rows(file)


class TestTiming:
    def test_ratios_by_hand(self):
        """Runs of 3 and 2 seconds by a clock of their own, then of 5 and 4, in the other order."""
        now, ran, lengths = [0.0], [], {"one": [9, 3, 5], "other": [9, 2, 4]}

        def run(name):
            ran.append(name)
            now[0] += lengths[name].pop(0)

        ratios = timing.ratios_in_turn(lambda: run("one"), lambda: run("other"), 2, lambda: now[0])
        assert ratios == [3 / 2, 5 / 4]
        assert ran == ["one", "other", "one", "other", "other", "one"]

    def test_spread(self):
        found = timing.spread([1.5, 1.25, 1.23456])
        assert found == {"ratio": 1.25, "lowest": 1.235, "highest": 1.5, "rounds": 3}


def run_row(method="freqfusion", seed=0, score=50.0, **changes):
    row = {
        "experiment": "fpn",
        "method": method,
        "seed": seed,
        "config_file": "configs/synthetic/panoptic-segmentation/panoptic_fpn_r18.yaml",
        "scores": {"panoptic_seg/PQ": score, "sem_seg/mIoU": 99.0},
    }
    return row | changes


class TestSyntheticResults:
    FUSED = recipe("synthetic/panoptic-segmentation/freqfusion_panoptic_fpn_r18.yaml")

    @pytest.fixture
    def runs(self, tmp_path):
        rows = {
            "fpn/a": run_row(score=50.0),
            "fpn/b": run_row(seed=1, score=53.0),
            "fpn/nothing": run_row(seed=2, score=None),
            "fpn/nearest": run_row("nearest", score=40.0),
            "fpn/bilinear": run_row("bilinear", score=1.0),
            "curve/c": run_row(score=2.0, dial={"line_thickness": 3}),
            "mask2former/d": run_row(
                "bilinear",
                score=30.0,
                experiment="masks",
                config_file="configs/synthetic/panoptic-segmentation/mask2former_r18.yaml",
            ),
            "fpn/learning-rates": {"schema": 1},
        }
        for name, row in rows.items():
            file = tmp_path / f"{name}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(row))
        return synthetic.read_runs(tmp_path)

    def test_mean_and_deviation_by_hand(self, runs):
        """50 and 53: mean 51.5, deviation sqrt(2 * 1.5^2 / 1) = 2.1."""
        assert synthetic.result_of(self.FUSED, runs) == "fpn: PQ 51.5 ± 2.1 (2 seeds)"

    def test_a_baseline_is_the_model_as_it_is(self, runs):
        for model, text in (
            ("panoptic_fpn_r18", "fpn: PQ 40.0 (1 seed)"),
            ("mask2former_r18", "masks: PQ 30.0 (1 seed)"),
        ):
            plain = recipe(f"synthetic/panoptic-segmentation/{model}.yaml")
            assert synthetic.result_of(plain, runs) == text

    def test_what_nobody_trained(self, runs):
        scenes = recipe("synthetic/instance-segmentation/freqfusion_panoptic_fpn_r18.yaml")
        assert synthetic.result_of(scenes, runs) is None
        assert synthetic.result_of(self.FUSED, []) is None

    def test_a_broken_row(self, tmp_path):
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(ValueError, match=r"a\.json cannot be read"):
            synthetic.read_runs(tmp_path)


class TestZooPage:
    def test_rows_by_hand(self):
        recipes = [recipe(f"{SEMANTIC}/{name}.yaml") for name in ("a", "freqfusion_a", "sfm_a")]
        time = {"ratio": 1.254, "lowest": 1.2, "highest": 1.3}
        row = {"size": [4, 8], "parameters": 1_234_567, "flops": 2_345_000_000, "time": time}
        rows = {recipes[1].name: row | {"kept_bytes": 3 << 20}}
        text = zoo_page.render(recipes, rows, [], evidence=False)
        lines = [line for line in text.splitlines() if line.startswith(("| [", "### "))]
        unknown = " | ".join(["not measured"] * 3)
        assert lines == [
            "### Semantic segmentation, 4x8 pixels",
            f"| [a](configs/{SEMANTIC}/a.yaml) | baseline | {unknown} | 1 | none quoted |",
            f"| [freqfusion_a](configs/{SEMANTIC}/freqfusion_a.yaml) | FreqFusion |"
            " 1.23 | 2.3 | 3 | 1.25 (1.20 to 1.30) | none quoted |",
            f"| [sfm_a](configs/{SEMANTIC}/sfm_a.yaml) | SFM | {unknown} | not measured |"
            " none quoted |",
        ]
        assert "evidence" not in text
        assert "docs/evidence.md" in zoo_page.render(recipes, rows, [], evidence=True)

    def test_every_recipe_of_the_checkout_has_one_row(self):
        text = (ROOT / zoo_page.FILE).read_text(encoding="utf-8")
        linked = re.findall(r"^\| \[[^\]]+\]\((configs/[^)]+)\)", text, re.MULTILINE)
        there = [
            str(path.relative_to(ROOT))
            for path in (ROOT / "configs").rglob("*/*/*.yaml")
            if not path.name.startswith("Base-")
        ]
        assert sorted(linked) == sorted(there)

    def test_published_numbers_have_sources_and_recipes(self):
        recipes = {one.name for one in find_recipes(ROOT)}
        for one in published.PUBLISHED:
            assert one.source
            assert not one.config or one.config in recipes
        quoted = [one.config for one in published.PUBLISHED if one.config]
        assert len(set(quoted)) == len(quoted)

    def test_cells_that_would_break_a_table(self):
        with pytest.raises(ValueError, match="no row of a table with 2 columns"):
            _markdown.table(("a", "b"), [["c"]])
        with pytest.raises(ValueError, match="no row of a table"):
            _markdown.table(("a",), [["c | d"]])


def cfg_of(**changes):
    """The part of a configuration that an estimate reads."""
    jitter = SimpleNamespace(ENABLED=changes.pop("jitter", False), SIZE=(1024, 512))
    crop = SimpleNamespace(ENABLED=changes.pop("crop", False), TYPE="absolute", SIZE=(64, 32))
    solver = {"IMS_PER_BATCH": 16, "MAX_ITER": 9000, "OPTIMIZER": "SGD"} | changes
    return SimpleNamespace(
        SOLVER=SimpleNamespace(**solver),
        DATASETS=SimpleNamespace(TRAIN=("ade20k_sem_seg_train",)),
        INPUT=SimpleNamespace(
            SCALE_JITTER=jitter, CROP=crop, MIN_SIZE_TRAIN=(640, 800), MAX_SIZE_TRAIN=1333
        ),
    )


MEASURED = {"parameters": 100, "trainable": 80, "kept_bytes": 1000, "size": [20, 10]}


class TestEstimate:
    def test_by_hand(self):
        """9000 steps of 16 images of 20 210. State: 4 * 100 + 4 * 2 * 80. Kept: 1000 * 8 / 2."""
        found = estimating.estimate(cfg_of(), MEASURED, 4, (40, 20))
        assert found.epochs == pytest.approx(7.1252, abs=1e-4)
        assert found.images_per_gpu == 4
        assert found.state_bytes == 1040
        assert found.kept_bytes == 4000
        assert found.memory_bytes == 1040 + 4 * 4000
        assert found.hours(0.4) == 1.0

    def test_adamw_keeps_two_averages(self):
        found = estimating.estimate(cfg_of(OPTIMIZER="ADAMW"), MEASURED, 1, (20, 10))
        assert found.state_bytes == 400 + 12 * 80

    def test_what_was_not_measured(self):
        found = estimating.estimate(cfg_of(), MEASURED | {"kept_bytes": None}, 4)
        assert found.memory_bytes is None
        assert "what images keep was not measured" in recipes_page.facts_of(found)[2]
        nothing = estimating.estimate(cfg_of(), record.EMPTY, 4)
        assert nothing.state_bytes is None
        assert nothing.memory_bytes is None
        assert "its parameters were not counted" in recipes_page.facts_of(nothing)[2]

    def test_images_that_do_not_divide(self):
        with pytest.raises(ValueError, match="IMS_PER_BATCH 16 does not divide by 3 GPUs"):
            estimating.estimate(cfg_of(), MEASURED, 3)

    def test_largest_training_image(self):
        assert estimating.training_size(cfg_of()) == (800, 1333)
        assert estimating.training_size(cfg_of(crop=True)) == (64, 32)
        assert estimating.training_size(cfg_of(crop=True, jitter=True)) == (1024, 512)

    def test_images_of_data_sets(self):
        names = ("coco_2017_train_panoptic_separated", "cityscapes_fine_sem_seg_train")
        assert estimating.images_of(names) == 118_287 + 2_975
        assert estimating.images_of(("mine",)) is None


@pytest.mark.detectron2
class TestCommand:
    def test_the_documents_are_what_the_data_give(self, capsys):
        assert model_zoo.main(["--root", str(ROOT), "--check"]) == 0, capsys.readouterr().err

    def test_a_stale_document(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "MODEL_ZOO.md").write_text("old")
        monkeypatch.setattr(model_zoo, "render", lambda root: {zoo_page.FILE: "new"})
        assert model_zoo.main(["--root", str(tmp_path), "--check"]) == 1
        assert "MODEL_ZOO.md differ from the data" in capsys.readouterr().err
        assert model_zoo.main(["--root", str(tmp_path)]) == 0
        assert (tmp_path / "MODEL_ZOO.md").read_text() == "new"
        assert model_zoo.main(["--root", str(tmp_path), "--check"]) == 0

    def test_estimate_with_the_time_of_a_run(self, tmp_path, capsys):
        """Median of 0.5 and twice 0.25 is 0.25: 90 000 steps take 6.25 hours."""
        lines = [{"iteration": 19 + 20 * i, "time": t} for i, t in enumerate((0.5, 0.25, 0.25))]
        (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
        name = "coco/panoptic-segmentation/panoptic_fpn_r50_1x.yaml"
        arguments = ["--root", str(ROOT), "--estimate", name, "--metrics", str(tmp_path)]
        assert model_zoo.main(arguments) == 0
        said = capsys.readouterr().out
        assert "90000 steps of 16 images (2 for each GPU), 12.2 epochs" in said
        assert "6.2 h at 0.250 s for a step" in said

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--root", "/nowhere"], "there are no recipes"),
            (["--measure", "--configs", "voc/*"], "no recipe of configs fits 'voc/*'"),
            (["--estimate", "coco/*"], "recipes; name one"),
            (["--estimate", "coco/detection/faster_rcnn_r50_1x.yaml", "--gpus", "7"], "7 GPUs"),
        ],
    )
    def test_slips(self, arguments, message, capsys):
        if "--root" not in arguments:
            arguments = ["--root", str(ROOT), *arguments]
        assert model_zoo.main(arguments) == 2
        assert message in capsys.readouterr().err


SCENES = ROOT / "configs" / "synthetic"


@pytest.mark.detectron2
class TestCounting:
    @pytest.mark.parametrize(
        "name",
        [
            "semantic-segmentation/sfm_fcn_r18",
            "panoptic-segmentation/freqfusion_mask2former_r18",
        ],
    )
    def test_without_memory_the_numbers_are_the_same(self, name):
        from freqfusion.analysis import count_flops, count_parameters
        from freqfusion.tools._analyze.inputs import random_image
        from freqfusion.tools._model_zoo.counting import configuration, count, seeded_model

        file = SCENES / f"{name}.yaml"
        cfg = configuration(file)
        model = seeded_model(cfg)
        found = count(file, (64, 80))
        assert found["flops"] == count_flops(model, [random_image(cfg, (64, 80))]).total > 1e8
        assert found["parameters"] == count_parameters(model)[""].total

    def test_what_training_keeps_is_the_same(self):
        from freqfusion.tools._analyze.inputs import random_image
        from freqfusion.tools._analyze.measure import training_memory
        from freqfusion.tools._model_zoo.counting import configuration, count_kept, seeded_model

        file = SCENES / "semantic-segmentation/freqfusion_semantic_fpn_r18.yaml"
        cfg = configuration(file)
        real = training_memory(cfg, seeded_model(cfg), random_image(cfg, (64, 80))).total
        assert count_kept(file, (64, 80)) == real

    def test_a_detector_has_all_its_boxes_whatever_its_weights(self):
        """Random ones throw most boxes out of the image: FLOPs differed by two for a fusion."""
        import torch

        from freqfusion.tools._analyze.inputs import random_image
        from freqfusion.tools._model_zoo.counting import configuration, seeded_model

        cfg = configuration(SCENES / "instance-segmentation/mask_rcnn_r18.yaml")
        cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 70
        cfg.TEST.DETECTIONS_PER_IMAGE = 30
        model = seeded_model(cfg).eval()
        given = []
        model.roi_heads.register_forward_pre_hook(lambda _, args: given.append(len(args[2][0])))
        with torch.no_grad():
            (output,) = model([random_image(cfg, (128, 160))])
        assert given == [70]
        assert len(output["instances"]) == 30

    def test_measures_what_is_missing_only(self, tmp_path, capsys):
        name = "synthetic/semantic-segmentation/semantic_fpn_r18.yaml"
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        (tmp_path / "docs").mkdir()
        asked = ["--root", str(tmp_path), "--measure", "--configs", name, "--size", "64x64"]
        assert model_zoo.main(asked) == 0
        assert f"[1/1] {name}: 11." in capsys.readouterr().out
        row = record.read_rows(tmp_path / record.FILE)[name]
        assert row["size"] == [64, 64]
        assert row["kept_bytes"] is None
        assert model_zoo.main([*asked, "--memory"]) == 0
        said = capsys.readouterr().out
        assert "MiB for backward" in said
        assert "GFLOPs" not in said
        assert model_zoo.main([*asked, "--memory"]) == 0
        assert "was there" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "name",
        [
            "coco/panoptic-segmentation/freqfusion_mask2former_r50.yaml",
            "coco/panoptic-segmentation/freqfusion_panoptic_fpn_r50_1x.yaml",
        ],
    )
    def test_recorded_parameters_are_those_of_today(self, name):
        import torch
        from detectron2.modeling import build_model

        from freqfusion.tools._model_zoo.counting import configuration

        cfg = configuration(ROOT / "configs" / name)
        cfg.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            model = build_model(cfg)
        row = record.read_rows(ROOT / record.FILE)[name]
        assert row["parameters"] == sum(one.numel() for one in model.parameters())
