"""Bring weights from elsewhere here: ``python -m freqfusion.tools.convert_checkpoint IN OUT.pth``.

Known are Mask2Former's published checkpoints and those of its FreqFusion fork, detectors that the
research code trained in mmdetection (backbone and neck), ResNets of torchvision and timm, Swins of
their original release and timm, InternImages, alone or in a segmentor, and SegNeXts, with and
without FreqFusion, or their MSCAN alone.
``--to mask2former`` leads back to Mask2Former's names. Every name must have a rule, or be in the
model; the tool prints what was mapped and dropped, and the configuration keys that the weights
tell. ``--keep-names`` brings weights from one format into another. ``IN --list`` shows names and
shapes.
"""

import argparse
import importlib.util
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
from freqfusion.messages import shorten
from freqfusion.tools import _convert_mask2former as mask2former
from freqfusion.tools import _convert_names as names
from freqfusion.tools import _convert_segnext as segnext
from freqfusion.tools import _convert_settings as settings
from freqfusion.tools._arguments import parse
from freqfusion.tools._convert_names import BACKBONE, BOTTOM_UP, Conversion, State

_CLASSIFIERS = ("torchvision", "swin", "internimage", "segnext")
TARGETS = ("freqfusion", "mask2former")
WRITER = "freqfusion.convert_checkpoint"
# Whose files have their weights under "model", as Detectron2's have: a Mask2Former, a Swin and an
# InternImage.
_UNDER_MODEL = ("sem_seg_head.", "patch_embed.")
_NOTES = {
    "mmdet": "a backbone of style 'caffe' needs MODEL.RESNETS.STRIDE_IN_1X1 True and its own input",
    "mask2former": "weights do not tell what MODEL.MASK2FORMER.TEST switches on, nor PRE_NORM and "
    "ENCODER_POINTS, which are taken for those of the published models",
    "swin": "the norms of the stages, which no classifier has, begin as new ones do",
    "internimage": "weights do not tell MODEL.INTERNIMAGE.OFFSET_SCALE, which is set to that of "
    "the published model of this size, and to 1 where there is none; with another one they load, "
    "and give other numbers",
    "segnext": "weights do not tell MODEL.LIGHT_HAM.RANK, which is 16 for the sizes T and S and 64 "
    "for B and L",
    "freqfusion": "fusion modules, if any, are written without Hamming windows, the only ones that "
    "Mask2Former's fork knows: right for MODEL.FREQFUSION.HAMMING_WINDOW False",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one file; returns the exit code: 0, or 2 for what the user can fix."""
    parser = _parser()
    options = parse(parser, arguments)
    if options.output is None and not options.list:
        parser.error("the following arguments are required: OUTPUT")
    try:
        if options.list:
            lines = list(_listed(read_checkpoint(options.input, mmap=True)))
        elif options.keep_names:
            lines = _rewrite(options)
        else:
            lines = _convert_file(options)
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 2
    print(*lines, sep="\n")
    return 0


def _listed(content: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for each tensor of a checkpoint, those in dicts with the names of these."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _listed(value, f"{prefix}{name}: ")
        elif isinstance(value, Tensor):
            shape = " x ".join(map(str, value.shape)) or "1"
            yield f"{prefix}{name}  {shape}  {str(value.dtype).removeprefix('torch.')}"


def _rewrite(options: argparse.Namespace) -> list[str]:
    """Write the weights in the format of the output's name; returns what was done."""
    _check_output(options)
    if options.target != TARGETS[0] or options.prefix is not None:
        raise ValueError("--keep-names changes nothing but the format; leave the others out")
    content = read_for_detectron2(options.input)
    weights = content["model"]
    write_weights(
        options.output,
        weights,
        author=str(content.get(AUTHOR) or WRITER),
        versions=module_versions(weights),
        heuristics=bool(content.get(HEURISTICS)),
    )
    return [f"{options.input}: {len(weights)} weights, names kept", f"weights: {options.output}"]


def _convert_file(options: argparse.Namespace) -> list[str]:
    """Convert and write; returns what was done."""
    _check_output(options)
    state = read(options.input)
    source = _source(state, options)
    result, keys, backbone = _convert(state, source, options)
    if not result.state:
        raise ValueError(f"{options.input} has no weights that are used here")
    ours = state if source == "freqfusion" else result.state
    checked = ""
    if source not in ("mmdet", "torchvision"):
        checked = _check(ours, keys, backbone)
    versions = mask2former.VERSIONS if options.target == "mask2former" else None
    write_weights(options.output, result.state, author=WRITER, versions=versions)

    lines = [f"{options.input}: names of {source}"]
    lines += [f"mapped {len(old)}: {label}" for label, old in result.mapped.items()]
    for label, old in result.dropped.items():
        lines.append(f"dropped {len(old)}: {label} ({shorten(old)})")
    if source != "freqfusion":
        lines.append("set: " + " ".join(f'{key} "{value}"' for key, value in keys.items()))
    return [*lines, *filter(None, (checked, _NOTES.get(source))), f"weights: {options.output}"]


def _check_output(options: argparse.Namespace) -> None:
    path = options.output
    if path.suffix not in (".pth", ".safetensors"):
        raise ValueError(
            f"the output must be named *.pth, as Detectron2 expects, or *.safetensors; got {path}"
        )
    if path.resolve() == options.input.resolve():
        raise ValueError(f"the output {path} is the input")
    if path.is_dir() or (path.exists() and not options.overwrite):
        raise FileExistsError(f"{path} exists; give --overwrite to replace a file")


def read(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, see ``freqfusion.files.read_checkpoint``.

    It may be bare, under ``"state_dict"``, or, for a Mask2Former, a Swin and an InternImage, under
    ``"model"``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything else, or objects that only running code could rebuild.
    """
    content = read_checkpoint(path)
    if isinstance(content, dict):
        inside = content.get("model")
        if isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        elif isinstance(inside, dict) and any(str(n).startswith(_UNDER_MODEL) for n in inside):
            content = inside
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds a {type(value).__name__} under {name!r}; a state dict, bare or "
                'under "state_dict", has tensors only'
            )
    return dict(content)


def _source(state: State, options: argparse.Namespace) -> str:
    source = names.detect(state) if options.target == "freqfusion" else "freqfusion"
    if options.prefix is not None and source not in _CLASSIFIERS:
        known = ", ".join(_CLASSIFIERS)
        raise ValueError(f"--prefix is for {known}; a whole model has its own names")
    return source


def _convert(
    state: State, source: str, options: argparse.Namespace
) -> tuple[Conversion, settings.Settings, str | None]:
    """Return the weights, the configuration that they tell, and the prefix of a backbone alone."""
    prefix = options.prefix
    if prefix is None:
        prefix = BOTTOM_UP if source == "torchvision" else BACKBONE
    prefix = f"{prefix.rstrip('.')}." if prefix else ""
    if source == "freqfusion":
        return mask2former.publish(state), mask2former.mask2former_settings(state, []), None
    if source == "mask2former":
        result, windows = mask2former.convert_published(state), mask2former.windows(state)
        return result, mask2former.mask2former_settings(result.state, windows), None
    if source == "mmdet":
        result = names.convert_detector(state)
        neck = any(name.startswith(names.NECK) for name in state)
        keys = settings.neck_settings(state, source=names.NECK) if neck else {}
        return result, keys | settings.RESNET_INPUT, None
    if source == "swin":
        result = names.convert_swin(state, prefix=prefix)
        return result, settings.swin_settings(result.state, prefix), prefix
    if source == "segnext":
        result = segnext.convert_segnext(state, prefix=prefix)
        whole = any(name.startswith(segnext.OUR_HEAD) for name in result.state)
        return result, segnext.segnext_settings(state), None if whole else prefix
    if source == "internimage":
        result = names.convert_internimage(state, prefix=prefix)
        return result, settings.internimage_settings(result.state, prefix), prefix
    result = names.convert_resnet(state, prefix=prefix)
    return result, settings.resnet_settings(result.state, prefix), prefix


def _check(ours: State, keys: settings.Settings, backbone: str | None) -> str:
    if importlib.util.find_spec("detectron2") is None:
        return "not held against the model, since detectron2 is not installed"
    settings.check_against_model(ours, keys, backbone=backbone)
    return f"all {len(ours)} names and shapes are those of the model"


def write_weights(
    path: Path,
    weights: State,
    *,
    author: str,
    versions: Mapping[str, int] | None = None,
    heuristics: bool = False,
) -> None:
    """Save for a checkpointer in the format of the name; an interruption leaves no half file.

    Args:
        path: The file, ``*.safetensors`` or of ``torch.save``.
        weights: By their names.
        author: Whose names the weights have.
        versions: Of modules, by their names; a module may treat weights without one as old.
        heuristics: Whether Detectron2 is to guess which of its names are meant.

    Raises:
        ValueError: if safetensors is needed and not installed.
    """
    if path.suffix != ".safetensors":
        content = with_versions(weights, versions or {})
        notes = {AUTHOR: author, HEURISTICS: heuristics}
        write_whole(path, lambda partial: torch.save({"model": content, **notes}, partial))
        return
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ValueError(f"{path} needs the package safetensors: {INSTALL}") from error
    metadata = {"format": "pt", "author": author, HEURISTICS: str(heuristics)}
    if versions:
        metadata[VERSIONS] = json.dumps(dict(versions))
    # Copies, since safetensors refuses tensors that share memory.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_whole(path, lambda partial: save_file(own, partial, metadata=metadata))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.convert_checkpoint",
        description="Rename the weights of a checkpoint for Detectron2 and this project.",
    )
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="file of torch.save, *.pkl or *.safetensors")
    output = "file to write, *.pth or *.safetensors"
    add("output", type=Path, nargs="?", metavar="OUTPUT", help=output)
    add("--list", action="store_true", help="show names, shapes and types of INPUT, write nothing")
    add("--to", dest="target", choices=TARGETS, default=TARGETS[0], help="whose names it gets")
    prefixes = f"{BOTTOM_UP} for a ResNet, {BACKBONE} for other backbones"
    add("--prefix", metavar="NAME", help=f"of a backbone's new names; not given: {prefixes}")
    keep = "change the format only, for instance to *.safetensors"
    add("--keep-names", action="store_true", help=keep)
    add("--overwrite", action="store_true", help="replace the output if it is there already")
    return parser


if __name__ == "__main__":
    sys.exit(main())
