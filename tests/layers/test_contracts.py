"""What every layer holds to: named errors, batches, layouts, dtypes, parameters that learn."""

from pathlib import Path

import layer_cases
import pytest
import torch

from freqfusion import layers

PACKAGE = Path(layers.__file__).parent
NAMES = [*layer_cases.FUNCTIONS, *layer_cases.MODULES]
READERS = ("interpolate_at", "invert_displacement")
# What is given in place of a tensor, and part of what is said.
WRONG = {
    "integers": (torch.Tensor.long, "must be floating point, got torch.int64"),
    "booleans": (torch.Tensor.bool, "must be floating point, got torch.bool"),
    "complex": (lambda t: t.to(torch.complex64), "must be floating point, got torch.complex64"),
    "none": (lambda t: None, "must be a tensor, got NoneType"),
    "list": (torch.Tensor.tolist, "must be a tensor, got list"),
    "array": (lambda t: t.numpy(), "must be a tensor, got ndarray"),
    "empty": (lambda t: t[:, :, :0], r"got \("),
    "flat": (lambda t: t.flatten(), r"got \("),
}

# Places where such a thing may stand: no points means all pixels, and there may be none to read.
ALLOWED = {("invert_displacement", 1, "none"), *((n, 1, "empty") for n in READERS)}


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


def test_lists_of_maps():
    module, (maps,) = layer_cases.built("FreqFusionConcat")
    with pytest.raises(TypeError, match=r"expected 2 feature maps, .* in a list; got NoneType"):
        module(None)
    with pytest.raises(ValueError, match=r"features\[0\] and features\[1\] must have the same"):
        module([maps[0], maps[1][:1]])
