"""Bad images and truths, as the loaders of training and evaluation take them."""

import logging
import random
import shutil

import numpy as np
import pytest
import torch
from bad_inputs import CASES, FIRST, image_path
from detectron2.data import (
    build_detection_train_loader,
)
from detectron2.utils.env import seed_all_rng
from rehearsed import registered_at
from toy_configs import change, resnet18_cfg
from validation_sets import (
    INSTANCE_SET,
    INSTANCES,
    PANOPTIC_SET,
    SEMANTIC_SET,
    write_small_coco,
)

from freqfusion.data import loaders
from freqfusion.data.bad_samples import (
    BadSample,
    BadSampleError,
    CheckedSamples,
    CountedBatches,
    Policy,
    SkippedImages,
    skipped_summary,
)
from freqfusion.data.dataset_dicts import read_json
from freqfusion.data.mapper import build_mapper
from freqfusion.data.randomness import seed_from, separate_randomness

NAMES = {"instances": INSTANCE_SET, "semantic": SEMANTIC_SET, "panoptic": PANOPTIC_SET}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_small_coco(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def root(sound, tmp_path, monkeypatch):
    """A registered copy of three images, to be spoiled."""
    folder = shutil.copytree(sound, tmp_path / "synthetic")
    with registered_at(tmp_path, monkeypatch):
        yield folder


@pytest.fixture(scope="module")
def objects(sound):
    """Number of objects of the first image that are no crowds."""
    entries = read_json(str(sound / INSTANCES))["annotations"]
    first = [entry for entry in entries if entry["image_id"] == entries[0]["image_id"]]
    count = sum(not entry["iscrowd"] for entry in first)
    assert count > 1
    return count


def configuration(target, **keys):
    cfg = change(
        resnet18_cfg(),
        {
            "DATASETS__TRAIN": (NAMES[target],),
            "DATASETS__TEST": (NAMES[target],),
            "DATALOADER__NUM_WORKERS": 0,
            "DATALOADER__MAX_BAD_SAMPLES": 1.0,
            "DATALOADER__ASPECT_RATIO_GROUPING": False,
            "INPUT__FORMAT": "RGB",
            "INPUT__TARGETS": (target,),
            "INPUT__MIN_SIZE_TRAIN": (32,),
            "INPUT__MIN_SIZE_TEST": 32,
            "INPUT__RANDOM_FLIP": "none",
            "MODEL__MASK_ON": True,
            "MODEL__META_ARCHITECTURE": {
                "instances": "GeneralizedRCNN",
                "semantic": "SemanticSegmentor",
                "panoptic": "Mask2Former",
            }[target],
            "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 13,
            "SOLVER__IMS_PER_BATCH": 1,
            "SEED": 3,
        },
    )
    return change(cfg, keys)


def an_epoch(cfg, images=3):
    """As many samples as there are images, in the order of the sampler, and what was counted."""
    loader = loaders.train_loader(cfg)
    batches = iter(loader)
    return [next(batches)[0] for _ in range(images)], loader.skipped_images


def by_file(samples):
    return {sample["file_name"]: sample for sample in samples}


LEFT_OUT = {
    "no labels": "1 of the 3 images",
}
"""What does not come at all, as always, with the words of the log."""

SKIP = {"DATALOADER__BAD_SAMPLES": "skip"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_training(root, case, caplog, objects):
    """Each case goes through the loader of training, in both policies."""
    rle = case.name.startswith(("RLE", "no RLE"))
    keys = {"INPUT__MASK_FORMAT": "bitmask"} if rle else {}
    case.spoil(root)
    refuse, skip = configuration(case.target, **keys), configuration(case.target, **SKIP, **keys)
    if case.kind == "unusable":
        for cfg in (refuse, skip):
            with pytest.raises(ValueError, match=r"annotations of \w+ cannot be used") as e:
                an_epoch(cfg)
            assert case.says in str(e.value)
            assert "check_dataset" in str(e.value)
        return
    first = str(image_path(root))
    if case.kind == "refused":
        with pytest.raises(BadSampleError) as caught:
            an_epoch(refuse)
        sentence = str(caught.value)
        assert case.says in sentence
        assert FIRST in sentence
        assert "\n" not in sentence
        samples, skipped_images = an_epoch(skip)
        assert first not in by_file(samples)
        assert len(samples) == 3
        assert list(skipped_images.skipped) == [first]
        assert case.says in str(skipped_images.skipped[first])
        assert sum(FIRST in m and "left out" in m for m in caplog.messages) == 1
        return
    with caplog.at_level(logging.INFO):
        samples, skipped_images = an_epoch(refuse, images=3 - (case.name in LEFT_OUT))
    assert not skipped_images.skipped
    notes = [note for note in skipped_images.notes if FIRST in note]
    assert bool(notes) == (case.kind == "noted")
    assert all(case.says in note for note in notes)
    if case.name in LEFT_OUT:
        assert any(LEFT_OUT[case.name] in message for message in caplog.messages)
        assert first not in by_file(samples)
        return
    sample = by_file(samples)[first]
    assert not any("sample" in key for key in sample)  # what the loader adds is taken out
    if case.image is not None:
        assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), case.image)
    if case.target == "instances":
        assert len(sample["instances"]) == objects - case.lost
    if case.lost and case.kind == "accepted":
        assert any(case.says in m and "left out" in m for m in caplog.messages)


