"""Train, val and tune scenes never meet, and each split is registered under its name."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from rehearsed import registered_at

from freqfusion.data.synthetic import THIN_CATEGORIES, write_coco
from freqfusion.data.synthetic.writing import (
    SPLITS,
    TUNE_START,
    VAL_START,
    check_splits,
    scene_numbers,
)


def test_splits_are_ranges_of_their_own():
    numbers = scene_numbers(3, {"train": 2, "val": 1, "tune": 2})
    assert [(n.split, n.position, n.seed, n.index) for n in numbers] == [
        ("train", 0, 3, 0),
        ("train", 1, 3, 1),
        ("val", 0, 3, 1_000_000_000),
        ("tune", 0, 3, 2_000_000_000),
        ("tune", 1, 3, 2_000_000_001),
    ]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((VAL_START + 1, 1), f"num_train must be at most {VAL_START}"),
        ((1, TUNE_START - VAL_START + 1), "num_val must be at most"),
        ((0, 0, 0), "ask for at least one scene"),
    ],
)
def test_a_range_cannot_reach_into_the_next(counts, message):
    with pytest.raises(ValueError, match=message):
        check_splits(*counts)


def test_largest_splits_still_are_apart():
    assert check_splits(VAL_START, TUNE_START - VAL_START, 1)["tune"] == 1


def test_each_split_is_registered_with_its_thin_classes(tmp_path, monkeypatch):
    write_coco(tmp_path / "synthetic", num_train=1, num_val=1, num_tune=2, size=(32, 40))
    with registered_at(tmp_path, monkeypatch):
        for split, count in zip(SPLITS, (1, 1, 2), strict=True):
            for name in ("semantic_{}", "panoptic_{}", "panoptic_{}_separated", "instances_{}"):
                name = f"synthetic_{name.format(split)}"
                entries = DatasetCatalog.get(name)
                assert len(entries) == count
                assert all(f"/{split}/" in entry["file_name"] for entry in entries)
                thin = [category.name for category in THIN_CATEGORIES]
                assert MetadataCatalog.get(name).thin_classes == thin
