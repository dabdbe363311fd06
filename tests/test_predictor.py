"""``freqfusion.Predictor``: what it takes, and that its results are those of Detectron2's own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

import freqfusion
from freqfusion.data.synthetic import make_scene

CONFIG = "synthetic/panoptic-segmentation/freqfusion_panoptic_fpn_r18"
SMALL = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96, "MODEL.FPN.OUT_CHANNELS", 16]
SMALL += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    model = build_model(freqfusion.model_zoo.get_config(CONFIG, [*SMALL, "MODEL.DEVICE", "cpu"]))
    file = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, file)
    return file


@pytest.fixture(scope="module")
def predictor(weights):
    return freqfusion.Predictor(CONFIG, weights, device="cpu", overrides=SMALL)


@pytest.fixture(scope="module")
def images():
    return [make_scene(0, at, (64, 80)).image for at in range(3)]


def same(one, other):
    assert one.keys() == other.keys()
    assert (one["sem_seg"] == other["sem_seg"]).all()
    assert (one["instances"].scores == other["instances"].scores).all()
    assert (one["panoptic_seg"][0] == other["panoptic_seg"][0]).all()


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_the_numbers_are_those_of_detectron2s_own_predictor(order, weights, images):
    from detectron2.engine import DefaultPredictor

    predictor = freqfusion.Predictor(CONFIG, weights, overrides=[*SMALL, "INPUT.FORMAT", order])
    image = images[0][:61, :77]
    found = predictor(image)
    assert found["sem_seg"].shape[1:] == (61, 77)
    same(found, DefaultPredictor(predictor.cfg)(image[:, :, ::-1]))


def test_every_kind_of_image_gives_the_same(predictor, images, tmp_path):
    expected = predictor(images[0])
    file = tmp_path / "image.png"
    Image.fromarray(images[0]).save(file)
    for image in (file, str(file), Image.open(file), Image.open(file).convert("RGBA")):
        same(predictor(image), expected)
    grey = np.asarray(Image.fromarray(images[0]).convert("L"))
    same(predictor(grey), predictor(np.stack([grey] * 3, axis=2)))


def test_a_photograph_is_turned_as_its_exif_says(predictor, images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "turned.png"
    Image.fromarray(images[0]).save(file, exif=exif)
    expected = np.ascontiguousarray(np.rot90(images[0], -1))
    same(predictor(file), predictor(expected))
    same(predictor(Image.open(file)), predictor(expected))


def test_lists_batches_and_threads_give_what_single_images_give(predictor, images):
    expected = [predictor(image) for image in images]
    for found in (
        predictor(images),
        predictor(np.stack(images)),
        list(ThreadPoolExecutor(3).map(predictor, images)),
    ):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    for one, other in zip(predictor(images, batch_size=2), expected, strict=True):
        torch.testing.assert_close(one["sem_seg"], other["sem_seg"], rtol=1e-4, atol=1e-4)
    assert predictor([]) == []


def test_drawing(predictor, images):
    pictures = predictor.draw(images[:2])
    assert [type(one) for one in pictures] == [Image.Image] * 2
    tasks = {task: predictor.draw(images[0], task=task) for task in ("panoptic", "semantic")}
    assert tasks["panoptic"] == pictures[0]
    assert tasks["semantic"] != pictures[0]
    no_objects = predictor.draw(images[0], task="instance", score_threshold=1.0)
    assert no_objects != predictor.draw(images[0], task="instance", score_threshold=0.0)
    with pytest.raises(ValueError, match="gives panoptic, instance, semantic, no depth"):
        predictor.draw(images[0], task="depth")


def test_results_are_what_supervision_takes(predictor, images):
    supervision = pytest.importorskip("supervision")
    output = predictor(images[0])
    detections = supervision.Detections.from_detectron2(output)
    instances = output["instances"]
    assert len(detections) == len(instances) > 0
    np.testing.assert_array_equal(detections.xyxy, instances.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(detections.class_id, instances.pred_classes.numpy())
    np.testing.assert_array_equal(detections.mask, instances.pred_masks.numpy())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3, "a path, an image of Pillow or an array; got int"),
        (
            np.zeros((8, 8, 3), np.float32),
            "uint8 from 0 to 255, .*; got float32 of shape",
        ),
        (np.zeros((3, 8, 9), np.uint8), r"got uint8 of shape \(3, 8, 9\)"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (Image.new("I;16", (8, 8)), "mode I;16"),
        ("nowhere.jpg", "cannot read the image nowhere.jpg"),
    ],
)
def test_wrong_images_are_refused(image, message, predictor):
    with pytest.raises(ValueError, match=message):
        predictor(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": "panoptic_fpn_r18"}, "did you mean synthetic/panoptic-segmentation/panoptic_f"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml does not exist"),
        ({"weights": "nowhere.pth"}, "there is no file of weights nowhere.pth"),
        ({"weights": ""}, "there are no weights to predict with"),
        ({"device": "gpu"}, "is no device that torch can use"),
        ({"overrides": ["MODEL.NONSENSE", 1]}, "MODEL.NONSENSE"),
        ({"overrides": ["MODEL.DEVICE"]}, "MODEL.DEVICE"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, weights):
    with pytest.raises(ValueError, match=message):
        freqfusion.Predictor(**({"config": CONFIG, "weights": weights} | arguments))


def test_weights_of_another_model_are_refused(weights, caplog, tmp_path):
    content = torch.load(weights, weights_only=True)["model"]
    other = {name: one for name, one in content.items() if "bottom_up" not in name}
    torch.save({"model": other}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"\d+ of \d+ of its backbone: it has the"):
        freqfusion.Predictor(CONFIG, tmp_path / "other.pth", overrides=SMALL)
    head = [name for name in content if name.startswith("sem_seg_head")]
    lacking = {name: value for name, value in content.items() if name != head[0]}
    torch.save({"model": lacking}, tmp_path / "lacking.pth")
    caplog.clear()
    freqfusion.Predictor(CONFIG, tmp_path / "lacking.pth", overrides=SMALL)
    said = [one.message for one in caplog.records if "parameters of the model" in one.message]
    assert len(said) == 1
    assert said[0].startswith("loaded ")
    assert f"not in the file: {head[0]}" in said[0]


def test_names_of_configurations():
    zoo = freqfusion.model_zoo
    names = zoo.list_configs()
    assert len(names) == len(set(names)) > 100
    assert not [name for name in names if "Base" in name or name.startswith("common")]
    for name in names:
        assert Path(zoo.get_config_file(name)).is_file()
    assert zoo.get_config_file(f"{CONFIG}.yaml") == zoo.get_config_file(CONFIG)
    assert zoo.get_config(CONFIG, ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"
    with pytest.raises(ValueError, match=rf"no configuration {CONFIG}x: did you mean {CONFIG}\?"):
        zoo.get_config_file(f"{CONFIG}x")