EVALUATED = [case for case in CASES if case.kind == "refused"]


@pytest.mark.parametrize("case", EVALUATED, ids=lambda case: case.name)
def test_evaluation(root, case):
    """What training leaves out, an evaluation leaves out too; nothing takes its place."""
    case.spoil(root)
    loader = loaders.evaluation_loader(configuration(case.target, **SKIP), NAMES[case.target])
    images = [image["file_name"] for batch in loader for image in batch]
    first = str(image_path(root))
    assert images == [str(root / f"train/{n:012}.jpg") for n in (2, 3)]
    assert list(loader.skipped_images.gathered()) == [first]
    assert case.says in str(loader.skipped_images.skipped[first])


class TestSoundImages:
    @pytest.mark.parametrize("policy", ["refuse", "skip"])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_order_is_detectron2s_and_each_turn_has_its_numbers(self, root, policy, workers):
        """Files and pixels over four epochs; no random number of this process is taken."""
        keys = {"INPUT__RANDOM_FLIP": "horizontal", "INPUT__MIN_SIZE_TRAIN": (30, 33, 36, 40)}
        cfg = configuration("instances", DATALOADER__BAD_SAMPLES=policy, **keys)
        cfg.DATALOADER.NUM_WORKERS = workers
        mapper = build_mapper(cfg, is_train=True)
        entries = {one["file_name"]: one for one in loaders.dataset_dicts([INSTANCE_SET])}
        theirs = iter(build_detection_train_loader(cfg, mapper=lambda one: one))
        expected = []
        for turn in range(12):
            [entry] = next(theirs)
            with separate_randomness(seed_from(cfg.SEED, turn)):
                expected.append(mapper(entries[entry["file_name"]]))
        seed_all_rng(5)
        states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        ours, _ = an_epoch(cfg, images=12)
        assert [s["file_name"] for s in ours] == [s["file_name"] for s in expected]
        assert all(set(a) == set(b) for a, b in zip(ours, expected, strict=True))
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(ours, expected, strict=True))
        assert torch.equal(states[0], torch.get_rng_state())
        assert np.array_equal(states[1], np.random.get_state()[1])
        assert states[2] == random.getstate()


