"""The model zoo: which recipes there are, what is counted, its documents, and its arithmetic."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from benchmarks import model_zoo
from benchmarks import model_zoo_pages as pages
from benchmarks.ablation_matrix import read_matrix
from benchmarks.documents import END, begin_mark, read_marked
from benchmarks.model_zoo_pages import Recipe, choose_recipes, find_recipes

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

    def test_a_data_set_without_a_title(self, tmp_path):
        with pytest.raises(ValueError, match="lvis is not in DATASETS"):
            find_recipes(checkout(tmp_path, "lvis/detection/a.yaml"))

    def test_choice(self):
        recipes = [recipe(f"{SEMANTIC}/fpn.yaml"), recipe("ade20k/detection/sfm_a.yaml")]
        assert choose_recipes(recipes, ["configs/ade20k/*"]) == recipes[1:]
        assert choose_recipes(recipes, ["*"]) == recipes
        with pytest.raises(ValueError, match="no recipe of configs fits 'voc/"):
            choose_recipes(recipes, ["*", "voc/*"])


class TestCosts:
    def test_rows_return_and_those_of_lost_recipes_do_not(self, tmp_path):
        file, kept = tmp_path / "deep" / "rows.json", recipe(f"{SEMANTIC}/a.yaml")
        rows = {name: {"size": [4, 8], "flops": 7} for name in (kept.name, "lost.yaml")}
        model_zoo.write_costs(file, rows, [kept])
        found = model_zoo.read_costs(file)
        assert list(found) == [kept.name]
        assert found[kept.name]["flops"] == 7
        assert not list(file.parent.glob("*.part"))

    def test_no_file_and_one_that_is_no_record(self, tmp_path):
        file = tmp_path / "rows.json"
        assert model_zoo.read_costs(file) == {}
        file.write_text('{"schema": 0, "rows": []}')
        with pytest.raises(ValueError, match="is no result of schema 1"):
            model_zoo.read_costs(file)


def trained(method="freqfusion", seed=0, score=50.0, experiment="panoptic_fpn"):
    scores = {"panoptic_seg/PQ": score, "sem_seg/mIoU": 99.0}
    return {"experiment": experiment, "method": method, "seed": seed, "scores": scores}


class TestOurResults:
    ROWS = (
        trained(score=50.0),
        trained(seed=1, score=53.0),
        trained(seed=2, score=None),
        trained("nearest", score=40.0),
        trained("bilinear", score=1.0),
        trained("original", experiment="segnext"),
    )

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            # 50 and 53: mean 51.5, deviation sqrt(2 * 1.5^2 / 1) = 2.1.
            ("panoptic-segmentation/freqfusion_panoptic_fpn_r18", "PQ 51.5 ± 2.1 (2 seeds)"),
            ("panoptic-segmentation/panoptic_fpn_r18", "PQ 40.0 (1 seed)"),
            ("semantic-segmentation/segnext_t", "mIoU 99.0 (1 seed)"),
            ("semantic-segmentation/freqfusion_segnext_t", ""),
            ("semantic-segmentation/fcn_r18", ""),
        ],
    )
    def test_mean_and_deviation_by_hand(self, name, text):
        assert pages.our_result(recipe(f"synthetic/{name}.yaml"), self.ROWS) == text


class TestZooPage:
    def test_rows_by_hand(self):
        recipes = [recipe(f"{SEMANTIC}/{name}.yaml") for name in ("a", "freqfusion_a", "sfm_a")]
        row = {"size": [4, 8], "parameters": 1_234_567, "flops": 2_345_000_000}
        rows = {recipes[1].name: row}
        text = pages.render_zoo(recipes, rows, [])
        lines = [line for line in text.splitlines() if line.startswith(("| [", "### "))]
        assert lines == [
            "### Semantic segmentation, 4x8 pixels",
            f"| [a](../configs/{SEMANTIC}/a.yaml) | baseline |  |  |",
            f"| [freqfusion_a](../configs/{SEMANTIC}/freqfusion_a.yaml) | FreqFusion"
            " | 1.23 | 2.3 |",
            f"| [sfm_a](../configs/{SEMANTIC}/sfm_a.yaml) | SFM |  |  |",
        ]

    def test_published_numbers_stand_beside_their_recipe(self):
        one = recipe("ade20k/semantic-segmentation/segnext_t.yaml")
        text = pages.render_zoo([one], {}, [])
        assert "| configuration | method | published |" in text
        assert re.search(r"\| baseline \| mIoU 41.1 \[1\] \|", text)

    def test_every_recipe_of_the_checkout_has_one_row(self):
        text = (ROOT / "docs/model-zoo.md").read_text(encoding="utf-8")
        linked = re.findall(r"^\| \[[^\]]+\]\(\.\./(configs/[^)]+)\)", text, re.MULTILINE)
        there = [
            str(path.relative_to(ROOT))
            for path in (ROOT / "configs").rglob("*/*/*.yaml")
            if not path.name.startswith("Base-")
        ]
        assert sorted(linked) == sorted(there)

    def test_what_is_known_is_of_recipes_and_experiments(self):
        known, recipes = pages.KNOWN, {one.name for one in find_recipes(ROOT)}
        quoted = [name for one in known["published"] for name in one.get("recipes", ())]
        assert all(one["source"] for one in known["published"])
        assert len(set(quoted)) == len(quoted)
        assert {*quoted, *known["trained"], *known["trainings"]} <= recipes
        experiments = read_matrix(ROOT / "benchmarks/ablation.yaml").experiments
        assert all(method in experiments[one].methods for one, method in known["trained"].values())


def cfg_of(TRAIN=("ade20k_sem_seg_train",), OPTIMIZER="SGD"):
    """Return the part of a configuration that says what a training takes."""
    solver = SimpleNamespace(IMS_PER_BATCH=16, MAX_ITER=9000, OPTIMIZER=OPTIMIZER)
    return SimpleNamespace(SOLVER=solver, DATASETS=SimpleNamespace(TRAIN=TRAIN))


class TestTrainingFacts:
    ROW: ClassVar = {"parameters": 100 << 30, "trainable": 80 << 30}

    def test_by_hand(self):
        """9000 steps of 16 images of 20 210. State: 4 * 100 + 4 * 2 * 80."""
        assert pages.training_facts(cfg_of(), self.ROW, 4) == [
            "Training: 9000 steps of 16 images (4 for each GPU), 7.1 epochs.",
            "Time, without evaluation: 2.5 h for each second that a step takes.",
            "Memory: 1040.00 GiB of weights, gradients and averages for each GPU.",
        ]

    def test_adamw_keeps_two_averages(self):
        facts = pages.training_facts(cfg_of(OPTIMIZER="ADAMW"), self.ROW, 4)
        assert facts[2].startswith(f"Memory: {400 + 12 * 80}.00 GiB of weights")

    def test_what_was_not_counted(self):
        facts = pages.training_facts(cfg_of(TRAIN=("mine",)), {}, 4)
        assert facts[0].endswith("(4 for each GPU).")
        assert "its parameters were not counted" in facts[2]


@pytest.mark.detectron2
class TestCommand:
    def test_the_documents_are_what_the_data_give(self):
        """``python -m benchmarks.model_zoo`` has been run."""
        for path, text in model_zoo.render(ROOT).items():
            assert read_marked(ROOT / path, model_zoo.COMMAND) == text

    def test_a_pattern_that_nothing_fits(self, capsys):
        assert model_zoo.main(["--measure", "--configs", "voc/*"]) == 2
        assert "no recipe of configs fits 'voc/*'" in capsys.readouterr().err


SCENES = ROOT / "configs" / "synthetic"


@pytest.mark.detectron2
class TestCounting:
    def test_without_memory_the_numbers_are_the_same(self):
        from benchmarks.model_zoo import count, offline_configuration, seeded_model
        from freqfusion.analysis import count_flops, count_parameters
        from freqfusion.tools.analyze import random_image

        file = SCENES / "panoptic-segmentation/freqfusion_mask2former_r18.yaml"
        cfg = offline_configuration(file)
        model = seeded_model(cfg)
        found = count(file, (64, 80))
        assert found["flops"] == count_flops(model, [random_image(cfg, (64, 80))]).total > 1e8
        assert found["parameters"] == count_parameters(model)[""].total

    def test_a_detector_has_all_its_boxes_whatever_its_weights(self):
        """Random ones throw most boxes out of the image: FLOPs differed by two for a fusion."""
        import torch

        from benchmarks.model_zoo import offline_configuration, seeded_model
        from freqfusion.tools.analyze import random_image

        cfg = offline_configuration(SCENES / "instance-segmentation/mask_rcnn_r18.yaml")
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
        for document in ("docs/model-zoo.md", "docs/recipes.md"):
            (tmp_path / document).write_text(f"{begin_mark(model_zoo.COMMAND)}\n{END}\n")
        asked = ["--root", str(tmp_path), "--measure", "--configs", name, "--size", "64x64"]
        assert model_zoo.main(asked) == 0
        assert f"[1/1] {name}: 11." in capsys.readouterr().out
        row = model_zoo.read_costs(tmp_path / model_zoo.FILE)[name]
        assert row["size"] == [64, 64]
        assert model_zoo.main(asked) == 0
        assert "was there" in capsys.readouterr().out
        assert model_zoo.main([*asked[:-1], "32x64"]) == 0
        assert model_zoo.read_costs(tmp_path / model_zoo.FILE)[name]["size"] == [32, 64]

    def test_recorded_parameters_are_those_of_today(self):
        import torch
        from detectron2.modeling import build_model

        from benchmarks.model_zoo import offline_configuration

        name = "coco/panoptic-segmentation/freqfusion_mask2former_r50.yaml"
        cfg = offline_configuration(ROOT / "configs" / name)
        cfg.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            model = build_model(cfg)
        row = model_zoo.read_costs(ROOT / model_zoo.FILE)[name]
        assert row["parameters"] == sum(one.numel() for one in model.parameters())
