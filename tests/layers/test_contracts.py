"""What every layer holds to: errors, batches, layouts, dtypes, copies, compilers, learning."""

import inspect
from pathlib import Path

import layer_cases
import pytest
import torch
from copies import WAYS

from freqfusion import layers
from freqfusion.layers import sfm

PACKAGE = Path(layers.__file__).parent
NAMES = [*layer_cases.FUNCTIONS, *layer_cases.MODULES]
READERS = ("interpolate_at", "invert_displacement")
# What is given in place of a tensor, and part of what is said.
WRONG = {
    "integers": (torch.Tensor.long, "must be floating point, got torch.int64"),
    "none": (lambda t: None, "must be a tensor, got NoneType"),
    "array": (lambda t: t.numpy(), "must be a tensor, got ndarray"),
    "empty": (lambda t: t[:, :, :0], r"got \("),
    "flat": (lambda t: t.flatten(), r"got \("),
}

# Places where such a thing may stand: no points means all pixels, and there may be none to read.
ALLOWED = {("invert_displacement", 1, "none"), *((n, 1, "empty") for n in READERS)}


def test_no_public_module_is_forgotten():
    names = {*layers.__all__, *sfm.__all__}
    classes = {name: getattr(sfm, name, None) or getattr(layers, name) for name in names}
    modules = {
        name
        for name, public in classes.items()
        if inspect.isclass(public) and issubclass(public, torch.nn.Module)
    }
    assert modules == set(layer_cases.MODULES)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_inputs_are_named(name, wrong):
    """One after the other; the error is raised by the package, not by torch inside it."""
    change, said = WRONG[wrong]
    function, tensors = layer_cases.as_function(name, torch.float32)
    for place, tensor in enumerate(tensors):
        given = [*tensors[:place], change(tensor), *tensors[place + 1 :]]
        if (name, place, wrong) in ALLOWED:
            function(*given)
            continue
        with pytest.raises((TypeError, ValueError), match=said) as caught:
            function(*given)
        assert Path(caught.traceback[-1].path).is_relative_to(PACKAGE)


@pytest.mark.parametrize("name", layer_cases.MODULES)
def test_dtypes_are_those_of_the_weights(name):
    """Or any where there are no weights; under autocast half precision comes to float32 weights."""
    module, _ = layer_cases.built(name)
    function, tensors = layer_cases.as_function(name, torch.float32)
    doubles = [tensor.double() for tensor in tensors]
    if any(True for _ in module.parameters()):
        with pytest.raises(ValueError, match=r"must be torch.float32, as the weights .*float64"):
            function(*doubles)
    else:
        function(*doubles)
    with torch.autocast("cpu", torch.bfloat16):
        for output in function(*(tensor.bfloat16() for tensor in tensors)):
            assert output.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_are_independent(name):
    """Nor is anything kept from a call to the next one."""
    module, inputs = layer_cases.built(name)
    together = layer_cases.tensors(module(*inputs))
    for index in (1, 0):
        alone = layer_cases.tensors(module(*layer_cases.image_of(inputs, index)))
        expected = [output[index : index + 1] for output in together]
        torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_memory_formats_change_no_number(name):
    """channels_last for maps, and strides of a slice."""
    function, tensors = layer_cases.as_function(name)
    expected = function(*tensors)
    for layout in (channels_last, strided):
        torch.testing.assert_close(function(*map(layout, tensors)), expected)


def channels_last(tensor):
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def strided(tensor):
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


# Relative to the largest number that comes out.
HALF = {torch.float16: 0.03, torch.bfloat16: 0.15}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_close(name, dtype):
    """Under autocast, and with inputs and weights in half precision."""
    module, inputs = layer_cases.built(name)
    expected = layer_cases.tensors(module(*inputs))
    with torch.autocast("cpu", dtype):
        results = [layer_cases.tensors(module(*inputs))]
    if isinstance(module, torch.nn.Module):
        module = module.to(dtype)
    tensors = layer_cases.converted(inputs, dtype)
    results.append(layer_cases.tensors(module(*tensors)))
    for found in results:
        for output, exact in zip(found, expected, strict=True):
            error = (output.float() - exact).abs().max() / exact.abs().max()
            assert error <= HALF[dtype]
            assert output.dtype in (dtype, torch.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", layer_cases.WIDE)
def test_half_precision_is_rounded_once(name, dtype, tolerance):
    """On maps so wide that half precision could not tell their pixels apart.

    Coordinates and sums are float32: the error is that of rounding the results, the gradient of
    the first input among them.
    """
    function, shapes = layer_cases.WIDE[name]
    generator = torch.Generator().manual_seed(0)
    rounded = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    results = []
    for inputs in (rounded, [tensor.double() for tensor in rounded]):
        first = inputs[0].requires_grad_()
        output = function(*inputs)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        weight = weight.to(dtype).to(output.dtype)
        results.append((output, torch.autograd.grad(output, first, weight)[0]))
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == dtype
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", layer_cases.MODULES)
def test_every_parameter_learns(name):
    module, inputs = layer_cases.built(name)
    if not list(module.parameters()):
        return
    sum(output.square().sum() for output in layer_cases.tensors(module(*inputs))).backward()
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_may_be_empty(name):
    _, inputs = layer_cases.built(name)
    if any(isinstance(one, (layers.Mapping, layers.MappingStack)) for one in inputs):
        pytest.skip("its mapping has a batch, too")
    function, tensors = layer_cases.as_function(name, torch.float32)
    assert all(output.shape[0] == 0 for output in function(*(tensor[:0] for tensor in tensors)))


@pytest.mark.parametrize("name", layer_cases.MODULES)
def test_copies_are_modules_of_their_own(name):
    """The same numbers, also after the module that was copied has changed."""
    module, inputs = layer_cases.built(name)
    expected = layer_cases.tensors(module(*inputs))
    copies = [way(module) for way in WAYS]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    for copied in copies:
        found = layer_cases.tensors(copied(*inputs))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["reassemble", "deformable_attention"])
def test_only_inputs_are_kept_for_derivatives(name):
    function, tensors = layer_cases.as_function(name)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        function(*tensors)
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in tensors]


# What has operators of its own, or calls what has.
OF_OPERATORS = ("FreqFusion", "MultiScaleDeformableAttention", "DeformableConvolutionV3")


@pytest.mark.parametrize(
    "name", [*OF_OPERATORS, pytest.param("AdaptiveResampling", marks=pytest.mark.slow)]
)
def test_compiles_without_graph_breaks(name):
    function, tensors = layer_cases.as_function(name, torch.float32)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*tensors), function(*tensors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradients = [
        torch.autograd.grad(sum(output.sum() for output in outputs), tensors)
        for outputs in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


class Exported(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


EXPORTED = ("LocalSimilaritySampler", *OF_OPERATORS[1:], "SemanticHighFreqAttention")


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_form_is_equal_and_standard(name):
    function, tensors = layer_cases.as_function(name, torch.float32)
    program = torch.export.export(Exported(function), (*tensors,))
    torch.testing.assert_close(program.module()(*tensors), function(*tensors), rtol=1e-5, atol=1e-5)
    assert not [node for node in program.graph.nodes if "freqfusion" in str(node.target)]


def test_lists_of_maps():
    module, (maps,) = layer_cases.built("FreqFusionConcat")
    with pytest.raises(TypeError, match=r"expected 2 feature maps, .* in a list; got NoneType"):
        module(None)
    with pytest.raises(ValueError, match=r"features\[0\] and features\[1\] must have the same"):
        module([maps[0], maps[1][:1]])
