"""Times of parts, by a clock that moves when a part says so."""

import pytest
import torch
from torch import nn

from freqfusion.analysis import Spread, latency, measure_latency


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def perf_counter(self):
        return self.seconds


class Takes(nn.Module):
    """Takes some milliseconds; the first call takes longer."""

    def __init__(self, clock, *milliseconds, part=None):
        super().__init__()
        self.clock, self.milliseconds, self.calls = clock, milliseconds, 0
        self.part = part

    def forward(self, x):
        step = self.milliseconds[min(self.calls, len(self.milliseconds) - 1)]
        self.clock.seconds += step / 1000
        self.calls += 1
        return x if self.part is None else self.part(x)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def close(spread, *expected):
    assert (spread.median, spread.fastest, spread.slowest) == pytest.approx(expected)


def test_parts_share_the_time_of_the_whole(clock):
    """5 ms outside, 20 ms around 10 ms inside."""
    inner = Takes(clock, 10)
    module = Takes(clock, 5, part=nn.Sequential(Takes(clock, 20, part=inner)))
    result = measure_latency(module, torch.zeros(1), runs=2)
    close(result.total, 35, 35, 35)
    close(result.by_module[""], 35, 35, 35)
    close(result.by_module["part"], 30, 30, 30)
    close(result.by_module["part.0"], 30, 30, 30)
    close(result.by_module["part.0.part"], 10, 10, 10)


def test_median_and_spread_without_the_warm_up(clock):
    """Warm-up 99 ms, three whole runs, then three in parts."""
    module = Takes(clock, 99, 3, 1, 8, 20, 40, 30)
    result = measure_latency(module, torch.zeros(1), runs=3)
    close(result.total, 3, 1, 8)
    close(result.by_module[""], 30, 20, 40)


def test_a_part_that_runs_twice_has_both_and_one_that_does_not_none(clock):
    part = Takes(clock, 4)
    module = nn.Sequential(part, part)
    module.add_module("idle", Takes(clock, 7))
    module.forward = lambda x: part(part(x))
    result = measure_latency(module, torch.zeros(1), runs=1, warm_up=0)
    close(result.by_module["0"], 8, 8, 8)
    assert result.by_module["idle"] == Spread(0, 0, 0)


def test_says_where_it_ran_and_takes_no_gradients():
    seen = []
    module = nn.Linear(2, 2)
    module.register_forward_hook(lambda part, given, output: seen.append(output.requires_grad))
    result = measure_latency(module, torch.zeros(1, 2), runs=1)
    assert (result.device, result.threads) == ("cpu", torch.get_num_threads())
    assert result.total.median > 0
    assert seen == [False] * 3
    assert len(module._forward_hooks) == 1


@pytest.mark.parametrize(("runs", "warm_up"), [(0, 1), (1, -1)])
def test_wrong_numbers_of_runs(runs, warm_up):
    with pytest.raises(ValueError, match=f"got {runs} runs and {warm_up}"):
        measure_latency(nn.Identity(), torch.zeros(1), runs=runs, warm_up=warm_up)
