"""Build loaders of checked images; those of training resume exactly at any batch.

The order of training is a function of a seed, so that a run goes on exactly where it was
interrupted by counting up to there. It depends neither on the number of processes nor on that of
the workers which load images.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import RandomSubsetTrainingSampler
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from freqfusion.data.bad_samples import (
    SKIP,
    CheckedSamples,
    CountedBatches,
    Mapper,
    SkippedImages,
    policy_of,
)
from freqfusion.data.mapper import build_mapper
from freqfusion.data.randomness import seed_from, separate_randomness
from freqfusion.data.reading import in_words
from freqfusion.data.validation.ground_truth import build_ground_truth_check


class ImageTurn(NamedTuple):
    """One turn of an image: its number among all turns of the run, and its index."""

    turn: int
    image: int


def batches(
    indices: Iterable[int], size: int, groups: Sequence[int] | None = None
) -> Iterator[list[ImageTurn]]:
    """Yield the batches of all processes together.

    Args:
        indices: Of images, without end.
        size: Images in a batch.
        groups: For each image the group that it shares batches with; None for one group. A batch
            comes when its group has enough images.
    """
    waiting: dict[int, list[ImageTurn]] = {}
    for turn, index in enumerate(indices):
        batch = waiting.setdefault(groups[index] if groups else 0, [])
        batch.append(ImageTurn(turn, index))
        if len(batch) == size:
            yield batch.copy()
            batch.clear()


def share(batch: Sequence[ImageTurn], rank: int, world_size: int) -> list[ImageTurn]:
    """Return the part of a batch that one process loads; they divide its size."""
    own = len(batch) // world_size
    return list(batch[rank * own : (rank + 1) * own])


logger = logging.getLogger(__name__)

Indices = Callable[[int], Iterator[int]]


class TrainingLoader:
    """Iterates over the batches of this process, without end.

    The same seed gives the same images, changed in the same way, with any number of workers; the
    batches of all processes together are the same for any number of processes.

    Args:
        samples: What is trained on, by the index of an image; may draw random numbers.
        indices: From a seed to the indices of images, without end, for all processes together.
        total_batch_size: Images of all processes in a batch; a multiple of their number.
        groups: For each image the group that it shares batches with.
        seed: Not negative.
        num_workers: Processes that load images; 0 loads them in this one.
    """

    def __init__(
        self,
        samples: Any,
        indices: Indices,
        *,
        total_batch_size: int,
        groups: Sequence[int] | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        self._samples, self._indices = samples, indices
        self._size, self._groups, self._num_workers = total_batch_size, groups, num_workers
        self.seed, self.taken = seed, 0

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield batches from the one on that ``load_state_dict`` has set."""
        loader = DataLoader(
            _Turns(self._samples, self.seed),
            batch_sampler=self._turns(),
            num_workers=self._num_workers,
            collate_fn=list,
            worker_init_fn=_outlive_signals,
            # Its own, because it draws a number that nobody needs.
            generator=torch.Generator().manual_seed(self.seed),
        )
        for batch in loader:
            self.taken += 1
            yield batch

    def _turns(self) -> Iterator[list[ImageTurn]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        stream = batches(self._indices(self.seed), self._size, self._groups)
        for batch in itertools.islice(stream, self.taken, None):
            yield share(batch, rank, world_size)

    def state_dict(self) -> dict[str, int]:
        """Return what ``load_state_dict`` accepts, with what the order depends on."""
        own = {"images": len(self._samples), "batch_size": self._size}
        return {"seed": self.seed, "taken": self.taken} | own

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on behind the batches that were taken; before the first one is requested."""
        own = self.state_dict()
        for key, name in (("images", "images to train on"), ("batch_size", "images in a batch")):
            if state[key] != own[key]:
                logger.warning(
                    "The checkpoint is of a run with %d %s, and now there are %d: the order of the"
                    " images is another one from here on",
                    *(state[key], name, own[key]),
                )
        self.seed, self.taken = int(state["seed"]), int(state["taken"])


def seeded(sampler: Any) -> Indices:
    """Return the order of one of Detectron2's samplers as a function of the seed.

    A sampler is made once, and a resumed run has the seed of its checkpoint. Raises ValueError for
    what is no such sampler, as for a data set that is no list.
    """
    if not hasattr(sampler, "_infinite_indices"):
        raise ValueError("data sets to train on must be lists; got one without indices")

    def indices(seed: int) -> Iterator[int]:
        chosen = sampler
        if isinstance(sampler, RandomSubsetTrainingSampler):
            # Which images are in the subset depends on the seed too; the half is against rounding.
            share = min((sampler._size_subset + 0.5) / sampler._size, 1.0)
            seeds = {"seed_shuffle": seed, "seed_subset": seed}
            chosen = RandomSubsetTrainingSampler(sampler._size, share, **seeds)
        chosen._seed = seed
        stream: Iterator[int] = chosen._infinite_indices()
        return stream

    return indices


def wide_or_high(dicts: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return 1 for wide images, 0 for others, before they are loaded."""

    def wide(one: Mapping[str, Any]) -> int:
        if "width" in one and "height" in one:
            return int(one["width"] > one["height"])
        try:
            with Image.open(one["file_name"]) as image:  # reads the head of the file
                return int(image.width > image.height)
        except (OSError, ValueError, KeyError):
            # Whoever loads it says what is wrong with it.
            return 0

    return [wide(one) for one in dicts]


class _Turns(Dataset[Any]):
    """Map a turn to its image, prepared with random numbers of its own."""

    def __init__(self, samples: Any, seed: int) -> None:
        self._samples, self._seed = samples, seed

    def __getitem__(self, turn: ImageTurn) -> Any:
        with separate_randomness(seed_from(self._seed, turn.turn)):
            return self._samples[turn.image]


def _outlive_signals(_: int) -> None:
    """Let the process that trains finish its step: a machine that goes tells all processes.

    Only that process ends this one, by SIGTERM too; hence a look at who sent the signal.
    """
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait(parent: int) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=wait, args=(parent.pid,), daemon=True).start()


