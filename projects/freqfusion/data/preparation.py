"""Derive the label maps that training needs and downloads lack from those that they have.

Each function ``prepare_*`` takes the folder of a data set, ``workers`` (processes; None means one a
processor), ``overwrite`` (write again what is there) and ``progress`` (show a bar), and returns
what it wrote by folder. ValueError where nothing to derive from is there, or a file is not as it
should be. A file is there completely or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.reading import UNREADABLE
from freqfusion.data.synthetic.cityscapes import panoptic_entry, panoptic_index
from freqfusion.data.workers import check_workers, run_in_order
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

STUFF_LABELS = {e.id: 0 if e.has_instances else e.train_id + 1 for e in CITYSCAPES_LABELS}
"""Label id of Cityscapes -> label of a semantic head that sees all things as class 0."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Derived:
    """What one step wrote to ``folder``, and how many files were there already."""

    folder: Path
    written: int
    present: int

    def sentence(self) -> str:
        """Return one line for the user."""
        return f"{self.folder}: {self.written} written, {self.present} there already"


@dataclass(frozen=True, slots=True)
class PreparationOptions:
    """Processes (None: one a processor), whether to write again what is there, and a bar."""

    workers: int | None = None
    overwrite: bool = False
    progress: bool = True

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], title: str
    ) -> list[Result]:
        """Call ``function`` for each job, in several processes, and return the results."""
        return run_in_order(
            function,
            jobs,
            workers=check_workers(self.workers),
            title=title,
            progress=self.progress and bool(jobs),
            unit="image",
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """A file to derive, what it is derived from, and the table for it (or whether to write it)."""

    source: Path
    target: Path
    table: Any


def prepare_ade20k(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive ``annotations_detectron2/<split>/`` from ``annotations/<split>/`` (0 void, 1..150).

    ``folder`` is ``ADEChallengeData2016``.
    """
    _require_folder(
        Path(folder) / "annotations", "unpack ADEChallengeData2016.zip so that it is there"
    )
    labels = {0: VOID_LABEL} | {n + 1: n for n in range(150)}
    options = PreparationOptions(workers, overwrite, progress)
    return _relabel_splits(Path(folder), ADE20K_LABELS, labels, options)


def prepare_camvid(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive ``annotations_detectron2/<split>/`` from ``<split>annot/`` (0..10, and 11 void).

    This is CamVid as the SegNet tutorial distributes it: images of 480x360 pixels in ``train``,
    ``val`` and ``test``.
    """
    _require_folder(Path(folder), "copy the folder CamVid of the SegNet tutorial there")
    labels = {n: n for n in range(11)} | {11: VOID_LABEL}
    options = PreparationOptions(workers, overwrite, progress)
    return _relabel_splits(Path(folder), CAMVID_LABELS, labels, options)


def prepare_cityscapes(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive, for each split under ``gtFine``, what Detectron2's registrations need.

    ``*_gtFine_labelTrainIds.png`` (0..18, 255 void), ``cityscapes_panoptic_<split>/`` with its
    JSON, and ``cityscapes_stuff_<split>/*_gtFine_stuff.png`` (0 things, 1..11 stuff, 255 void).
    The test split has no ground truth; it gets train ids only, since the loader asks for them.
    """
    options = PreparationOptions(workers, overwrite, progress)
    advice = "unpack gtFine_trainvaltest.zip"
    gt = _require_folder(Path(folder) / "gtFine", f"{advice} so that it is there")
    splits = [split for split in CITYSCAPES_SPLITS if (gt / split).is_dir()]
    if not splits:
        names = " and ".join(CITYSCAPES_SPLITS)
        raise ValueError(f"{gt} has none of the folders {names}; {advice} there")
    steps = []
    for split in splits:
        stuff = gt / f"cityscapes_stuff_{split}"
        steps += [
            _write_train_ids(gt / split, options),
            _write_cityscapes_panoptic(gt, split, options),
            _write_labels(
                sources := _city_files(gt / split, _LABEL_IDS),
                [stuff / source.name.replace("_labelIds", "_stuff") for source in sources],
                _lookup_table(STUFF_LABELS, default=VOID_LABEL),
                folder=stuff,
                options=options,
            ),
        ]
    if (gt / "test").is_dir():
        steps.append(_write_train_ids(gt / "test", options))
    return steps


def prepare_coco(
    folder: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
    """Derive ``panoptic_stuff_<split>/`` from ``panoptic_<split>/`` and its JSON.

    Labels are those of Detectron2's separated metadata: 0 any thing, 1..53 stuff, 255 void.
    """
    archive = "panoptic_annotations_trainval2017.zip"
    annotations = _require_folder(Path(folder) / "annotations", f"unpack {archive} in this folder")
    files = {split: annotations / f"panoptic_{split}.json" for split in COCO_SPLITS}
    splits = [split for split, file in files.items() if file.is_file()]
    if not splits:
        names = " and ".join(file.name for file in files.values())
        raise ValueError(f"{annotations} has none of the files {names}; unpack {archive} there")
    labels = _coco_labels()
    return [
        write_stuff_maps(
            files[split],
            Path(folder) / f"panoptic_{split}",
            Path(folder) / f"panoptic_stuff_{split}",
            labels,
            PreparationOptions(workers, overwrite, progress),
        )
        for split in splits
    ]


def prepare_declared(
    file: Path, *, workers: int | None = None, overwrite: bool = False, progress: bool = True
) -> list[Derived]:
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
    return [
        write_stuff_maps(
            Path(paths["panoptic_json"]),
            Path(paths["panoptic"]),
            Path(paths["stuff"]),
            declaration.separated_labels(),
            PreparationOptions(workers, overwrite, progress),
        )
        for paths in splits
    ]


def separated_labels(metadata: Mapping[str, Any]) -> dict[int, int]:
    """Return each category's label: 0 for things, Detectron2's contiguous ids (1..) for stuff."""
    things: Mapping[int, int] = metadata["thing_dataset_id_to_contiguous_id"]
    stuff: Mapping[int, int] = metadata["stuff_dataset_id_to_contiguous_id"]
    return dict.fromkeys(things, 0) | dict(stuff)


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
    labels = dict(label_of_category)
    wrong = sorted(label for label in labels.values() if not 0 <= label < VOID_LABEL)
    if wrong:
        raise ValueError(f"labels must lie in 0..{VOID_LABEL - 1}, but there is {wrong[0]}")
    _require_folder(Path(panoptic_root), f"unpack the PNGs of {panoptic_json} there")
    annotations = _read_annotations(Path(panoptic_json))
    jobs = []
    for annotation in annotations:
        source, target = (Path(root) / annotation["file_name"] for root in (panoptic_root, output))
        if options.overwrite or not target.is_file():
            jobs.append(_Job(source, target, _segment_labels(annotation, labels, panoptic_json)))
    options.run(_write_stuff_map, jobs, Path(output).name)
    return Derived(Path(output), len(jobs), len(annotations) - len(jobs))


def stuff_map(ids: NDArray[np.integer[Any]], labels: Mapping[int, int]) -> NDArray[np.uint8]:
    """Return each pixel's label by the id of its segment; 0 is void, an unknown id a ValueError."""
    known = {0: VOID_LABEL} | dict(labels)
    order = sorted(known)
    position = np.minimum(np.searchsorted(order, ids), len(order) - 1)
    unknown = ids[np.array(order)[position] != ids]
    if unknown.size:
        raise ValueError(
            f"has the id {unknown[0]}, which is not among the segments of its annotation"
        )
    return np.array([known[key] for key in order], dtype=np.uint8)[position]


def save_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write a PNG; an interruption leaves the file absent or as it was."""
    image = Image.fromarray(pixels)
    write_whole(path, lambda partial: image.save(partial, "PNG", compress_level=4))


def save_json(path: Path, content: Any) -> None:
    """Write JSON on one line; an interruption leaves the file absent or as it was."""
    write_whole(path, json.dumps(content, separators=(",", ":")) + "\n")


def _write_stuff_map(job: _Job) -> None:
    ids = rgb_to_id(_read_pixels(job.source, ("RGB", "RGBA", "P"), "ids as 8 bit colors", "RGB"))
    try:
        save_png(job.target, stuff_map(ids, job.table))
    except ValueError as error:
        raise ValueError(
            f"{job.source} {error}; freqfusion.tools.check_dataset lists all such files"
        ) from error


def _read_annotations(path: Path) -> Sequence[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        annotations: Sequence[dict[str, Any]] = content["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no panoptic JSON in COCO's format ({type(error).__name__}: {error});"
            " replace it by a fresh copy"
        ) from error
    return annotations


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
        from detectron2.data import MetadataCatalog
    except ImportError as error:
        raise RuntimeError(
            "COCO's categories come from detectron2, which is not installed; "
            "python -m freqfusion.tools.doctor says how to install it"
        ) from error
    return separated_labels(MetadataCatalog.get("coco_2017_train_panoptic_separated").as_dict())


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
        targets = [output / source.name for source in sources]
        steps.append(_write_labels(sources, targets, table, folder=output, options=options))
    return steps


def _lookup_table(labels: Mapping[int, int], *, default: int) -> NDArray[np.int16]:
    """Return the new label of each old one from 0 to 255; ``FORBIDDEN`` makes one an error."""
    table = np.full(256, default, dtype=np.int16)
    for old, new in labels.items():
        table[old] = new
    return table


def _write_labels(
    sources: Sequence[Path],
    targets: Sequence[Path],
    table: NDArray[np.int16],
    *,
    folder: Path,
    options: PreparationOptions,
) -> Derived:
    """Write each target that is not there from the source at the same position."""
    jobs = [
        _Job(source, target, table)
        for source, target in zip(sources, targets, strict=True)
        if options.overwrite or not target.is_file()
    ]
    options.run(_relabel_file, jobs, folder.name)
    return Derived(folder, len(jobs), len(targets) - len(jobs))


def _relabel_file(job: _Job) -> None:
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


def _write_train_ids(folder: Path, options: PreparationOptions) -> Derived:
    sources = _city_files(folder, _LABEL_IDS)
    return _write_labels(
        sources,
        [file.with_name(file.name.replace("_labelIds", "_labelTrainIds")) for file in sources],
        _lookup_table({e.id: e.train_id for e in CITYSCAPES_LABELS}, default=VOID_LABEL),
        folder=folder / "*" / "*_labelTrainIds.png",
        options=options,
    )


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
    jobs = []
    for source in _city_files(gt / split, _INSTANCE_IDS):
        target = folder / source.name.replace("_instanceIds", "_panoptic")
        jobs.append(_Job(source, target, options.overwrite or not target.is_file()))
    written = sum(job.table for job in jobs)
    if written or not index.is_file():
        save_json(index, panoptic_index(options.run(_write_panoptic_png, jobs, folder.name)))
    return Derived(folder, written, len(jobs) - written)


def _write_panoptic_png(job: _Job) -> tuple[dict[str, Any], dict[str, Any]]:
    values = _read_pixels(job.source, ("I;16", "I;16B", "I", "L", "P"), "instance ids of 16 bits")
    ids, image, annotation = panoptic_entry(values, job.source.name.removesuffix(_INSTANCE_IDS))
    if job.table:
        save_png(job.target, id_to_rgb(ids))
    return image, annotation


def _read_pixels(
    path: Path, modes: Sequence[str], expected: str, convert: str | None = None
) -> NDArray[Any]:
    """Return the pixels of an image of one of these modes; ValueError for any other file."""
    try:
        with Image.open(path) as image:
            mode = image.mode
            pixels = np.asarray(image.convert(convert) if convert and mode in modes else image)
    except UNREADABLE as error:
        raise ValueError(f"cannot read {path}: {error}; replace it by a fresh copy") from error
    if mode not in modes or pixels.min(initial=0) < 0:
        raise ValueError(
            f"{path} is an image of mode {mode}, but expected are {expected}; is it the file of the"
            " download?"
        )
    return pixels


def _require_folder(path: Path, advice: str) -> Path:
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; {advice}")
    return path
