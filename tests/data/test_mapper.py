"""What the mapper makes of an image and its truth."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from PIL import Image
from rehearsed import registered_at

from freqfusion import get_freqfusion_cfg
from freqfusion.data.mapper import (
    ColorJitter,
    SegmentationMapper,
    build_augmentations,
    build_mapper,
)
from freqfusion.data.reading import read_panoptic_png
from freqfusion.data.synthetic import write_coco
from freqfusion.data.validation.annotations import check_entry

NAME = "synthetic_panoptic_train_separated"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = write_coco(
        tmp_path_factory.mktemp("datasets") / "synthetic",
        num_train=3,
        num_val=0,
        size=(64, 96),
        progress=False,
        workers=1,
    )
    with pytest.MonkeyPatch.context() as patch, registered_at(folder.parent, patch):
        yield folder


@pytest.fixture
def images(scenes):
    return DatasetCatalog.get(NAME)


@pytest.fixture
def panoptic_image(scenes):
    return DatasetCatalog.get("synthetic_panoptic_train")[0]


def changed(**keys):
    cfg = get_freqfusion_cfg()
    cfg.MODEL.MASK_ON = True
    for name, value in keys.items():
        cfg.merge_from_list([name.replace("__", "."), value])
    return cfg


def same(one, other, train):
    if not train:  # Detectron2 keeps labels that are resized and that nobody reads
        other.pop("sem_seg")
    assert set(one) >= set(other)
    assert torch.equal(one["image"], other["image"])
    if "instances" in other:
        a, b = one["instances"], other["instances"]
        assert a.image_size == b.image_size
        assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
        assert torch.equal(a.gt_classes, b.gt_classes)
        assert a.has("gt_masks") == b.has("gt_masks")
        polygons = (a.gt_masks.polygons, b.gt_masks.polygons) if a.has("gt_masks") else ((), ())
        for left, right in zip(*polygons, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(left, right, strict=True))
    if "sem_seg" in other:
        assert torch.equal(one["sem_seg"], other["sem_seg"])


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"INPUT__CROP__ENABLED": True},
        {"INPUT__RANDOM_FLIP": "vertical", "INPUT__MIN_SIZE_TRAIN": (40, 50)},
        {"MODEL__MASK_ON": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("train", [True, False])
def test_defaults_are_detectron2s(images, keys, train):
    """The same seed gives the same tensors as Detectron2's own mapper."""
    cfg = changed(**keys)
    for number, image in enumerate(images):
        np.random.seed(number)
        theirs = DatasetMapper(cfg, is_train=train)(copy.deepcopy(image))
        np.random.seed(number)
        before = copy.deepcopy(image)
        ours = SegmentationMapper(cfg, is_train=train)(image)
        assert image == before
        same(ours, theirs, train)


def test_run_length_masks_are_read_whatever_the_format(images):
    """An image with one gives bitmasks, those of its polygons among them."""
    from pycocotools import mask as coco

    keys = {"INPUT__RANDOM_FLIP": "none", "INPUT__MIN_SIZE_TRAIN": (64,)}
    entry = next(one for one in images if len(one["annotations"]) > 1)
    mixed = copy.deepcopy(entry)
    runs = coco.frPyObjects(mixed["annotations"][0]["segmentation"], 64, 96)
    mixed["annotations"][0]["segmentation"] = coco.merge(runs)
    expected = build_mapper(changed(INPUT__MASK_FORMAT="bitmask", **keys), True)(mixed)
    found = build_mapper(changed(**keys), True)(mixed)
    assert torch.equal(found["instances"].gt_masks.tensor, expected["instances"].gt_masks.tensor)
    assert found["instances"].gt_masks.tensor[0].sum() > 0
    assert hasattr(build_mapper(changed(**keys), True)(entry)["instances"].gt_masks, "polygons")


def test_keypoints_are_left_to_detectron2():
    cfg = changed(MODEL__LOAD_PROPOSALS=True)
    assert isinstance(build_mapper(cfg, is_train=False), DatasetMapper)
    assert isinstance(build_mapper(changed(), is_train=False), SegmentationMapper)


@pytest.mark.parametrize("target", ["instances", "semantic"])
def test_targets_are_chosen(images, target):
    result = SegmentationMapper(changed(INPUT__TARGETS=(target,)), is_train=True)(images[0])
    assert ("instances" in result) == (target == "instances")
    assert ("sem_seg" in result) == (target == "semantic")


def test_panoptic_target_follows_the_image(panoptic_image):
    """A mirrored image has mirrored ids, and only segments that it shows."""
    mapper = SegmentationMapper(
        is_train=True,
        augmentations=[T.RandomCrop("absolute", (32, 40)), T.RandomFlip(prob=1.0)],
        targets=["panoptic"],
    )
    result = mapper(panoptic_image)
    truth = read_panoptic_png(panoptic_image["pan_seg_file_name"])
    ids = result["pan_seg"].numpy()[:, ::-1]
    assert ids.shape == (32, 40)
    windows = np.lib.stride_tricks.sliding_window_view(truth, (32, 40))
    assert (windows == ids).all(axis=(2, 3)).any()
    shown = {info["id"] for info in result["segments_info"]}
    assert shown == set(np.unique(ids).tolist()) - {0}
    assert shown < {info["id"] for info in panoptic_image["segments_info"]}


