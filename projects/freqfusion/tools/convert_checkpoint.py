"""Bring weights from elsewhere here: ``python -m freqfusion.tools.convert_checkpoint IN OUT.pth``.

Known are Mask2Former's published checkpoints and those of its FreqFusion fork, detectors that the
research code trained in mmdetection (backbone and neck), ResNets of torchvision and timm, Swins of
their original release and timm, and InternImages, alone or in a segmentor.
``--to mask2former`` leads back to Mask2Former's names. Every name must have a rule; the tool prints
what was mapped and dropped, and the configuration keys that the weights tell. ``--keep-names``
brings weights from one format into another. ``IN --list`` shows names and shapes.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqfusion.files import (
    AUTHOR,
    HEURISTICS,
    INSTALL,
    VERSIONS,
    module_versions,
    read_checkpoint,
    read_for_detectron2,
    with_versions,
    write_whole,
)
from freqfusion.tools._convert import internimage, mask2former, swin
from freqfusion.tools._convert.fusion import neck_settings
from freqfusion.tools._convert.model_check import can_check, check_against_model, check_backbone
from freqfusion.tools._convert.resnet import (
    BACKBONE,
    NECK,
    PREFIX,
    convert_detector,
    convert_resnet,
)
from freqfusion.tools._convert.rules import RGB_INPUT, Conversion, Settings, State, shorten

SOURCES = ("auto", "mask2former", "mmdet", "torchvision", "timm", "swin", "internimage")
_CLASSIFIERS = ("torchvision", "timm", "swin", "internimage")
TARGETS = ("freqfusion", "mask2former")
WRITER = "freqfusion.convert_checkpoint"
# Where Detectron2 keeps weights, and Swin's original release; what those have that are taken from
# there: a Mask2Former, a Swin and an InternImage.
_SUFFIXES = (".pth", ".safetensors")
_INSIDE, _KNOWN = "model", ("sem_seg_head.", "patch_embed.")
_NOTES = {
    "mmdet": "a backbone of style 'caffe' needs MODEL.RESNETS.STRIDE_IN_1X1 True and its own input",
    "mask2former": "weights do not tell what MODEL.MASK2FORMER.TEST switches on, nor PRE_NORM and "
    "ENCODER_POINTS, which are taken for those of the published models",
    "swin": "the norms of the stages, which no classifier has, begin as new ones do",
    "internimage": "weights do not tell MODEL.INTERNIMAGE.OFFSET_SCALE, which is above 1 for the "
    "sizes L and XL",
    "freqfusion": "fusion modules, if any, are written without Hamming windows, the only ones that "
    "Mask2Former's fork knows: right for MODEL.FREQFUSION.HAMMING_WINDOW False",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one file; returns the exit code: 0, or 2 for what the user can mend."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is None and not options.list:
        parser.error("the following arguments are required: OUTPUT")
    try:
        if options.list:
            print(*_listed(read_checkpoint(options.input, mmap=True)), sep="\n")
            return 0
        _check_output(options.output, source=options.input, overwrite=options.overwrite)
        if options.keep_names:
            print(_rewrite(options))
            return 0
        state = read(options.input)
        source = _source(state, options)
        result = _convert(state, source, options)
        settings = _settings(state, source, result, options)
        ours = state if source == "freqfusion" else result.state
        checked = _check(ours, source, settings, options)
        versions = mask2former.VERSIONS if options.target == "mask2former" else None
        _write(options.output, result.state, versions=versions)
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 2
    print(f"{options.input}: names of {source}")
    print(report(result))
    if source != "freqfusion":
        print(f"set: {_format(settings)}")
    for line in (checked, _NOTES.get(source)):
        if line:
            print(line)
    print(f"weights: {options.output}")
    return 0


def _listed(content: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for each tensor of a checkpoint, those in dicts with the names of these."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _listed(value, f"{prefix}{name}: ")
        elif isinstance(value, Tensor):
            shape = " x ".join(map(str, value.shape)) or "1"
            yield f"{prefix}{name}  {shape}  {str(value.dtype).removeprefix('torch.')}"


def _rewrite(options: argparse.Namespace) -> str:
    """Write the weights in the format of the output's name; what was done."""
    others = (options.source, options.target) != ("auto", TARGETS[0]) or options.prefix is not None
    if others or options.neck_and_backbone_only:
        raise ValueError("--keep-names changes nothing but the format; leave the others out")
    content = read_for_detectron2(options.input)
    weights = content["model"]
    _write(
        options.output,
        weights,
        versions=module_versions(weights),
        author=str(content.get(AUTHOR) or WRITER),
        heuristics=bool(content.get(HEURISTICS)),
    )
    return f"{options.input}: {len(weights)} weights, names kept\nweights: {options.output}"


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, see ``freqfusion.files.read_checkpoint``.

    It may be bare, under ``"state_dict"``, or, for a Mask2Former, a Swin and an InternImage, under
    ``"model"``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything else, or objects that only running code could rebuild.
    """
    return _tensors(_state_dict(read_checkpoint(path)), path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds a {type(value).__name__} under {name!r}; a state dict, bare or "
                'under "state_dict", has tensors only'
            )
    return dict(content)


def _state_dict(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    if isinstance(content.get("state_dict"), dict):
        return content["state_dict"]
    inside = content.get(_INSIDE)
    if isinstance(inside, dict) and any(str(name).startswith(_KNOWN) for name in inside):
        return inside
    return content


def _check_output(path: Path, *, source: Path, overwrite: bool) -> None:
    """Refuse a place where the result must not be written.

    Raises:
        ValueError: if the name does not end in ``.pth`` or ``.safetensors``, or is the input's.
        FileExistsError: if something is there and may not be replaced.
    """
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"the output must be named *.pth, as Detectron2 expects, or *.safetensors; got {path}"
        )
    if path.resolve() == source.resolve():
        raise ValueError(f"the output {path} is the input")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} exists; give --overwrite to replace a file")


def _write(
    path: Path,
    state: State,
    *,
    versions: Mapping[str, int] | None = None,
    author: str = WRITER,
    heuristics: bool = False,
) -> None:
    """Save for a checkpointer, in the format of the name; an interruption leaves no half file.

    Args:
        path: The file.
        state: The weights.
        versions: Of modules, by their names; a module may treat weights without one as old.
        author: Whose names the weights have.
        heuristics: Whether Detectron2 is to guess which of its names are meant.
    """

    def save(partial: Path) -> None:
        if path.suffix == ".safetensors":
            write_safetensors(
                partial, state, author=author, versions=versions, heuristics=heuristics
            )
        else:
            weights = with_versions(state, versions or {})
            torch.save({"model": weights, AUTHOR: author, HEURISTICS: heuristics}, partial)

    write_whole(path, save)


def write_safetensors(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    *,
    author: str,
    versions: Mapping[str, int] | None = None,
    heuristics: bool = False,
) -> None:
    """Write weights; tensors that share memory are written one by one.

    Args:
        path: The file.
        weights: By their names.
        author: Who wrote it.
        versions: Of modules, by their names; a module may treat weights without one as old.
        heuristics: Whether Detectron2 is to guess which of its names are meant.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ValueError(f"{path} needs the package safetensors: {INSTALL}") from error
    notes = {"format": "pt", "author": author, HEURISTICS: str(heuristics)}
    if versions:
        notes[VERSIONS] = json.dumps(dict(versions))
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    save_file(own, path, metadata=notes)


