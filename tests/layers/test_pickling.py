"""Layers can be copied, pickled, saved whole, and sent to processes that are spawned."""

import inspect

import layer_cases
import pytest
import torch
import torch.multiprocessing
from copies import WAYS
from torch import nn

from freqfusion import layers
from freqfusion.layers import sfm
from freqfusion.layers.freqfusion import ORIGINAL_BUFFERS, ORIGINAL_NAMES
from freqfusion.layers.sampler import ORIGINAL_NAMES as SAMPLER_NAMES


def test_no_public_module_is_forgotten():
    names = {*layers.__all__, *sfm.__all__}
    classes = {name: getattr(sfm, name, None) or getattr(layers, name) for name in names}
    modules = {n for n, c in classes.items() if inspect.isclass(c) and issubclass(c, nn.Module)}
    assert modules == set(layer_cases.MODULES)


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


@pytest.mark.parametrize("way", WAYS)
def test_copies_load_older_names(way):
    """Those of the research code; the window is compared with the copy's own."""
    module, _ = layer_cases.built("FreqFusionConcat")
    copied = way(module)
    state = {"freqfusions." + key[8:]: value + 1 for key, value in module.state_dict().items()}
    for names in (ORIGINAL_NAMES, SAMPLER_NAMES):
        for old, new in names.items():
            state = {key.replace(f".{new}", f".{old}"): value for key, value in state.items()}
    state |= {f"freqfusions.0.{old}": torch.ones(1) for old in ORIGINAL_BUFFERS}
    copied.load_state_dict(state)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(copied.state_dict()[name], value + 1)
    copied.fusions[0].lowpass_window = torch.ones(5, 5)
    with pytest.raises(RuntimeError, match="has 1 elements where this module expects 25"):
        copied.load_state_dict(state)
    module.load_state_dict(state)


def save_output(rank, module, inputs, path):
    """Run by a process that is spawned."""
    torch.save(module(*inputs), path)


def test_is_sent_to_a_process_that_is_spawned(tmp_path):
    module, inputs = layer_cases.built("FreqFusion")
    path = tmp_path / "output.pt"
    torch.multiprocessing.spawn(save_output, (module, inputs, path))
    torch.testing.assert_close(torch.load(path), module(*inputs))
