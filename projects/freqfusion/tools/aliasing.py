"""How much a model aliases: ``python -m freqfusion.tools.aliasing --config-file X ...``.

For each step of the backbone from stride 4 on that makes a map smaller, the share of the map's
power above the Nyquist frequency of the step: as the map comes, resampled by the model's Spatial
Frequency Modulation, and resampled by the same attention at wrong places (the control). Also how
far the attention follows the edges of the labels, where a data set has labels. Models without
modulation are measured at the same places. Writes ``aliasing.json`` and figures.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqfusion.analysis import Spectrum, spectra_figure
from freqfusion.analysis.aliasing import Version, attention_edge_correlation, measure_stage
from freqfusion.analysis.running import RunningMean
from freqfusion.data.workers import progress
from freqfusion.drawing import Picture
from freqfusion.layers.sfm import warp_edge_target
from freqfusion.predictor import Predictor, check_weights, read_config
from freqfusion.tools._aliasing import (
    DownsamplingStep,
    RecordedPass,
    find_downsampling,
    modulation_figure,
    record_downsampling,
)
from freqfusion.tools._arguments import (
    add_image_options,
    model_parser,
    number_from,
    parse,
    text_table,
    write_json,
)
from freqfusion.tools._images import ImageSource, from_dataset, from_files, read_image

logger = logging.getLogger(__name__)

# Scalars of a stage, and the heads of their columns.
QUANTITIES = {
    "plain": "plain",
    "modulated": "modulated",
    "control": "control",
    "modulated_over_plain": "mod / plain",
    "modulated_over_control": "mod / control",
    "attention_edge_correlation": "attention-edges",
}
_LABELS: dict[Version, str] = {
    "plain": "plain",
    "modulated": "modulated",
    "control": "control: same operator, unrelated places",
}
_DPI = 130
_MOST_BINS = 64
_STILL = 1e-4


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    try:
        if options.output.exists() and not options.output.is_dir():
            raise ValueError(f"--output {options.output} is a file; name a folder")
        meter = run(options)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"aliasing: {error}", file=sys.stderr)
        return 2
    notes = (textwrap.fill(note, 100) for note in aliasing_notes(meter))
    print(*text_table(aliasing_rows(meter), words=2), *notes, sep="\n")
    print(f"images: {meter.images}; numbers and figures: {options.output}")
    return 0


def run(options: argparse.Namespace) -> AliasingMeter:
    """Measure the images, and write numbers and figures."""
    cfg = read_config(
        options.config_file, options.weights, options.opts, unsafe=options.allow_unsafe_config
    )
    check_weights(cfg.MODEL.WEIGHTS)
    if options.dataset:
        sources, _ = from_dataset(options.dataset, options.limit)
    else:
        sources = from_files(options.input, options.limit)
    meter = AliasingMeter(cfg, Predictor(cfg))
    options.output.mkdir(parents=True, exist_ok=True)
    for source in progress(sources, "measuring", "image"):
        try:
            picture, seen = meter(source)
        except ValueError as error:
            logger.warning("skipped: %s", error)
            continue
        for kind in ("attention", "lattice"):
            if seen.own and meter.images <= options.figures:
                name = f"{meter.images:03d}_{source.path.stem}_{kind}.png"
                modulation_figure(kind, picture, seen).savefig(options.output / name, dpi=_DPI)
    if not meter.images:
        raise ValueError(f"none of the {len(sources)} images could be used, see above")
    stage_spectra(meter).savefig(options.output / "spectra.png", dpi=_DPI)
    names = ("config_file", "weights", "dataset", "input", "limit", "opts")
    settings = {name: getattr(options, name) for name in names}
    stages = [_stage_summary(stage) for stage in meter.stages.values()]
    content = {"settings": settings, "images": meter.images, "stages": stages}
    write_json(options.output / "aliasing.json", content)
    return meter


def _parser() -> argparse.ArgumentParser:
    parser = model_parser(
        "aliasing", "Measure how much the downsampling steps of a model alias, and draw it."
    )
    add = parser.add_argument
    add_image_options(parser)
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--limit", type=number_from(1), metavar="N", help="measure the first N images only")
    add("--figures", type=number_from(0), default=3, metavar="N", help="draw the first N images; 3")
    return parser


@dataclass
class StageResult:
    """What has been measured at one step so far.

    Attributes:
        step: Where.
        values: Means over the images, by ``QUANTITIES``; nan for what there is not.
        spectra: Means of the spectra over ``frequencies``, by version.
        sizes: Height and width of the maps.
        furthest: Greatest displacement of a sample, in pixels of the map.
    """

    step: DownsamplingStep
    values: dict[str, RunningMean] = field(
        default_factory=lambda: {name: RunningMean() for name in QUANTITIES}
    )
    spectra: dict[Version, RunningMean] = field(default_factory=dict)
    frequencies: Tensor = field(default_factory=lambda: torch.zeros(0))
    sizes: set[tuple[int, int]] = field(default_factory=set)
    furthest: float = 0.0

    @property
    def f_nyquist(self) -> float:
        """Return the highest frequency that the step keeps."""
        return float(1 / (2 * self.step.point.geometry.stride))


class AliasingMeter:
    """Runs a model on one image at a time and measures each of its downsampling steps.

    Args:
        cfg: ``INPUT`` says how images are read and which targets the attention learns from.
        predictor: Of the model.
    """

    def __init__(self, cfg: Any, predictor: Predictor) -> None:
        self.predictor = predictor
        self.places = find_downsampling(predictor.model, cfg.MODEL.SFM.POINTS)
        self.ignore_value: int = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        self.images = 0
        self.stages = {step.point.feature: StageResult(step) for step in self.places.steps}
        self._mapper = _mapper(cfg) if self.places.modulated is not None else None

    @property
    def is_still(self) -> bool:
        """Return whether the model has attention that has moved no sample of any image."""
        moved = [stage.furthest for stage in self.stages.values()]
        return self.places.modulated is not None and max(moved) < _STILL

    @torch.no_grad()
    def __call__(self, source: ImageSource) -> tuple[Picture, RecordedPass]:
        """Measure one image; return it, and what the model did.

        Raises:
            ValueError: if it or its ground truth cannot be read.
        """
        picture = read_image(source.path)
        gt = self._ground_truth(source)
        with record_downsampling(self.predictor.model, self.places) as seen:
            self.predictor(picture)
        if gt is not None and gt["image"].shape[-2:] != seen.size:
            raise ValueError(f"{source.path} has another size than its data set says")
        edges = edges_of(gt, seen.covered, self.ignore_value) if gt is not None else None
        for name, stage in self.stages.items():
            self._measure(name, stage, seen)
            if edges is not None and name in seen.own:
                self._correlate(name, stage, seen, edges)
        self.images += 1
        return picture, seen

    def _ground_truth(self, source: ImageSource) -> dict[str, Any] | None:
        """Return the image with its targets, resized alike; None where they are not needed."""
        if self._mapper is None or source.gt is None:
            return None
        try:
            return self._mapper(dict(source.gt))
        except (OSError, KeyError) as error:
            raise ValueError(f"{source.path}: its ground truth cannot be read: {error}") from error

    def _measure(self, name: str, stage: StageResult, seen: RecordedPass) -> None:
        maps, stride = seen.maps[name], stage.step.point.stride
        rows, columns = (-(-side // stride) for side in seen.size)
        valid = min(rows, maps.shape[-2]), min(columns, maps.shape[-1])
        own = seen.own.get(name)
        found = measure_stage(
            maps,
            own[1] if own else None,
            f_nyquist=stage.f_nyquist,
            bins=len(stage.frequencies) or _bins(valid, stage.step.point.geometry.stride),
            valid=valid,
        )
        stage.frequencies = found.frequencies.cpu()
        stage.sizes.add(valid)
        ratios = {version: ratio.item() for version, ratio in found.ratios.items()}
        for version, power in found.spectra.items():
            stage.spectra.setdefault(version, RunningMean()).update(power[0])
            stage.values[version].update(ratios[version])
        for other in ("plain", "control"):
            if "modulated" in ratios and ratios[other] > 0:
                stage.values[f"modulated_over_{other}"].update(ratios["modulated"] / ratios[other])
        if own:
            stage.furthest = max(stage.furthest, own[0].displacement.abs().max().item())

    def _correlate(
        self, name: str, stage: StageResult, seen: RecordedPass, gt: tuple[Tensor, Tensor]
    ) -> None:
        logits = seen.own[name][1].logits
        size, before = (logits.shape[-2], logits.shape[-1]), seen.stacks[name]
        edges, ignored = (warp_edge_target(one.to(logits.device), size, before) for one in gt)
        found = attention_edge_correlation(logits, edges, ignored < 0.5)
        stage.values["attention_edge_correlation"].update(found.item())


def edges_of(
    gt: Mapping[str, Any], size: tuple[int, int], ignore_value: int
) -> tuple[Tensor, Tensor] | None:
    """Return label edges and ignored pixels, (1, 1, height, width) each; None without labels.

    Edges are those that supervise the attention. ``size`` is that of the padded image.
    """
    from freqfusion.modeling.sfm.segmentor import ignored_pixels, label_edges, label_maps

    if not any(True for _ in label_maps(gt, ignore_value)):
        return None
    device = torch.device("cpu")
    edges = label_edges([gt], size, device, ignore_value=ignore_value)
    return edges, ignored_pixels([gt], size, device, ignore_value=ignore_value)


def _mapper(cfg: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the mapper of the training's targets, with images resized as for testing."""
    from freqfusion.data.mapper import SegmentationMapper, build_augmentations

    # Boxes have no edges of things.
    targets = [name for name in cfg.INPUT.TARGETS if name != "instances" or cfg.MODEL.MASK_ON]
    mapper: Callable[[dict[str, Any]], dict[str, Any]] = SegmentationMapper(
        True,
        augmentations=build_augmentations(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
        targets=targets,
        use_masks=cfg.MODEL.MASK_ON,
        mask_format=cfg.INPUT.MASK_FORMAT,
    )
    return mapper


def _bins(size: tuple[int, int], stride: int) -> int:
    """Return how many rings a map fills, the border of two of them at the Nyquist frequency."""
    most = min(max(min(size) // 2, 1), _MOST_BINS)
    return max(most // stride * stride, stride)


def aliasing_rows(meter: AliasingMeter) -> list[list[str]]:
    """Return a head, and a row for each stage: mean and standard deviation over the images."""
    shown = [name for name in QUANTITIES if _has(meter, name)]
    rows = [["stage", "size", *(QUANTITIES[name] for name in shown)]]
    for stage in meter.stages.values():
        ordered = sorted(stage.sizes, key=lambda size: (size[0] * size[1], size))
        sizes = (f"{height}x{width}" for height, width in dict.fromkeys((ordered[0], ordered[-1])))
        cells = [_cell(stage.values[name]) for name in shown]
        rows.append([stage.step.title, " to ".join(sizes), *cells])
    return rows


def aliasing_notes(meter: AliasingMeter) -> list[str]:
    """Return what the numbers of the table mean, in sentences."""
    spread = " (mean ± standard deviation over the images)" if meter.images > 1 else ""
    lines = [
        "Share of the power in frequencies above 1 / (2 stride) in the map that enters the"
        f" downsampling, each channel's mean left out{spread}."
    ]
    if meter.places.modulated is None:
        return [*lines, "The model does not modulate its maps: there is nothing else to compare."]
    lines.append(
        "control: resampled by the same attention at wrong places (mean of 4 rolls). It shows what"
        " resampling, which is a low-pass filter, does by itself; all maps are resampled"
        " bicubically, which filters less than the model's bilinear interpolation."
    )
    if _has(meter, "attention_edge_correlation"):
        lines.append(
            "attention-edges: Pearson correlation of the attention with the edges of the labels."
        )
    if meter.is_still:
        lines.append(
            "The attention is even and moves no sample: it is untrained, or"
            " MODEL.SFM.STRENGTH is 0."
        )
    return lines


def _stage_summary(stage: StageResult) -> dict[str, Any]:
    """Return all numbers of a stage, for ``aliasing.json``; None for what there is not."""
    point = stage.step.point
    values = {
        name: {"mean": one.mean.item(), "deviation": one.deviation.item(), "images": int(one.count)}
        if one.count
        else None
        for name, one in stage.values.items()
    }
    power = {version: mean.mean.tolist() for version, mean in stage.spectra.items()}
    return {
        "feature": point.feature,
        "becomes": stage.step.becomes,
        "module": point.path,
        "is_modulated": "modulated" in stage.spectra,
        "stride": point.geometry.stride,
        "sizes": sorted(stage.sizes),
        "f_nyquist": stage.f_nyquist,
        "largest_displacement": stage.furthest if "modulated" in stage.spectra else None,
        **values,
        "spectrum": {"frequencies": stage.frequencies.tolist(), **power},
    }


def _has(meter: AliasingMeter, name: str) -> bool:
    return any(bool(stage.values[name].count) for stage in meter.stages.values())


def _cell(mean: RunningMean) -> str:
    if not mean.count:
        return "-"
    spread = mean.deviation.item()
    return f"{mean.mean.item():.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


def stage_spectra(meter: AliasingMeter) -> Any:
    """Draw the mean spectra of all stages, with the highest frequency that each step keeps."""
    panels, limits = {}, {}
    for stage in meter.stages.values():
        shares = [f"{stage.values[version].mean.item():.1%}" for version in stage.spectra][:2]
        title = f"{stage.step.title}: {' → '.join(shares)} folded"
        limits[title] = stage.f_nyquist
        panels[title] = {
            _LABELS[version]: Spectrum(stage.frequencies, mean.mean)
            for version, mean in stage.spectra.items()
        }
    return spectra_figure(panels, limits=limits)


if __name__ == "__main__":
    sys.exit(main())
