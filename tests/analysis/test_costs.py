"""Parameters, memory and time, on modules small enough to count by hand.

All numbers are float32, four bytes each; time is that of a clock that moves when a part says so."""

import pytest
import torch
from torch import nn

from freqfusion.analysis import (
    costs,
    count_parameters,
    measure_latency,
    saved_for_backward,
)
from freqfusion.layers import FreqFusion

INPUT = torch.randn(4, 8)
INPUT_BYTES, HIDDEN_BYTES = 4 * 8 * 4, 4 * 3 * 4


class Branches(nn.Module):
    """A linear layer and a function of what it gives."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))


def test_a_layer_keeps_its_input_and_an_activation_its_output():
    saved = saved_for_backward(nn.Sequential(nn.Linear(8, 3), nn.ReLU()), INPUT)
    assert saved.by_module == {
        "": INPUT_BYTES + HIDDEN_BYTES,
        "0": INPUT_BYTES,
        "1": HIDDEN_BYTES,
    }
    assert saved.total == INPUT_BYTES + HIDDEN_BYTES


def test_parameters_are_not_counted_and_frozen_layers_keep_nothing():
    """The weight, kept for the gradient of the input, is there anyway."""
    module = nn.Linear(8, 3)
    assert saved_for_backward(module, INPUT.clone().requires_grad_()).total == INPUT_BYTES
    module.requires_grad_(False)
    assert saved_for_backward(module, INPUT).total == 0


def test_what_is_kept_twice_counts_once():
    """A view keeps its whole storage."""
    for function in (lambda h: h * h, lambda h: h[:1] * h[:1]):
        saved = saved_for_backward(Branches(function), INPUT)
        assert saved.total == INPUT_BYTES + HIDDEN_BYTES


def test_what_is_let_go_is_not_counted():
    """Squares that nobody uses are freed with their graph, and so is that of what is detached,
    although the caller still holds the input."""

    def forget(hidden):
        for _ in range(5):
            (hidden * 2).square()
        return hidden.detach()

    assert saved_for_backward(Branches(forget), INPUT).total == 0


def test_recomputing_keeps_less():
    options = {"hr_channels": 16, "lr_channels": 16, "compressed_channels": 8}
    inputs = torch.randn(1, 16, 12, 12), torch.randn(1, 16, 6, 6)
    kept, recomputed = (
        saved_for_backward(FreqFusion(**options, use_checkpoint=flag), *inputs).total
        for flag in (False, True)
    )
    # Of a recomputed module its two inputs remain.
    assert recomputed == (144 + 36) * 16 * 4 < kept


def test_parameters():
    """The layer is there under two names and counts once; batch normalization has 3 buffers."""
    module = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
    module.append(module[0])
    module[1].requires_grad_(False)
    whole = count_parameters(module)[""]
    assert (whole.trainable, whole.frozen, whole.buffers) == (27, 6, 3 + 3 + 1)
    assert whole.total == 33
    assert count_parameters(module)["0"].trainable == 27


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def perf_counter(self):
        return self.seconds


class Takes(nn.Module):
    """Takes some milliseconds, others at each call."""

    def __init__(self, clock, *milliseconds):
        super().__init__()
        self.clock, self.milliseconds = clock, iter(milliseconds)

    def forward(self, x):
        self.clock.seconds += next(self.milliseconds) / 1000
        return x


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(costs, "time", clock)
    return clock


def test_median_and_spread_without_the_warm_up(clock):
    """Warm-up 99 ms, then three runs; without gradients."""
    module = Takes(clock, 99, 3, 1, 8)
    seen = []
    module.register_forward_hook(lambda part, given, output: seen.append(torch.is_grad_enabled()))
    found = measure_latency(module, torch.zeros(1), runs=3)
    assert (found.median, found.fastest, found.slowest) == pytest.approx((3, 1, 8))
    assert seen == [False] * 4


@pytest.mark.parametrize(("runs", "warm_up"), [(0, 1), (1, -1)])
def test_wrong_numbers_of_runs(runs, warm_up):
    with pytest.raises(ValueError, match=f"got {runs} runs and {warm_up}"):
        measure_latency(nn.Identity(), torch.zeros(1), runs=runs, warm_up=warm_up)


def test_works_where_gradients_are_off():
    with torch.no_grad():
        assert saved_for_backward(nn.Linear(8, 3), INPUT).total == INPUT_BYTES
