"""Names in a run become parts: add a sampler or a loss by writing its file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from twotower.core.errors import InputError, unknown_name
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.losses.base import Loss
from twotower.losses.pairwise import BPR, Triplet
from twotower.losses.pointwise import SampledBCE
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.ops.membership import Positives
from twotower.recipes.run import Run
from twotower.sampling.base import Sampler
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.memory_bank import MemoryBank
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.sum import Sum
from twotower.sampling.uniform import Uniform
from twotower.training.objective import AgainstAll, AgainstLabels, AgainstSamples, Objective
from twotower.training.regularise import Regulariser


class Ground(NamedTuple):
    """What samplers and losses are built on."""

    run: Run
    train: Log
    num_items: int
    device: torch.device

    def generator(self, purpose: str) -> torch.Generator:
        """The generator of one source, on the device of the batches."""
        return torch_generator(self.run.training.seed, "sampling", purpose, device=self.device)

    def counts(self) -> ItemCounts:
        """How often each item stands in the training log."""
        return ItemCounts(self.train.positives().items, self.num_items)


def _in_batch(ground: Ground) -> InBatch:
    return InBatch(ground.counts() if ground.run.sampling.correct else None)


def _uniform(ground: Ground) -> Uniform:
    return Uniform(ground.num_items, ground.run.sampling.number, ground.generator("uniform"))


def _popularity(ground: Ground) -> Popularity:
    return Popularity(ground.counts().counts, ground.run.sampling.number, ground.generator("popularity"))


def _mixed(ground: Ground) -> Mixed:
    return Mixed([InBatch(ground.counts()), _uniform(ground)])


def _memory_bank(ground: Ground) -> MemoryBank:
    return MemoryBank(ground.run.sampling.number, ground.run.training.batch_size, ground.counts())


SAMPLERS: dict[str, Callable[[Ground], Sampler]] = {
    "in_batch": _in_batch,
    "uniform": _uniform,
    "popularity": _popularity,
    "mixed": _mixed,
    "memory_bank": _memory_bank,
}

LOSSES: dict[str, Callable[[Ground], Loss]] = {
    "sampled_softmax": lambda ground: SampledSoftmax(),
    "bce": lambda ground: SampledBCE(),
    "gbce": lambda ground: SampledBCE(num_items=ground.num_items - 2, calibration=0.75),
    "bpr": lambda ground: BPR(),
    "triplet": lambda ground: Triplet(),
}


def build_sampler(ground: Ground) -> Sampler:
    """The run's sources, joined when there are several.

    Raises:
        InputError: if a source is unknown (the closest is named) or asks for more negatives than there are items.
    """
    sources = []
    for name in ground.run.sampling.sources:
        if name not in SAMPLERS:
            raise unknown_name("source of negatives", name, SAMPLERS, "sampling.sources")
        sources.append(SAMPLERS[name](ground))
    if ground.run.sampling.sources == ("memory_bank",):
        raise InputError("sampling.sources: a memory bank starts empty, so join it: ['in_batch', 'memory_bank']")
    return sources[0] if len(sources) == 1 else Sum(sources)


def build_objective(run: Run, dataset: Dataset, train: Log, *, is_inner_product: bool = True) -> Objective:
    """What a training step minimises.

    Raises:
        InputError: if the loss does not suit the model or the log.
    """
    loss = run.objective.loss
    if run.objective.regularise and not is_inner_product:
        raise InputError(f"model '{run.model.name}' has no vectors of one piece: remove objective.regularise")
    regulariser = Regulariser(run.objective.regularise)
    if loss == "full_softmax":
        if not is_inner_product:
            raise InputError(
                f"model '{run.model.name}' scores no inner product: set objective.loss = 'sampled_softmax'"
            )
        return AgainstAll(dataset, regulariser)
    if loss == "bce" and train.labels is not None:
        return AgainstLabels(regulariser)
    ground = Ground(run, train, dataset.schema.num_items, dataset.device)
    positives = train.positives()
    known = Positives(positives.offsets, positives.items, dataset.schema.num_items)
    return AgainstSamples(dataset, build_sampler(ground), LOSSES[loss](ground), known, regulariser)