def train_loader(cfg: CfgNode) -> CountedBatches:
    """Return endless batches of ``DATASETS.TRAIN``, augmented as ``INPUT`` says.

    Images come in the order of ``DATALOADER.SAMPLER_TRAIN``; with
    ``DATALOADER.ASPECT_RATIO_GROUPING`` a batch has either wide or high ones. All processes call
    this together.
    """
    mapper = build_mapper(cfg, is_train=True)
    with_names = ", ".join(cfg.DATASETS.TRAIN)
    made = _explained(
        with_names, lambda: build_detection_train_loader.from_config(cfg, mapper=mapper)
    )
    dicts, node, policy = made["dataset"], cfg.DATALOADER, policy_of(cfg)
    entries = DatasetFromList(dicts, copy=False) if isinstance(dicts, list) else dicts
    batches = TrainingLoader(
        CheckedSamples(entries, mapper, policy, replace=True),
        seeded(made["sampler"]),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        groups=wide_or_high(dicts) if node.ASPECT_RATIO_GROUPING else None,
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        num_workers=node.NUM_WORKERS,
    )
    return CountedBatches(batches, SkippedImages(f"training on {with_names}", len(entries), policy))


def evaluation_loader(cfg: CfgNode, name: str) -> CountedBatches:
    """Return the images of a data set, one in a batch, prepared as in a test."""
    arguments = _explained(name, lambda: build_detection_test_loader.from_config(cfg, name))
    mapper = build_mapper(cfg, is_train=False)
    # An evaluator refuses wrong ground truth; to leave the image out is decided before.
    check = build_ground_truth_check(name) if cfg.DATALOADER.BAD_SAMPLES == SKIP else None
    return checked_images(cfg, arguments["dataset"], mapper, name, check)


def checked_images(
    cfg: CfgNode,
    dicts: Any,
    mapper: Mapper,
    name: str,
    check_gt: Callable[[Mapping[str, Any]], None] | None = None,
) -> CountedBatches:
    """Return images of any dicts, one in a batch; each process gets a part of them."""
    policy = policy_of(cfg)
    entries = DatasetFromList(dicts, copy=False) if isinstance(dicts, list) else dicts
    samples = CheckedSamples(entries, mapper, policy, replace=False, check_gt=check_gt)
    batches = build_detection_test_loader(
        samples, mapper=None, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    return CountedBatches(batches, SkippedImages(name, len(entries), policy))


def dataset_dicts(names: list[str]) -> list[dict[str, Any]]:
    """Return all dicts of data sets as ``get_detection_dataset_dicts`` does."""
    dicts: list[dict[str, Any]] = _explained(
        ", ".join(names), lambda: get_detection_dataset_dicts(names, filter_empty=False)
    )
    return dicts


def _explained(names: str, load: Callable[[], Any]) -> Any:
    """Return what ``load`` returns; explain what Detectron2 and pycocotools only assert."""
    try:
        return load()
    except (KeyError, AssertionError, TypeError, IndexError, OverflowError, ValueError) as error:
        kind = "" if isinstance(error, ValueError | AssertionError) else f"{type(error).__name__} "
        raise ValueError(
            f"the annotations of {names} cannot be used: {kind}{in_words(error)};"
            f" python -m freqfusion.tools.check_dataset {names.replace(',', '')} says where"
        ) from error
