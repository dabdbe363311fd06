"""What of a model is exported: from images that are normalized and padded to raw outputs.

Shapes: images (B, 3, H, W) are padded to whole blocks of d x d pixels, d being what the model pads
to, and handed on as blocks (B, 3, rows, d, columns, d). So an exporter sees the sizes of all maps
as plain multiples of the numbers of blocks, instead of roundings of the image's size that it cannot
compare with each other.

Most of an export's time goes into torch's bookkeeping of sizes that are symbols: a model of fixed
size takes a quarter of it.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPSETS = (18, 23)
# Sizes that are traced for images of any size, in blocks or, where nothing is padded, in pixels:
# neither 0 nor 1, and blocks without a common divisor.
_BLOCKS, _PIXELS = (3, 4), (96, 130)

Stage = Callable[[str], AbstractContextManager[None]]
"""Around a part of the work, with its name."""


class Output(NamedTuple):
    """One output of the exported model; ``is_cropped``: at the image's size."""

    name: str
    is_cropped: bool = False


class ExportedPart(nn.Module):
    """A part of a model in eval mode.

    Attributes:
        task: What the outputs are for.
        divisor: Images are padded to a multiple of this number of pixels.
        outputs: What :meth:`compute` returns, in its order.
    """

    def __init__(self, model: Any, task: str, divisor: int, outputs: list[Output]):
        super().__init__()
        self.model = model
        self.task, self.divisor, self.outputs = task, max(divisor, 1), outputs

    def forward(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """Return outputs for the padded image, from its blocks."""
        return self.compute(blocks.flatten(4, 5).flatten(2, 3))

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return outputs for images that are normalized and padded."""
        raise NotImplementedError

    @torch.no_grad()
    def reference(self, image: Tensor) -> list[Tensor]:
        """Compute by the model itself what the exported file must give for (B, 3, H, W)."""
        height, width = image.shape[-2:]
        normalized = (image - self.model.pixel_mean) / self.model.pixel_std
        padded = F.pad(normalized, (0, -width % self.divisor, 0, -height % self.divisor))
        return [
            raw[..., :height, :width] if output.is_cropped else raw
            for output, raw in zip(self.outputs, self.compute(padded), strict=True)
        ]


class SemanticPart(ExportedPart):
    """Logits of every class and pixel, of a semantic segmentor or a Panoptic FPN's branch."""

    def __init__(self, model: Any):
        divisor = model.backbone.size_divisibility
        super().__init__(model, "semantic", divisor, [Output("sem_seg", is_cropped=True)])

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return logits at the size of the padded image."""
        logits, _ = self.model.sem_seg_head(self.model.backbone(images))
        return (logits,)


class AnchorPart(ExportedPart):
    """The pyramid of an R-CNN or a RetinaNet, and what its head says of the anchors on each level.

    The head of an R-CNN is that of its proposal network.
    """

    def __init__(self, model: Any):
        network = getattr(model, "proposal_generator", None)
        task, kind = ("detection", "") if network is None else ("proposals", "rpn_")
        read = model.head_in_features if network is None else network.in_features
        self.levels: list[str] = list(model.backbone.output_shape())
        self.read: list[str] = list(read)
        names = [
            *self.levels,
            *(f"{kind}logits_{name}" for name in self.read),
            *(f"{kind}deltas_{name}" for name in self.read),
        ]
        divisor = model.backbone.size_divisibility
        super().__init__(model, task, divisor, [Output(name) for name in names])

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return maps, logits (B, A * K, h, w) and deltas (B, 4 * A, h, w) for A anchors per place.

        K is the number of classes of a RetinaNet, 1 of proposals.
        """
        maps = self.model.backbone(images)
        is_alone = self.task == "detection"
        head = self.model.head if is_alone else self.model.proposal_generator.rpn_head
        logits, deltas = head([maps[name] for name in self.read])
        return (*(maps[name] for name in self.levels), *logits, *deltas)


class QueryPart(ExportedPart):
    """Classes and masks of Mask2Former's queries, and the semantic scores that they make."""

    def __init__(self, model: Any):
        self.is_semantic = bool(model.semantic_on)
        outputs = [Output("pred_logits"), Output("pred_masks")]
        if self.is_semantic:
            outputs.append(Output("sem_seg", is_cropped=True))
        super().__init__(model, "mask classification", model.size_divisibility, outputs)

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return class logits (B, Q, K + 1), mask logits at stride 4, and scores (B, K, H, W)."""
        predicted = self.model.sem_seg_head(self.model.backbone(images))
        logits, masks = predicted["pred_logits"], predicted["pred_masks"]
        if not self.is_semantic:
            return logits, masks
        size = (images.shape[-2], images.shape[-1])
        enlarged = F.interpolate(masks, size=size, mode="bilinear").sigmoid().flatten(2)
        classes = logits.softmax(-1)[..., :-1].transpose(1, 2)
        return logits, masks, torch.matmul(classes, enlarged).unflatten(2, size)


def part_of(model: Any) -> ExportedPart:
    """Return the part of a Detectron2 model that is exported.

    Raises:
        ValueError: for models without such a part.
    """
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN, RetinaNet, SemanticSegmentor

    from freqfusion.modeling import Mask2Former

    if getattr(model.backbone, "padding_constraints", {}).get("square_size", 0):
        raise ValueError(
            "images that are padded to a square are not exported: set MODEL.FPN.SQUARE_PAD 0"
        )
    if isinstance(model, Mask2Former):
        return QueryPart(model)
    if isinstance(model, SemanticSegmentor | PanopticFPN):
        return SemanticPart(model)
    has_network = isinstance(model, GeneralizedRCNN) and hasattr(
        model.proposal_generator, "rpn_head"
    )
    if has_network or isinstance(model, RetinaNet):
        return AnchorPart(model)
    raise ValueError(
        "SemanticSegmentor, PanopticFPN, GeneralizedRCNN with RPN, RetinaNet and Mask2Former are "
        f"exported; MODEL.META_ARCHITECTURE gave {type(model).__name__}"
    )


def to_onnx(
    part: ExportedPart,
    opset: int,
    metadata: Mapping[str, str],
    size: tuple[int, int] | None = None,
    stage: Stage = lambda _: nullcontext(),
) -> Any:
    """Return the ONNX model of a part: images (B, 3, H, W) to its outputs.

    Args:
        part: What to export.
        opset: The version of the operators.
        metadata: Written into the file.
        size: Height and width of the images, which come one at a time; None: any size and number.
        stage: Entered for each stage of the work.
    """
    with stage("trace the model"), torch.no_grad():
        program = trace(part, size)
    with stage("translate it to ONNX"), torch.no_grad():
        exported = torch.onnx.export(
            program,
            (),
            input_names=["blocks"],
            output_names=[f"whole_{output.name}" for output in part.outputs],
            opset_version=opset,
            dynamo=True,
            verbose=False,
            # onnxruntime does the same in a fraction of the time.
            optimize=False,
        )
    assert exported is not None
    model = exported.model_proto
    with stage("simplify the graph"):
        _prepend_preparation(model.graph, part, size)
        _append_cropping(model.graph, part, size)
        model = simplified(model)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model


def trace(part: ExportedPart, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    """Trace a part from blocks to the outputs that are not cropped yet."""
    divisor, device = part.divisor, part.model.pixel_mean.device
    if size is not None:
        rows, columns = (-(-side // divisor) for side in size)
        blocks = torch.zeros(1, 3, rows, divisor, columns, divisor, device=device)
        return torch.export.export(part, (blocks,), strict=False)
    rows, columns = _BLOCKS if divisor > 1 else _PIXELS
    blocks = torch.zeros(2, 3, rows, divisor, columns, divisor, device=device)
    free = dict.fromkeys((0, 2, 4), torch.export.Dim.DYNAMIC)
    with _explicit_padding(part, blocks):
        # Relations between sizes that a model asks about hold for every image; an exporter cannot
        # prove all of them, so they are not made conditions.
        return torch.export.export(
            part,
            (blocks,),
            dynamic_shapes=(free,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


@contextmanager
def _explicit_padding(part: ExportedPart, blocks: Tensor) -> Iterator[None]:
    """Pad by constants where timm pads "same" as TensorFlow does, by an amount that sizes decide.

    The amount is the same for all maps whose sides are multiples of the stride. As a function of
    symbols it takes an exporter many minutes.
    """
    try:
        from timm.layers.conv2d_same import Conv2dSame
    except ImportError:
        yield
        return
    fits: dict[Conv2dSame, bool] = {}

    def see(module: Conv2dSame, inputs: tuple[Tensor]) -> None:
        pairs = zip(inputs[0].shape[-2:], module.stride, strict=True)
        fits[module] = fits.get(module, True) and all(side % step == 0 for side, step in pairs)

    found = [module for module in part.modules() if isinstance(module, Conv2dSame)]
    hooks = [module.register_forward_pre_hook(see) for module in found]
    if found:
        part(blocks[:1])
    for hook in hooks:
        hook.remove()
    replaced = [module for module in found if fits.get(module)]
    for module in replaced:
        vars(module)["forward"] = functools.partial(_padded_convolution, module)
    try:
        yield
    finally:
        for module in replaced:
            del vars(module)["forward"]


def _padded_convolution(module: nn.Conv2d, x: Tensor) -> Tensor:
    sides = zip(module.kernel_size, module.dilation, module.stride, strict=True)
    top, left = (max((taps - 1) * apart + 1 - step, 0) for taps, apart, step in sides)
    x = F.pad(x, (left // 2, left - left // 2, top // 2, top - top // 2))
    return F.conv2d(x, module.weight, module.bias, module.stride, 0, module.dilation, module.groups)


def _prepend_preparation(graph: Any, part: ExportedPart, size: tuple[int, int] | None) -> None:
    """Normalize and pad images as Detectron2 does, and cut them into blocks."""
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), f"prepare_{name}"))
        return f"prepare_{name}"

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    nodes: list[Any] = []
    mean, std = (
        constant(name, getattr(part.model, f"pixel_{name}").cpu().numpy()[None])
        for name in ("mean", "std")
    )
    centered = node("Sub", ["image", mean], "prepare_centered")
    normalized = node("Div", [centered, std], "prepare_normalized")
    shape = node("Shape", ["image"], "prepare_size", start=2)
    divisor = constant("divisor", np.array([part.divisor] * 2))
    negative = node("Neg", [shape], "prepare_negative")
    missing = node("Mod", [negative, divisor], "prepare_missing")
    before = constant("before", np.zeros(6, dtype=np.int64))
    pads = node("Concat", [before, missing], "prepare_pads", axis=0)
    padded = node("Pad", [normalized, pads], "prepare_padded")
    whole = node("Add", [shape, missing], "prepare_whole")
    numbers = node("Div", [whole, divisor], "prepare_numbers")
    rows, columns = "prepare_rows", "prepare_columns"
    nodes.append(helper.make_node("Split", [numbers], [rows, columns], num_outputs=2))
    start = constant("start", np.array([0, 3]))
    side = constant("side", np.array([part.divisor]))
    cut = node("Concat", [start, rows, side, columns, side], "prepare_shape", axis=0)
    node("Reshape", [padded, cut], graph.input[0].name)
    kept = [*nodes, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(kept)
    sizes: list[str | int | None] = (
        ["batch", 3, "height", "width"] if size is None else [1, 3, *size]
    )
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, sizes))


def _append_cropping(graph: Any, part: ExportedPart, size: tuple[int, int] | None) -> None:
    """Cut off what was padded; give all outputs their names."""
    from onnx import TensorProto, helper, numpy_helper

    axes = numpy_helper.from_array(np.array([2, 3]), "crop_axes")
    start = numpy_helper.from_array(np.array([0, 0]), "crop_start")
    graph.initializer.extend([axes, start])
    found = list(graph.output)
    del graph.output[:]
    for output, raw in zip(part.outputs, found, strict=True):
        # Names of sizes that the exporter made up would only confuse.
        sizes: list[Any] = [
            dim.dim_value or (f"{output.name}_{axis}" if axis else "batch")
            for axis, dim in enumerate(raw.type.tensor_type.shape.dim)
        ]
        if output.is_cropped:
            sizes[2:] = size or ["height", "width"]
            inputs = [raw.name, "crop_start", "prepare_size", "crop_axes"]
            graph.node.append(helper.make_node("Slice", inputs, [output.name]))
        else:
            graph.node.append(helper.make_node("Identity", [raw.name], [output.name]))
        graph.output.append(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, sizes))


def simplified(model: Any) -> Any:
    """Fold constants and drop what does nothing; all operators stay standard ones."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        smaller = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in smaller.graph.node}
    kept = [entry for entry in smaller.opset_import if entry.domain in used]
    del smaller.opset_import[:]
    smaller.opset_import.extend(kept)
    return smaller


def foreign_domains(model: Any) -> set[str]:
    """Return domains of operators that are not standard ones, also of those in loops."""
    found: set[str] = set()
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            found.add(node.domain)
            graphs += [entry.g for entry in node.attribute if entry.HasField("g")]
    return found - {"", "ai.onnx"}