def detect(state: State) -> str:
    """Where names are from.

    Raises:
        ValueError: if they are from nowhere known.
    """
    if any(name.startswith(mask2former.PREDICTOR) for name in state):
        return "mask2former"
    if internimage.is_internimage(state):
        return "internimage"
    if any(name.startswith((BACKBONE, NECK)) for name in state):
        return "mmdet"
    if "layer1.0.conv1.weight" in state:
        return "torchvision"
    if swin.is_swin(state, ""):
        return "swin"
    raise ValueError(
        f"the names are neither those of an mmdetection detector nor of a Mask2Former, nor of a "
        f"torchvision or timm ResNet, nor of a Swin or an InternImage: {shorten(list(state))}"
    )


def report(result: Conversion) -> str:
    """Counts of what was mapped, by rule, and names of what was dropped."""
    lines = [f"mapped {len(names)}: {label}" for label, names in result.mapped.items()]
    for label, names in result.dropped.items():
        lines.append(f"dropped {len(names)}: {label} ({shorten(names)})")
    return "\n".join(lines)


def _source(state: State, options: argparse.Namespace) -> str:
    if options.target == "freqfusion":
        source: str = detect(state) if options.source == "auto" else options.source
    else:
        if options.source != "auto":
            raise ValueError("--from is for checkpoints from elsewhere; --to takes one from here")
        source = "freqfusion"
    if options.prefix is not None and source not in _CLASSIFIERS:
        raise ValueError(
            f"--prefix is for {', '.join(_CLASSIFIERS)}; a whole model has its own names"
        )
    if options.neck_and_backbone_only and source != "mmdet":
        raise ValueError("--neck-and-backbone-only is for the detectors of mmdetection")
    return source


