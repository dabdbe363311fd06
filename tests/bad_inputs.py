"""Ways to spoil the first image of a small data set, or its ground truth, and what comes of it."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image
from validation_sets import FIRST, INSTANCES, cut, edit_json, edit_png, repeat_first

HEIGHT, WIDTH = 32, 48
PANOPTIC = "annotations/panoptic_train.json"
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Case:
    """``kind`` is "refused" (one image), "unusable" (the data set), "noted" or "accepted".

    ``says`` is part of the sentence; ``image`` the pixels (RGB) that an accepted one must have,
    ``lost`` how many of its objects are not learned.
    """

    name: str
    spoil: object
    kind: str
    says: str = ""
    image: object = None
    target: str = "instances"
    lost: int = 0


def image_path(root):
    return root / f"train/{FIRST}.jpg"


def label_path(root):
    return root / f"panoptic_semseg_train/{FIRST}.png"


def panoptic_path(root):
    return root / f"panoptic_train/{FIRST}.png"


def png(pixels):
    """Replace the image by a PNG (Pillow looks at the content, not at the suffix)."""
    return lambda root: Image.fromarray(pixels).save(image_path(root), "PNG")


def content(data):
    return lambda root: image_path(root).write_bytes(data)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, depth=8, color=0, rows=b""):
    """A PNG as bytes, of any size that its header claims."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def deep_rgb():
    """16 bits a channel, the upper 8 of which are PIXELS."""
    rows = b"".join(
        b"\0" + (PIXELS[row].astype(np.uint16) * 256 + 77).astype(">u2").tobytes()
        for row in range(HEIGHT)
    )
    return png_of(WIDTH, HEIGHT, 16, 2, rows)


