"""The order of images depends on the seed, and on nothing else."""

import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from PIL import Image

from freqfusion.data.bad_samples import CheckedSamples, Policy
from freqfusion.data.loaders import (
    ImageTurn,
    TrainingLoader,
    batches,
    seeded,
    share,
    wide_or_high,
)
from freqfusion.data.randomness import capture, restore

DICTS = [{"image": number, "width": 3 if number % 3 else 1, "height": 2} for number in range(10)]


def drawn():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()


class Samples:
    """Images with random numbers of all kinds."""

    def __len__(self):
        return len(DICTS)

    def __getitem__(self, index):
        return index, *drawn()


def indices(seed):
    return TrainingSampler(len(DICTS), seed=seed)._infinite_indices()


def loader(samples=None, **changes):
    given = {"total_batch_size": 2, "groups": wide_or_high(DICTS), "seed": 3} | changes
    return TrainingLoader(samples or Samples(), indices, **given)


def first(made, count=8):
    return list(itertools.islice(made, count))


def test_batches_wait_for_their_group():
    """By hand: 0 and 2 are of one group, 1 and 3 of the other."""
    found = batches([0, 1, 3, 0, 2, 1], 2, [0, 1, 0, 1])
    assert list(found) == [[(1, 1), (2, 3)], [(0, 0), (3, 0)]]
    assert list(batches([5, 6, 7], 2)) == [[(0, 5), (1, 6)]]


def test_processes_share_a_batch():
    batch = [ImageTurn(turn, turn) for turn in range(6)]
    shares = [share(batch, rank, 3) for rank in range(3)]
    assert [place for one in shares for place in one] == batch
    assert {len(one) for one in shares} == {2}


def test_workers_change_nothing():
    assert first(loader(num_workers=2)) == first(loader())


def test_goes_on_at_any_batch():
    whole = loader()
    expected = first(whole)
    state = whole.state_dict()
    assert state == {"seed": 3, "taken": 8, "images": 10, "batch_size": 2}
    for taken in (0, 1, 5):
        later = loader(seed=8)
        later.load_state_dict({**state, "taken": taken})
        assert first(later, 8 - taken) == expected[taken:]


def test_random_numbers_are_those_of_the_turn_and_leave_others_alone():
    before = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    found = [one for batch in first(loader()) for one in batch]
    assert len({one[1:] for one in found}) == len(found)
    after = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    assert after == before


def test_batches_are_wide_or_high(tmp_path):
    widths = [[DICTS[one[0]]["width"] for one in batch] for batch in first(loader(), 20)]
    assert all(len(set(batch)) == 1 for batch in widths)
    assert {batch[0] for batch in widths} == {1, 3}
    Image.new("L", (3, 2)).save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes(b"")
    files = [{"file_name": str(tmp_path / name)} for name in ("wide.png", "broken.png", "none")]
    assert wide_or_high([*files, {"width": 2, "height": 2}]) == [1, 0, 0, 0]


def test_an_image_that_cannot_be_used_is_replaced_in_the_same_way():
    """Wherever it is loaded, and also when the run goes on in between."""

    def mapper(one):
        value = drawn()
        if one["image"] == 4:
            raise ValueError("broken")
        return {"image": one["image"], "drawn": value}

    entries = [{**one, "file_name": str(one["image"])} for one in DICTS]
    samples = CheckedSamples(entries, mapper, Policy("skip", 1.0), replace=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("freqfusion.data.bad_samples.check_entry", lambda entry: [])
        found = first(loader(samples), 20)
        assert first(loader(samples, num_workers=2), 20) == found
        later = loader(samples)
        later.load_state_dict({**later.state_dict(), "taken": 6})
        assert first(later, 14) == found[6:]
    assert {one["image"] for batch in found for one in batch} == set(range(10)) - {4}


SAMPLERS = {
    "all": lambda seed: TrainingSampler(10, seed=seed),
    "some": lambda seed: RandomSubsetTrainingSampler(10, 0.7, seed_shuffle=seed, seed_subset=seed),
    "rare": lambda seed: RepeatFactorTrainingSampler(torch.linspace(1, 3, 10), seed=seed),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_order_is_the_samplers_own_and_follows_the_seed(name):
    order = seeded(SAMPLERS[name](1))
    assert list(itertools.islice(order(5), 40)) == list(itertools.islice(SAMPLERS[name](5), 40))
    assert list(itertools.islice(order(5), 40)) != list(itertools.islice(order(6), 40))


def test_data_set_without_indices_is_refused():
    with pytest.raises(ValueError, match="must be lists; got one without indices"):
        seeded(None)


def test_random_numbers_go_on_where_they_were():
    state = capture()
    expected = drawn()
    again = drawn()
    restore(state)
    assert drawn() == expected != again
    # Half of a pair of normal numbers is kept for the next time.
    np.random.randn()
    half = capture()
    value = drawn()
    restore(half)
    assert drawn() == value


def test_another_data_set_is_told(caplog):
    loader().load_state_dict({"seed": 1, "taken": 4, "images": 11, "batch_size": 2})
    assert "of a run with 11 images to train on, and now there are 10" in caplog.text