class TestWorkers:
    def test_refusal_is_one_sentence_out_of_a_worker(self, root):
        image_path(root).write_bytes(b"")
        cfg = configuration("instances", DATALOADER__NUM_WORKERS=2)
        with pytest.raises(BadSampleError) as caught:
            an_epoch(cfg)
        assert str(caught.value).startswith(f"cannot read the image {image_path(root)}: ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("grouped", [False, True])
    def test_several_workers_count_one_file_once(self, root, grouped, caplog):
        image_path(root).write_bytes(b"")
        cfg = configuration("instances", **SKIP, DATALOADER__NUM_WORKERS=2)
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouped
        samples, skipped_images = an_epoch(cfg, images=12)
        assert len(samples) == 12
        assert list(skipped_images.skipped) == [str(image_path(root))]
        assert sum("left out" in message for message in caplog.messages) == 1


def mapped(entry):
    if entry["bad"]:
        raise ValueError("is bad")
    return dict(entry)


def entries(pattern):
    return [{"file_name": f"{n}.png", "bad": mark == "x"} for n, mark in enumerate(pattern)]


class TestCheckedSamples:
    def test_the_next_good_one_is_taken(self):
        """Whatever came before; behind the last one comes the first."""
        samples = CheckedSamples(entries(".xx.x"), mapped, Policy("skip", 3.0), replace=True)
        assert [samples[n]["file_name"] for n in range(5)] == [f"{n}.png" for n in (0, 3, 3, 3, 0)]

    def test_a_defect_is_none_of_the_data(self):
        def broken(entry):
            raise TypeError("a defect")

        samples = CheckedSamples(entries("."), broken, Policy("skip", 1.0), replace=True)
        with pytest.raises(TypeError, match="a defect"):
            samples[0]

    def test_nothing_but_bad_images(self):
        samples = CheckedSamples(entries("xx"), mapped, Policy("skip", 9.0), replace=True)
        assert isinstance(samples[0], BadSampleError)
        assert str(samples[0]).startswith("2 of the 2 images cannot be used")


class TestLimit:
    @pytest.mark.parametrize(
        ("most", "images", "limit"),
        [(0.0, 50, 0), (0.01, 1, 1), (0.01, 100, 1), (0.01, 101, 2), (1.0, 5, 1), (7.0, 5, 7)],
    )
    def test_is_a_share_or_a_number(self, most, images, limit):
        assert Policy("skip", most).limit(images) == limit

    @pytest.mark.parametrize("replace", [True, False])
    def test_one_more_ends_the_run(self, replace):
        policy = Policy("skip", 2.0)

        def batches(pattern):
            samples = CheckedSamples(entries(pattern), mapped, policy, replace=replace)
            single = [[samples[index]] for index in range(len(samples))]
            return CountedBatches(single, SkippedImages("some images", len(samples), policy))

        found = batches("x.x.")
        kept = [sample["file_name"] for batch in found for sample in batch]
        assert kept == (["1.png", "1.png", "3.png", "3.png"] if replace else ["1.png", "3.png"])
        assert list(found.skipped_images.skipped) == ["0.png", "2.png"]
        with pytest.raises(
            BadSampleError,
            match=r"3 of the 6 images cannot be used, but DATALOADER.MAX_BAD_SAMPLES 2 allows 2;"
            r" the last one: 4.png: is bad",
        ):
            list(batches("x.x.x."))


def test_processes_are_added_up(monkeypatch):
    """Two of them, which left out two files and one, together more than allowed."""
    other = {name: BadSample(name, "is bad") for name in ("a.png", "c.png")}

    def skipped_images(most):
        result = SkippedImages("some images", 10, Policy("skip", most))
        result.skip(BadSample("b.png", "is bad"))
        monkeypatch.setattr(
            "freqfusion.data.bad_samples.comm.all_gather", lambda mine: [mine, other]
        )
        return result

    assert list(skipped_images(3.0).gathered()) == ["a.png", "b.png", "c.png"]
    with pytest.raises(BadSampleError, match="3 of the 10 images"):
        skipped_images(2.0).gathered()


def test_summary():
    skipped = {f"{n}.png": BadSample(f"{n}.png", "is bad") for n in range(22)}
    assert (
        skipped_summary("training", {"0.png": skipped["0.png"]})
        == "training: 1 image was left out: 0.png"
    )
    line = skipped_summary("training", skipped)
    assert line.startswith("training: 22 images were left out: 0.png, 1.png, ")
    assert line.endswith("19.png and 2 more")
