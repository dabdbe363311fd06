"""Rules on the metadata and a configuration alone; no file is there."""

import time

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from freqfusion.config import get_freqfusion_cfg
from freqfusion.data.validation.classes import check_classes, check_files_exist

THINGS = ["cat", "dog", "cow"]
STUFF = ["things", "sky"]
SETS = {
    "animals": {"thing_classes": THINGS, "thing_dataset_id_to_contiguous_id": {5: 0, 7: 1, 9: 2}},
    "animals_separated": {
        "thing_classes": THINGS,
        "thing_dataset_id_to_contiguous_id": {5: 0, 7: 1, 9: 2},
        "stuff_classes": STUFF,
        "stuff_dataset_id_to_contiguous_id": {0: 0, 11: 1},
        "ignore_label": 255,
    },
    "animals_standard": {
        "thing_classes": [*THINGS, "sky"],
        "thing_dataset_id_to_contiguous_id": {5: 0, 7: 1, 9: 2},
        "stuff_classes": [*THINGS, "sky"],
        "stuff_dataset_id_to_contiguous_id": {11: 3},
        "ignore_label": 255,
    },
    "animals_odd": {"thing_classes": ["cat", "cow", "dog"]},
    "labels": {"stuff_classes": ["sky", "sea"], "ignore_label": 1},
    "unread": {"json_file": "nowhere/instances.json", "image_root": "nowhere/images"},
}


@pytest.fixture(autouse=True, scope="module")
def registered():
    for name, metadata in SETS.items():
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(**metadata)
    yield
    for name in SETS:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def configuration(architecture, roi=3, semantic=2, retinanet=3, ignored=255):
    cfg = get_freqfusion_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = roi
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = semantic
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = ignored
    cfg.MODEL.RETINANET.NUM_CLASSES = retinanet
    return cfg


def said(cfg, *names):
    return [finding.sentence() for finding in check_classes(cfg, names)]


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("GeneralizedRCNN", "animals"),
        ("GeneralizedRCNN", "animals_separated"),
        ("RetinaNet", "animals"),
        ("PanopticFPN", "animals_separated"),
        ("SemanticSegmentor", "animals_separated"),
        ("GeneralizedRCNN", "unread"),
        ("SomethingElse", "animals"),
    ],
)
def test_what_fits(architecture, name):
    assert said(configuration(architecture), name) == []


@pytest.mark.parametrize(
    ("cfg", "name", "sentence"),
    [
        (
            configuration("GeneralizedRCNN", roi=80),
            "animals",
            "MODEL.ROI_HEADS.NUM_CLASSES: is 80, but animals has 3 thing_classes; expected: 3",
        ),
        (
            configuration("RetinaNet", retinanet=80),
            "animals",
            "MODEL.RETINANET.NUM_CLASSES: is 80, but animals has 3 thing_classes; expected: 3",
        ),
        (
            configuration("SemanticSegmentor", semantic=54),
            "animals_separated",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES: is 54, but animals_separated has 2 stuff_classes;"
            " expected: 2",
        ),
        (
            configuration("SemanticSegmentor"),
            "animals",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES: a semantic head is trained on animals, which has no"
            " stuff_classes; expected: a data set with semantic labels",
        ),
        (
            configuration("GeneralizedRCNN", roi=4),
            "animals_standard",
            "MODEL.ROI_HEADS.NUM_CLASSES: counts the things of animals_standard, whose things and"
            " stuff share one label space; expected: a data set whose things have labels of their"
            " own",
        ),
        (
            configuration("SemanticSegmentor", ignored=0),
            "animals_separated",
            "MODEL.SEM_SEG_HEAD.IGNORE_VALUE: is 0, but animals_separated ignores the label 255;"
            " expected: 255",
        ),
        (
            configuration("SemanticSegmentor", ignored=1),
            "labels",
            "labels: labels ignores the label 1, which is the class 'sea'; expected: an"
            " ignore_label outside of 0..1",
        ),
    ],
)
def test_what_does_not_fit(cfg, name, sentence):
    assert said(cfg, name) == [sentence]
    assert str(check_classes(cfg, [name])[0]) == sentence


def test_panoptic_fpn_counts_both():
    found = check_classes(configuration("PanopticFPN", roi=2, semantic=3), ["animals_separated"])
    assert [finding.file for finding in found] == [
        "MODEL.ROI_HEADS.NUM_CLASSES",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    ]
    assert {finding.severity for finding in found} == {"error"}


def test_data_sets_of_different_classes():
    """dog and cow have changed places: numbers 1 and 2."""
    assert said(configuration("GeneralizedRCNN"), "animals", "animals_odd") == [
        "animals_odd: its thing_classes differ from those of animals from number 1 on; expected:"
        " the same names"
    ]


def test_evaluation_of_a_part():
    """A Panoptic FPN may be evaluated on instances alone, not trained on them."""
    cfg = configuration("PanopticFPN")
    cfg.DATASETS.TEST = ("animals",)
    assert said(cfg, "animals") == []
    cfg.DATASETS.TRAIN = ("animals",)
    assert len(said(cfg, "animals")) == 1


def test_unknown_data_set():
    (sentence,) = said(configuration("GeneralizedRCNN"), "animal")
    assert sentence.startswith("DATASETS: no data set is registered as 'animal'; did you mean ")
    assert "animals" in sentence


def test_missing_files_are_found_without_reading():
    started = time.perf_counter()
    found = check_files_exist(["unread", "unread", "animals"])
    assert time.perf_counter() - started < 1
    assert [finding.sentence() for finding in found] == [
        "nowhere/instances.json: is not there; expected: the instances of unread;"
        " DETECTRON2_DATASETS names the folder of all data sets",
        "nowhere/images: is not there; expected: the images of unread; DETECTRON2_DATASETS names"
        " the folder of all data sets",
    ]


def test_missing_files_of_an_unknown_data_set():
    with pytest.raises(ValueError, match="no data set is registered as 'zzzzzz'; register it"):
        check_files_exist(["zzzzzz"])


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("coco_2017_val_panoptic_separated", "prepare coco"),
        ("ade20k_sem_seg_val", "prepare ade20k"),
        ("cityscapes_fine_panoptic_val", "prepare cityscapes"),
    ],
)
def test_derived_data_names_its_command(name, command):
    """Detectron2's own registrations: nothing is there, and one line says how to derive it."""
    found = [f.sentence() for f in check_files_exist([name])]
    assert any(f"made by python -m freqfusion.tools.{command}" in sentence for sentence in found)
