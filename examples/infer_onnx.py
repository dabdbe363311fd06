"""Segment an image with a model that ``python -m freqfusion.tools.export`` has written.

Needs numpy, Pillow and onnxruntime only:

    python examples/infer_onnx.py model.onnx photo.jpg result.png [--blend 0.6]

Everything that the model needs to know stands in the file: the order of the channels, the size that
images are resized to, names and colours of the classes.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def load(path):
    """The session of a file and what its exporter has noted in it."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    if "sem_seg" not in [output.name for output in session.get_outputs()]:
        raise ValueError(
            f"{path} gives no semantic result: it is a model for {notes.get('task', 'something')}"
        )
    return session, notes


def model_input(session, notes, image):
    """An RGB image as the model wants it, (1, 3, height, width) from 0 to 255, and its part of it.

    A model for one size gets the image as large as it fits, with the mean color beside it.
    """
    *_, height, width = session.get_inputs()[0].shape
    is_fixed = isinstance(height, int)
    shortest, longest = json.loads(notes.get("resize", "[0, 0]"))
    factor = shortest / min(image.size) if shortest else 1.0
    factor = min(factor, longest / max(image.size)) if longest else factor
    if is_fixed:
        factor = min(width / image.width, height / image.height)
    size = tuple(max(round(factor * side), 1) for side in image.size)
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    if notes.get("input_format", "BGR") == "BGR":
        pixels = pixels[..., ::-1]
    if is_fixed:
        whole = np.empty((height, width, 3), dtype=np.float32)
        whole[:] = json.loads(notes["pixel_mean"])
        whole[: size[1], : size[0]] = pixels
        pixels = whole
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]), size


def segment(session, notes, image):
    """The class of every pixel of an RGB image, at its size."""
    planes, (width, height) = model_input(session, notes, image)
    scores = session.run(["sem_seg"], {"image": planes})[0][0, :, :height, :width]
    labels = Image.fromarray(scores.argmax(0).astype(np.int32))
    return np.asarray(labels.resize(image.size, Image.Resampling.NEAREST))


def colored(labels, notes, image, blend):
    """The labels in the colours of their classes over the image."""
    colors = np.array(json.loads(notes["colors"]), dtype=np.float32)[labels]
    mixed = blend * colors + (1 - blend) * np.asarray(image, dtype=np.float32)
    return Image.fromarray(mixed.round().astype(np.uint8))


def main(arguments=None):
    """Segment one image; the exit code: 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description="Semantic segmentation of an image with ONNX.")
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("result", type=Path, help="PNG to write")
    parser.add_argument("--blend", type=float, default=0.6, help="1: colours only; 0: the image")
    options = parser.parse_args(arguments)
    try:
        session, notes = load(options.model)
        with Image.open(options.image) as opened:
            image = opened.convert("RGB")
        labels = segment(session, notes, image)
        colored(labels, notes, image, options.blend).save(options.result)
    except Exception as error:  # onnxruntime has classes of its own for every failure
        print(f"infer_onnx: {error}", file=sys.stderr)
        return 2
    names = json.loads(notes["classes"])
    shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    for label in np.argsort(-shares, kind="stable")[: np.count_nonzero(shares)]:
        print(f"{100 * shares[label]:5.1f} %  {names[label]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
