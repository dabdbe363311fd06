"""Derive the label maps that training needs and downloads lack from those that they have.

Each function ``prepare_*`` takes the folder of a data set and returns what it wrote by folder.
ValueError where nothing to derive from is there, or a file is not as it should be. A file is there
completely or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.categories import CITYSCAPES_CATEGORIES, Category, separated_labels
from freqfusion.data.reading import PANOPTIC_MODES, check_file, check_mode
from freqfusion.data.synthetic.cityscapes import panoptic_entry, panoptic_index
from freqfusion.data.validation.ground_truth import labels_of_segments
from freqfusion.data.workers import Derived, PreparationJob, PreparationOptions
from freqfusion.files import write_whole
from freqfusion.metrics.cityscapes_labels import CITYSCAPES_LABELS
from freqfusion.metrics.id_codec import id_to_rgb, rgb_to_id

VOID_LABEL = 255
FORBIDDEN = -1
CITYSCAPES_SPLITS = ("train", "val")
COCO_SPLITS = ("train2017", "val2017")
# Folder of the labels of each split, relative to the data set.
ADE20K_LABELS = {split: f"annotations/{split}" for split in ("training", "validation")}
CAMVID_LABELS = {split: f"{split}annot" for split in ("train", "val", "test")}
_DECLARED_KEYS = ("panoptic_json", "panoptic", "stuff")
_LABEL_IDS = "_gtFine_labelIds.png"
_INSTANCE_IDS = "_gtFine_instanceIds.png"

_DEFAULT = PreparationOptions()


def prepare_ade20k(folder: Path, options: PreparationOptions = _DEFAULT) -> list[Derived]:
    """Derive ``annotations_detectron2/<split>/`` from ``annotations/<split>/`` (0 void, 1..150).

    ``folder`` is ``ADEChallengeData2016``.
    """
    _require_folder(folder / "annotations", "unpack ADEChallengeData2016.zip so that it is there")
    labels = {0: VOID_LABEL} | {n + 1: n for n in range(150)}
    return _relabel_splits(folder, ADE20K_LABELS, labels, options)


def prepare_camvid(folder: Path, options: PreparationOptions = _DEFAULT) -> list[Derived]:
    """Derive ``annotations_detectron2/<split>/`` from ``<split>annot/`` (0..10, and 11 void).

    This is CamVid as the SegNet tutorial distributes it: images of 480x360 pixels in ``train``,
    ``val`` and ``test``.
    """
    _require_folder(folder, "copy the folder CamVid of the SegNet tutorial there")
    labels = {n: n for n in range(11)} | {11: VOID_LABEL}
    return _relabel_splits(folder, CAMVID_LABELS, labels, options)


def prepare_cityscapes(folder: Path, options: PreparationOptions = _DEFAULT) -> list[Derived]:
    """Derive, for each split under ``gtFine``, what Detectron2's registrations need.

    ``*_gtFine_labelTrainIds.png`` (0..18, 255 void), ``cityscapes_panoptic_<split>/`` with its
    JSON, and ``cityscapes_stuff_<split>/*_gtFine_stuff.png`` (0 things, 1..11 stuff, 255 void).
    The test split has no ground truth; it gets train ids only, since the loader asks for them.
    """
    advice = "unpack gtFine_trainvaltest.zip"
    gt = _require_folder(folder / "gtFine", f"{advice} so that it is there")
    splits = [split for split in CITYSCAPES_SPLITS if (gt / split).is_dir()]
    if not splits:
        names = " and ".join(CITYSCAPES_SPLITS)
        raise ValueError(f"{gt} has none of the folders {names}; {advice} there")
    train_ids = _lookup_table({e.id: e.train_id for e in CITYSCAPES_LABELS}, default=VOID_LABEL)
    stuff_labels = _lookup_table(separated_labels(CITYSCAPES_CATEGORIES), default=VOID_LABEL)

    def write_train_ids(split: str) -> Derived:
        jobs = [
            PreparationJob(
                file,
                file.with_name(file.name.replace("_labelIds", "_labelTrainIds")),
                train_ids,
            )
            for file in _city_files(gt / split, _LABEL_IDS)
        ]
        return options.derive(_relabel_file, jobs, gt / split / "*" / "*_labelTrainIds.png")

    steps = []
    for split in splits:
        stuff = gt / f"cityscapes_stuff_{split}"
        jobs = [
            PreparationJob(file, stuff / file.name.replace("_labelIds", "_stuff"), stuff_labels)
            for file in _city_files(gt / split, _LABEL_IDS)
        ]
        steps += [
            write_train_ids(split),
            _write_cityscapes_panoptic(gt, split, options),
            options.derive(_relabel_file, jobs, stuff),
        ]
    if (gt / "test").is_dir():
        steps.append(write_train_ids("test"))
    return steps


def prepare_coco(folder: Path, options: PreparationOptions = _DEFAULT) -> list[Derived]:
    """Derive ``panoptic_stuff_<split>/`` and missing instances from the panoptic ground truth.

    Labels are those of Detectron2's separated metadata: 0 any thing, 1..53 stuff, 255 void. An
    ``instances_<split>.json`` that is there is kept, since COCO's own has crowds and polygons that
    panoptic maps do not have.
    """
    archive = "panoptic_annotations_trainval2017.zip"
    annotations = _require_folder(folder / "annotations", f"unpack {archive} in this folder")
    files = {split: annotations / f"panoptic_{split}.json" for split in COCO_SPLITS}
    splits = [split for split, file in files.items() if file.is_file()]
    if not splits:
        names = " and ".join(file.name for file in files.values())
        raise ValueError(f"{annotations} has none of the files {names}; unpack {archive} there")
    labels = _coco_labels()
    steps = []
    for split in splits:
        pngs, instances = folder / f"panoptic_{split}", annotations / f"instances_{split}.json"
        stuff = folder / f"panoptic_stuff_{split}"
        steps.append(write_stuff_maps(files[split], pngs, stuff, labels, options))
        steps.append(write_instances(files[split], pngs, instances, options))
    return steps


def prepare_declared(file: Path, options: PreparationOptions = _DEFAULT) -> list[Derived]:
    """Derive the folder ``stuff`` of each split of a declaration from its panoptic ground truth.

    ``file`` is a declaration, see ``freqfusion.data.declared``.
    """
    # Here, so that the other preparations do not need PyYAML.
    from freqfusion.data.declared import read_declaration

    declaration = read_declaration(file)
    splits = [paths for paths in declaration.splits.values() if set(_DECLARED_KEYS) <= set(paths)]
    if not splits:
        names = ", ".join(_DECLARED_KEYS)
        raise ValueError(f"{file} has no split with {names}; add the folder to write to as stuff")
    labels = separated_labels(declaration.classes)
    return [
        write_stuff_maps(
            Path(paths["panoptic_json"]),
            Path(paths["panoptic"]),
            Path(paths["stuff"]),
            labels,
            options,
        )
        for paths in splits
    ]


def write_stuff_maps(
    panoptic_json: Path,
    panoptic_root: Path,
    output: Path,
    label_of_category: Mapping[int, int],
    options: PreparationOptions,
) -> Derived:
    """Write the label map of a Panoptic FPN, where all things are one class, for each panoptic PNG.

    Args:
        panoptic_json: COCO's panoptic JSON.
        panoptic_root: Folder of its PNGs (ids as R + 256 G + 65536 B, 0 void).
        output: Folder to write 8 bit PNGs of the same names to.
        label_of_category: Label 0..254 of each category id; void becomes 255.
        options: Processes, and whether to write again what is there and to show a bar.

    Raises:
        ValueError: If a file cannot be read, or the JSON, the PNGs and the table disagree.
    """
    if not all(0 <= label < VOID_LABEL for label in label_of_category.values()):
        raise ValueError(f"labels must lie in 0..{VOID_LABEL - 1}: use fewer classes")
    _require_folder(panoptic_root, f"unpack the PNGs of {panoptic_json} there")
    jobs = [
        PreparationJob(
            panoptic_root / annotation["file_name"],
            output / annotation["file_name"],
            _segment_labels(annotation, label_of_category, panoptic_json),
        )
        for annotation in _read_panoptic(panoptic_json)["annotations"]
    ]
    return options.derive(_write_stuff_map, jobs, output)


def write_instances(
    panoptic_json: Path, panoptic_root: Path, output: Path, options: PreparationOptions
) -> Derived:
    """Write COCO's instances JSON, with run-length masks, unless it is there.

    Args:
        panoptic_json: COCO's panoptic JSON; its things become instances.
        panoptic_root: Folder of its PNGs.
        output: The file to write.
        options: Processes, and whether to show a bar.

    Raises:
        ValueError: If a file cannot be read, or the JSON and the PNGs disagree.
    """
    if output.is_file():
        return Derived(output, 0, 1)
    _require_folder(panoptic_root, f"unpack the PNGs of {panoptic_json} there")
    content = _read_panoptic(panoptic_json)
    categories = [one for one in content["categories"] if one["isthing"]]
    things = {one["id"] for one in categories}
    jobs = [
        PreparationJob(
            panoptic_root / annotation["file_name"],
            output,
            [one for one in annotation["segments_info"] if one["category_id"] in things],
        )
        for annotation in content["annotations"]
    ]
    found = options.run(_instances, jobs, output.name)
    annotations = [
        {"image_id": annotation["image_id"]} | instance
        for annotation, instances in zip(content["annotations"], found, strict=True)
        for instance in instances
    ]
    # The ids of segments are unique within an image only.
    numbered = [{"id": number} | one for number, one in enumerate(annotations, 1)]
    kept = {key: content[key] for key in ("info", "licenses", "images") if key in content}
    content = kept | {"annotations": numbered, "categories": categories}
    write_whole(output, json.dumps(content) + "\n")
    return Derived(output, 1, 0)


def _instances(job: PreparationJob) -> list[dict[str, Any]]:
    from pycocotools import mask as coco

    ids = rgb_to_id(_read_pixels(job.source, PANOPTIC_MODES, "ids as 8 bit colors", PANOPTIC_MODES))
    instances = []
    for segment in job.table:
        mask = np.asfortranarray(ids == segment["id"]).astype(np.uint8)
        if not mask.any():
            raise ValueError(f"{job.source} has no pixel of the segment {segment['id']}")
        runs = coco.encode(mask)
        instances.append(
            {
                "category_id": segment["category_id"],
                "iscrowd": int(segment.get("iscrowd", 0)),
                "area": int(mask.sum()),
                "bbox": coco.toBbox(runs).tolist(),
                "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
            }
        )
    return instances


def save_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write a PNG; an interruption leaves the file absent or as it was."""
    image = Image.fromarray(pixels)
    write_whole(path, lambda partial: image.save(partial, "PNG", compress_level=4))


def _write_stuff_map(job: PreparationJob) -> None:
    colors = _read_pixels(job.source, PANOPTIC_MODES, "ids as 8 bit colors", PANOPTIC_MODES)
    labels = labels_of_segments(job.source, rgb_to_id(colors), job.table, VOID_LABEL)
    save_png(job.target, labels.astype(np.uint8))


def _read_panoptic(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("annotations", "categories", "images"):
            iter(content[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no panoptic JSON in COCO's format ({type(error).__name__}: {error});"
            " replace it by a fresh copy"
        ) from error
    return content


def _segment_labels(
    annotation: Mapping[str, Any], labels: Mapping[int, int], file: Path
) -> dict[int, int]:
    result = {}
    for segment in annotation["segments_info"]:
        category = segment["category_id"]
        if category not in labels:
            raise ValueError(
                f"{file}: segment {segment['id']} of {annotation['file_name']} has the category"
                f" {category}, for which there is no label; known are {min(labels)}..{max(labels)}"
            )
        result[segment["id"]] = labels[category]
    return result


def _coco_labels() -> dict[int, int]:
    try:
        from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    except ImportError as error:
        raise RuntimeError(
            "COCO's categories come from detectron2, which is not installed; "
            "python -m freqfusion.tools.doctor says how to install it"
        ) from error
    return separated_labels(
        [Category(c["id"], c["name"], is_thing=bool(c["isthing"])) for c in COCO_CATEGORIES]
    )


def _relabel_splits(
    folder: Path,
    label_folders: Mapping[str, str],
    labels: Mapping[int, int],
    options: PreparationOptions,
) -> list[Derived]:
    """Write the new labels of every split that is there; other labels are an error."""
    splits = [split for split in label_folders if (folder / label_folders[split]).is_dir()]
    if not splits:
        raise ValueError(f"{folder} has none of the folders {', '.join(label_folders.values())}")
    table = _lookup_table(labels, default=FORBIDDEN)
    steps = []
    for split in splits:
        sources = sorted((folder / label_folders[split]).glob("*.png"))
        output = folder / "annotations_detectron2" / split
        jobs = [PreparationJob(source, output / source.name, table) for source in sources]
        steps.append(options.derive(_relabel_file, jobs, output))
    return steps


def _lookup_table(labels: Mapping[int, int], *, default: int) -> NDArray[np.int16]:
    """Return the new label of each old one from 0 to 255; ``FORBIDDEN`` makes one an error."""
    table = np.full(256, default, dtype=np.int16)
    for old, new in labels.items():
        table[old] = new
    return table


def _relabel_file(job: PreparationJob) -> None:
    labels = _read_pixels(job.source, ("L", "P"), "labels of 8 bits, grey or palette")
    found = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    wrong = found[job.table[found] == FORBIDDEN]
    if len(wrong):
        allowed = np.flatnonzero(job.table != FORBIDDEN)
        raise ValueError(
            f"{job.source} has the labels {', '.join(map(str, wrong[:8]))}, but allowed are"
            f" {allowed.min()}..{allowed.max()}"
        )
    save_png(job.target, job.table.astype(np.uint8)[labels])


def _city_files(folder: Path, suffix: str) -> list[Path]:
    files = sorted(folder.glob(f"*/*{suffix}"))
    if not files:
        raise ValueError(f"{folder} has no file <city>/*{suffix}; unpack gtFine_trainvaltest.zip")
    return files