def turned(root):
    """PIXELS, stored so that EXIF's orientation brings them back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(PIXELS, 1)).save(image_path(root), "PNG", exif=exif)


def broken_exif(root):
    Image.fromarray(PIXELS).save(image_path(root), "PNG", exif=b"Exif\0\0nonsense")


def animated(root):
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH), v, dtype=np.uint8)) for v in (10, 200)]
    frames[0].save(image_path(root), "GIF", save_all=True, append_images=frames[1:])


def annotation(change):
    """Change the first object of the first image."""

    def spoil(root):
        def edit(index):
            number = min(image["id"] for image in index["images"])
            change(next(a for a in index["annotations"] if a["image_id"] == number))

        edit_json(root / INSTANCES, edit)

    return spoil


def setting(**values):
    return annotation(lambda entry: entry.update(values))


def without(key):
    return annotation(lambda entry: entry.pop(key))


def index_edit(change, file=INSTANCES):
    return lambda root: edit_json(root / file, change)


def polygon(*values):
    """All but the box is replaced, so that the object stays."""
    return setting(segmentation=[list(values)])


def rle(counts, size=(HEIGHT, WIDTH)):
    return setting(segmentation={"size": list(size), "counts": counts})


def labels(change):
    return lambda root: edit_png(label_path(root), change)


def colored_labels(root):
    with Image.open(label_path(root)) as image:
        image.convert("RGB").save(label_path(root))


def palette_labels(root):
    """The numbers stay, whatever colors they are shown in."""
    with Image.open(label_path(root)) as picture:
        values = np.asarray(picture)
    picture = Image.frombytes("P", (WIDTH, HEIGHT), values.tobytes())
    picture.putpalette([(7 * n + 90) % 256 for n in range(768)])
    picture.save(label_path(root))


def no_file(path):
    return lambda root: path(root).unlink()


def segments(change):
    def edit(index):
        change(index["annotations"][0]["segments_info"])

    return index_edit(edit, PANOPTIC)


def paint(value):
    def change(pixels):
        pixels[:4, :4] = value

    return change


CASES = [
    # Images
    Case("missing image", no_file(image_path), "refused", "cannot read the image"),
    Case("empty file", content(b""), "refused", "it is no image of a known format"),
    Case("a text", content(b"<html>404</html>"), "refused", "it is no image of a known format"),
    Case("truncated JPEG", lambda r: cut(image_path(r)), "refused", "truncated"),
    Case(
        "truncated PNG",
        lambda r: (png(PIXELS)(r), cut(image_path(r))),
        "refused",
        "cannot read the image",
    ),
    Case("half a header", content(png_of(48, 32)[:20]), "refused", "cannot read the image"),
    Case("decompression bomb", content(png_of(30000, 30000)), "refused", "decompression bomb"),
    Case(
        "16 bit grey",
        png(np.full((HEIGHT, WIDTH), 1000, dtype=np.uint16)),
        "refused",
        "mode I;16, whose values would be cut off at 255",
    ),
    Case("16 bit colors", content(deep_rgb()), "accepted", image=PIXELS),
    Case(
        "animation",
        animated,
        "noted",
        "has 2 frames: the first one is taken",
        image=np.full((HEIGHT, WIDTH, 3), 10, dtype=np.uint8),
    ),
    Case("EXIF", turned, "accepted", image=PIXELS),
    Case("EXIF that is none", broken_exif, "accepted", image=PIXELS),
    Case(
        "turned without EXIF",
        png(np.rot90(PIXELS).copy()),
        "refused",
        "is 48 x 32 (height x width), but its annotation says 32 x 48, as it would be without",
    ),
    Case("other size", png(PIXELS[:20].copy()), "refused", "is 20 x 48 (height x width), but"),
    # Objects
    Case(
        "box without area",
        setting(bbox=[3, 4, 0, 5]),
        "noted",
        "a box of width 0 and height 5",
        lost=1,
    ),
    Case("box of negative width", setting(bbox=[9, 4, -3, 5]), "refused", "a box of width -3"),
    Case(
        "box outside",
        setting(bbox=[100, 4, 8, 5]),
        "noted",
        "has a box outside of the image",
        lost=1,
    ),
    Case("box that is cut", setting(bbox=[-5, -4, 20, 20]), "accepted"),
    Case("box of nan", setting(bbox=[float("nan"), 0, 5, 5]), "refused", "object 0 has the bbox"),
    Case("three numbers", setting(bbox=[1, 2, 3]), "refused", "expected: four numbers"),
    Case("empty box", setting(bbox=[]), "unusable", "contains empty 'bbox' value"),
    Case("no box", without("bbox"), "refused", "object 0 lacks bbox"),
    Case("two points", polygon(1, 1, 9, 9), "accepted", "annotation 1", lost=1),
    Case(
        "nan in a polygon",
        polygon(1, 1, 9, float("nan"), 9, 9, 2, 8),
        "refused",
        "polygon 0 of object 0 is no list of x, y",
    ),
    Case("far away", polygon(1, 1, 9, 1e9, 9, 9), "refused", "reaches 1e+09 pixels away"),
    Case("polygon partly outside", polygon(-5, -5, 20, -5, 20, 20), "accepted"),
    Case(
        "polygon outside", polygon(60, 60, 70, 60, 70, 70), "noted", "no polygon within the image"
    ),
    Case(
        "more points than anyone draws",
        polygon(1, 1, *(9, 9, 9, 1) * 50_000),
        "refused",
        "object 0 has 100001 points in its polygons; expected: at most 100000",
    ),
    Case("odd polygon", polygon(1, 1, 9, 1, 9, 9, 5), "accepted", "annotation 1", lost=1),
    Case(
        "RLE of another size",
        rle([HEIGHT * WIDTH], (WIDTH, HEIGHT)),
        "refused",
        "run-length mask of the size [48, 32]; expected: 32 x 48",
    ),
    Case("RLE that ends early", rle([100, 50]), "refused", "the runs cover 150 of 1536 pixels"),
    Case("RLE too long", rle([1500, 50]), "refused", "the runs cover 1550 of 1536 pixels"),
    Case("no RLE", rle("\x00\x01"), "refused", "cannot be decoded"),
    Case("unknown category", setting(category_id=77), "unusable", "category_id=77"),
    Case("no category", without("category_id"), "unusable", "KeyError 'category_id'"),
    Case("annotation twice", index_edit(repeat_first("annotations")), "unusable", "not unique"),
    Case("image twice", index_edit(repeat_first("images")), "unusable", "the image id 1 2 times"),
    Case("no JSON", lambda r: cut(r / INSTANCES), "unusable", "cannot be used"),
    # Label maps
    Case("no labels", no_file(label_path), "accepted", target="semantic"),
    Case(
        "colored labels",
        colored_labels,
        "refused",
        "has the mode RGB; expected: one number a pixel",
        target="semantic",
    ),
    Case(
        "label 77",
        labels(paint(77)),
        "refused",
        "has the label 77 (16 pixels); expected: 0..12",
        target="semantic",
    ),
    Case(
        "labels of another size",
        labels(lambda pixels: pixels[:20]),
        "refused",
        "is 20 x 48 (height x width); expected: 32 x 48",
        target="semantic",
    ),
    Case(
        "deep labels",
        labels(lambda pixels: np.maximum(pixels.astype(np.uint16), 300)),
        "refused",
        " 300",
        target="semantic",
    ),
    Case(
        "16 bit labels that fit",
        labels(lambda pixels: pixels.astype(np.uint16)),
        "accepted",
        target="semantic",
    ),
    Case("labels with a palette", palette_labels, "accepted", target="semantic"),
    Case(
        "labels cut off",
        lambda r: cut(label_path(r)),
        "refused",
        "cannot be read (",
        target="semantic",
    ),
    Case("nothing labeled", labels(lambda p: np.full_like(p, 255)), "accepted", target="semantic"),
    # Panoptic ground truth
    Case(
        "id without a segment",
        lambda r: edit_png(panoptic_path(r), paint([1, 2, 3])),
        "refused",
        f"has the ids {1 + 2 * 256 + 3 * 65536}, which segments_info does not tell of",
        target="panoptic",
    ),
    Case(
        "segment without an id",
        segments(lambda s: s.append(s[0] | {"id": 12345})),
        "noted",
        "has no pixel of the segment 12345",
        target="panoptic",
    ),
    Case(
        "segment twice",
        segments(lambda s: s.append(dict(s[0]))),
        "refused",
        "2 times",
        target="panoptic",
    ),
    Case(
        "no panoptic picture",
        no_file(panoptic_path),
        "refused",
        "is not there; expected: an image, since the ground truth needs it",
        target="panoptic",
    ),
    Case(
        "grey panoptic picture",
        lambda r: Image.open(panoptic_path(r)).convert("L").save(panoptic_path(r)),
        "refused",
        "has the mode L; expected: ids as 8 bit colors",
        target="panoptic",
    ),
    Case(
        "panoptic picture of another size",
        lambda r: edit_png(panoptic_path(r), lambda pixels: pixels[:, :20]),
        "refused",
        "is 32 x 20 (height x width); expected: 32 x 48",
        target="panoptic",
    ),
    Case(
        "unknown category of a segment",
        segments(lambda s: s[0].update(category_id=77)),
        "unusable",
        "has the category 77",
        target="panoptic",
    ),
]