def test_segments_info_is_wanted_for_a_panoptic_target_only(panoptic_image):
    """Cityscapes' images come with a panoptic picture, to be drawn, for every task."""
    entry = {key: value for key, value in panoptic_image.items() if key != "segments_info"}
    check_entry(entry)
    assert "image" in SegmentationMapper(is_train=True, augmentations=[], targets=[])(entry)
    mapper = SegmentationMapper(is_train=True, augmentations=[], targets=["panoptic"])
    with pytest.raises(ValueError, match="comes without segments_info"):
        mapper(entry)


@pytest.mark.parametrize("ignored", [255, 200])
def test_scale_jitter_fills_up_and_ignores_the_filling(images, ignored):
    cfg = changed(INPUT__SCALE_JITTER__ENABLED=True, INPUT__SCALE_JITTER__SIZE=(80, 90))
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = ignored
    cfg.INPUT.SCALE_JITTER.MIN_SCALE = cfg.INPUT.SCALE_JITTER.MAX_SCALE = 0.5
    result = SegmentationMapper(cfg, is_train=True)(images[0])
    assert result["image"].shape == (3, 80, 90)
    assert result["sem_seg"].shape == (80, 90)
    # 64 x 96 fits into 40 x 45 as 30 x 45; the rest is filled, wherever the flip puts it.
    assert (result["sem_seg"] == ignored).sum() >= 80 * 90 - 30 * 45
    assert result["instances"].gt_boxes.tensor.max() <= 90


def test_boxes_after_scale_jitter_are_those_of_the_masks_that_are_left(images):
    cfg = changed(INPUT__SCALE_JITTER__ENABLED=True, INPUT__SCALE_JITTER__SIZE=(64, 64))
    cfg.INPUT.SCALE_JITTER.MIN_SCALE = cfg.INPUT.SCALE_JITTER.MAX_SCALE = 3.0
    cut = 0
    for recompute in (True, False):
        mapper = SegmentationMapper(cfg, is_train=True)
        mapper.recompute_boxes = mapper.recompute_boxes and recompute
        for number, image in enumerate(images):
            np.random.seed(number)
            found = mapper(image)["instances"]
            exact = found.gt_masks.get_bounding_boxes().tensor
            cut += not torch.equal(found.gt_boxes.tensor, exact)
            assert not (recompute and cut)
    assert cut  # without it, some would be others


def test_crop_after_the_resize_has_its_size(images):
    cfg = changed(INPUT__CROP__ENABLED=True, INPUT__CROP__AFTER_RESIZE=True)
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", [48, 56]
    cfg.INPUT.MIN_SIZE_TRAIN = (128,)
    assert SegmentationMapper(cfg, is_train=True)(images[0])["image"].shape == (3, 48, 56)


def test_unknown_flip():
    with pytest.raises(ValueError, match="none, horizontal or vertical; got 'both'"):
        build_augmentations(changed(INPUT__RANDOM_FLIP="both"), is_train=True)


def test_palette_labels_keep_their_numbers(images, tmp_path):
    """Detectron2 would turn the colors of the palette into grey."""
    labels = np.arange(64 * 96, dtype=np.uint8).reshape(64, 96) % 7
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([200, 10, 30, 7, 90, 255, 1, 2, 3] * 20)
    picture.save(tmp_path / "labels.png")
    entry = images[0] | {"sem_seg_file_name": str(tmp_path / "labels.png")}
    mapper = SegmentationMapper(is_train=True, augmentations=[])
    assert np.array_equal(mapper(entry)["sem_seg"].numpy(), labels)


def test_labels_beyond_a_byte_are_refused(images, tmp_path):
    Image.fromarray(np.full((64, 96), 300, dtype=np.uint16)).save(tmp_path / "labels.png")
    entry = images[0] | {"sem_seg_file_name": str(tmp_path / "labels.png")}
    with pytest.raises(ValueError, match=r"labels\.png has labels 300\.\.300"):
        SegmentationMapper(is_train=True, augmentations=[])(entry)


def test_colors_change_alike_in_both_orders():
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    changed_images = []
    for order, picture in (("RGB", image), ("BGR", np.ascontiguousarray(image[..., ::-1]))):
        np.random.seed(3)
        transform = ColorJitter(image_format=order).get_transform(picture)
        result = transform.apply_image(picture)
        changed_images.append(result if order == "RGB" else result[..., ::-1])
    assert np.array_equal(*changed_images)
    assert not np.array_equal(changed_images[0], image)


def test_no_color_change_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    jitter = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0)
    assert np.array_equal(jitter.get_transform(image).apply_image(image), image)