def _convert(state: State, source: str, options: argparse.Namespace) -> Conversion:
    if source == "mask2former":
        result = mask2former.convert_published(state)
    elif source == "freqfusion":
        result = mask2former.publish(state)
    elif source == "mmdet":
        result = convert_detector(state, leave_out_heads=options.neck_and_backbone_only)
    elif source == "swin":
        result = swin.convert_classifier(state, prefix=_prefix(options, swin.PREFIX))
    elif source == "internimage":
        prefix = _prefix(options, internimage.PREFIX)
        result = internimage.convert_internimage(state, prefix=prefix)
    else:
        result = convert_resnet(state, prefix=_prefix(options, PREFIX))
    if not result.state:
        raise ValueError(f"{options.input} has no weights that are used here")
    return result


def _prefix(options: argparse.Namespace, default: str) -> str:
    prefix = default if options.prefix is None else options.prefix
    return f"{prefix.rstrip('.')}." if prefix else ""


def _settings(
    state: State, source: str, result: Conversion, options: argparse.Namespace
) -> Settings:
    if source == "freqfusion":
        return mask2former.mask2former_settings(state, [])
    if source == "mask2former":
        return mask2former.mask2former_settings(result.state, mask2former.windows(state))
    if source == "swin":
        return swin.swin_settings(result.state, _prefix(options, swin.PREFIX))
    if source == "internimage":
        prefix = _prefix(options, internimage.PREFIX)
        return internimage.internimage_settings(result.state, prefix)
    if source == "mmdet" and any(name.startswith(NECK) for name in state):
        return neck_settings(state, source=NECK) | RGB_INPUT
    return RGB_INPUT


def _check(ours: State, source: str, settings: Settings, options: argparse.Namespace) -> str:
    if source in ("mmdet", "torchvision", "timm"):
        return ""
    if not can_check():
        return "not held against the model, since detectron2 is not installed"
    if source == "swin":
        check_backbone(ours, settings, prefix=_prefix(options, swin.PREFIX), new=swin.NEW)
    elif source == "internimage":
        check_backbone(ours, settings, prefix=_prefix(options, internimage.PREFIX))
    else:
        check_against_model(ours, settings)
    return f"all {len(ours)} names and shapes are those of the model"


def _format(settings: Settings) -> str:
    return " ".join(f'{name} "{value}"' for name, value in settings.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.convert_checkpoint",
        description="Rename the weights of a checkpoint for Detectron2 and this project.",
    )
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="file of torch.save, *.pkl or *.safetensors")
    add(
        "output",
        type=Path,
        nargs="?",
        metavar="OUTPUT",
        help="file to write, *.pth or *.safetensors",
    )
    add("--list", action="store_true", help="show names, shapes and types of INPUT, write nothing")
    add("--from", dest="source", choices=SOURCES, default="auto", help="where it comes from")
    add("--to", dest="target", choices=TARGETS, default=TARGETS[0], help="whose names it gets")
    prefixes = f"{PREFIX} for a ResNet, {swin.PREFIX} for other backbones"
    add("--prefix", metavar="NAME", help=f"of a backbone's new names; not given: {prefixes}")
    add(
        "--neck-and-backbone-only",
        action="store_true",
        help="leave the heads of an mmdetection detector out instead of refusing it",
    )
    add(
        "--keep-names",
        action="store_true",
        help="change the format only, for instance to *.safetensors",
    )
    add("--overwrite", action="store_true", help="replace the output if it is there already")
    return parser


if __name__ == "__main__":
    sys.exit(main())
