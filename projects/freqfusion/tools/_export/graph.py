"""A part of a model as an ONNX model with its preparation of images, in standard operators."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from freqfusion.tools._export.parts import Part

OPSETS = (18, 23)
# Sizes that are traced, in blocks or, where nothing is padded, in pixels: any but 0 and 1.
_BLOCKS, _PIXELS = (3, 4), (96, 130)


def to_onnx(part: Part, opset: int, metadata: Mapping[str, str]) -> Any:
    """The ONNX model of a part: images (B, 3, H, W) of any size to its outputs."""
    model = trace(part, opset)
    _prepend_preparation(model.graph, part)
    _append_cropping(model.graph, part)
    model = simplified(model)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model


def trace(part: Part, opset: int) -> Any:
    """From blocks to the outputs that are not cropped yet."""
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


def _prepend_preparation(graph: Any, part: Part) -> None:
    """Normalise and pad images as Detectron2 does, and cut them into blocks."""
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
    centred = node("Sub", ["image", mean], "prepare_centred")
    normalised = node("Div", [centred, std], "prepare_normalised")
    size = node("Shape", ["image"], "prepare_size", start=2)
    divisor = constant("divisor", np.array([part.divisor] * 2))
    negative = node("Neg", [size], "prepare_negative")
    missing = node("Mod", [negative, divisor], "prepare_missing")
    before = constant("before", np.zeros(6, dtype=np.int64))
    pads = node("Concat", [before, missing], "prepare_pads", axis=0)
    padded = node("Pad", [normalised, pads], "prepare_padded")
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


def _append_cropping(graph: Any, part: Part) -> None:
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
    """Domains of operators that are not standard ones, those in the bodies of loops included."""
    found: set[str] = set()
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            found.add(node.domain)
            graphs += [entry.g for entry in node.attribute if entry.HasField("g")]
    return found - {"", "ai.onnx"}