def _write_cityscapes_panoptic(gt: Path, split: str, options: PreparationOptions) -> Derived:
    """Write ``cityscapes_panoptic_<split>/`` and ``.json`` below ``gtFine``.

    All PNGs and the JSON there: nothing is done. Otherwise the JSON is written anew, and those
    PNGs that are missing.
    """
    folder = gt / f"cityscapes_panoptic_{split}"
    index = folder.with_suffix(".json")
    jobs = [
        PreparationJob(file, folder / file.name.replace("_instanceIds", "_panoptic"))
        for file in _city_files(gt / split, _INSTANCE_IDS)
    ]
    jobs = [replace(job, table=options.wants(job.target)) for job in jobs]
    written = sum(job.table for job in jobs)
    if written or not index.is_file():
        content = panoptic_index(options.run(_write_panoptic_png, jobs, folder.name))
        write_whole(index, json.dumps(content, separators=(",", ":")) + "\n")
    return Derived(folder, written, len(jobs) - written)


def _write_panoptic_png(job: PreparationJob) -> tuple[dict[str, Any], dict[str, Any]]:
    values = _read_pixels(job.source, ("I;16", "I;16B", "I", "L", "P"), "instance ids of 16 bits")
    ids, image, annotation = panoptic_entry(values, job.source.name.removesuffix(_INSTANCE_IDS))
    if job.table:
        save_png(job.target, id_to_rgb(ids))
    return image, annotation


def _read_pixels(
    path: Path, modes: Collection[str], expected: str, to_rgb: Collection[str] = ()
) -> NDArray[Any]:
    """Return the pixels of an image of one of these modes; ValueError for any other file."""
    image = check_file(path, "its preparation", to_rgb)
    check_mode(image, modes, expected)
    return image.pixels


def _require_folder(path: Path, advice: str) -> Path:
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; {advice}")
    return path
