"""What of a model is exported: from images that are normalized and padded to raw outputs.

Shapes: images (B, 3, H, W) are padded to whole blocks of d x d pixels, d being what the model pads
to, and handed on as blocks (B, 3, rows, d, columns, d). So an exporter sees the sizes of all maps
as plain multiples of the numbers of blocks, instead of roundings of the image's size that it cannot
compare with each other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPSETS = (18, 23)
# Sizes that are traced, in blocks or, where nothing is padded, in pixels: any but 0 and 1.
_BLOCKS, _PIXELS = (3, 4), (96, 130)


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


def to_onnx(part: ExportedPart, opset: int, metadata: Mapping[str, str]) -> Any:
    """Return the ONNX model of a part: images (B, 3, H, W) of any size to its outputs."""
    model = trace(part, opset)
    _prepend_preparation(model.graph, part)
    _append_cropping(model.graph, part)
    model = simplified(model)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model


def trace(part: ExportedPart, opset: int) -> Any:
    """Trace a part from blocks to the outputs that are not cropped yet."""
    rows, columns = _BLOCKS if part.divisor > 1 else _PIXELS
    device = part.model.pixel_mean.device
    blocks = torch.zeros(2, 3, rows, part.divisor, columns, part.divisor, device=device)
    free = dict.fromkeys((0, 2, 4), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        # Relations between sizes that a model asks about hold for every image; an exporter cannot
        # prove all of them, so they are not made conditions.
        program = torch.export.export(
            part,
            (blocks,),
            dynamic_shapes=(free,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
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
    return exported.model_proto


def _prepend_preparation(graph: Any, part: ExportedPart) -> None:
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
    size = node("Shape", ["image"], "prepare_size", start=2)
    divisor = constant("divisor", np.array([part.divisor] * 2))
    negative = node("Neg", [size], "prepare_negative")
    missing = node("Mod", [negative, divisor], "prepare_missing")
    before = constant("before", np.zeros(6, dtype=np.int64))
    pads = node("Concat", [before, missing], "prepare_pads", axis=0)
    padded = node("Pad", [normalized, pads], "prepare_padded")
    whole = node("Add", [size, missing], "prepare_whole")
    numbers = node("Div", [whole, divisor], "prepare_numbers")
    rows, columns = "prepare_rows", "prepare_columns"
    nodes.append(helper.make_node("Split", [numbers], [rows, columns], num_outputs=2))
    start = constant("start", np.array([0, 3]))
    side = constant("side", np.array([part.divisor]))
    shape = node("Concat", [start, rows, side, columns, side], "prepare_shape", axis=0)
    node("Reshape", [padded, shape], graph.input[0].name)
    kept = [*nodes, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(kept)
    sizes: list[str | int | None] = ["batch", 3, "height", "width"]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, sizes))


def _append_cropping(graph: Any, part: ExportedPart) -> None:
    """Cut off what was padded; give all outputs their names."""
    from onnx import TensorProto, helper, numpy_helper

    axes = numpy_helper.from_array(np.array([2, 3]), "crop_axes")
    start = numpy_helper.from_array(np.array([0, 0]), "crop_start")
    graph.initializer.extend([axes, start])
    found = list(graph.output)
    del graph.output[:]
    for output, raw in zip(part.outputs, found, strict=True):
        # Names of sizes that the exporter made up would only confuse.
        rank = len(raw.type.tensor_type.shape.dim)
        sizes: list[Any] = ["batch", *(f"{output.name}_{axis}" for axis in range(1, rank))]
        if output.is_cropped:
            sizes[2:] = ["height", "width"]
            inputs = [raw.name, "crop_start", "prepare_size", "crop_axes"]
            graph.node.append(helper.make_node("Slice", inputs, [output.name]))
        else:
            graph.node.append(helper.make_node("Identity", [raw.name], [output.name]))
        fixed = raw.type.tensor_type.shape.dim[1].dim_value
        sizes[1] = fixed or sizes[1]
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
