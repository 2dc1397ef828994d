"""Builders of the objective, negatives and batches of a run: names become parts, or your own parts are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.core.registry import Registry
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.examples import Rows
from twotower.data.log import Log
from twotower.experiment.mining import miner
from twotower.experiment.run import Run
from twotower.index.registry import build_index
from twotower.losses.base import Loss
from twotower.losses.registry import LOSSES, build_loss
from twotower.models.base import Model, new_item_model
from twotower.models.encode import inference
from twotower.sampling.base import Frequency, Sampler
from twotower.sampling.counts import ItemCounts
from twotower.sampling.drift import Drift
from twotower.sampling.filters import BelowPositive, Hardest, HardFilter, WithinBatchRadius, WithinMargin, WithinRadius
from twotower.sampling.frequency import StreamingFrequency
from twotower.sampling.in_batch import InBatch
from twotower.sampling.index_mined import IndexMined
from twotower.sampling.known import Positives
from twotower.sampling.memory_bank import MemoryBank
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.sum import Sum
from twotower.sampling.uniform import Uniform
from twotower.training.batching import Batching, ClusteredUsers, RandomBatches
from twotower.training.config import Sampling
from twotower.training.objective import AgainstAll, AgainstLabels, AgainstSamples, Objective
from twotower.training.regularise import Regulariser

DRIFT_SAMPLE, DRIFT_EVERY = 256, 100
"""Items that are watched for drift, and optimiser steps between two looks at them."""
CELLS_OF_ITEM, MOST_CELLS = 4, 1 << 22
"""Cells that each array of the streaming frequency has for an item, and in all at most."""


@dataclass(frozen=True)
class BuildContext:
    """Hold the run, data, training log and model that factories of samplers, losses and batches read."""

    run: Run
    dataset: Dataset
    train: Log
    model: Model

    @property
    def sampling(self) -> Sampling:
        """Return the section of the run."""
        return self.run.sampling

    @property
    def num_items(self) -> int:
        """Return the rows of the item vocabulary."""
        return self.dataset.schema.num_items

    def generator(self, purpose: str) -> torch.Generator:
        """Return the generator of one source, on the device of the batches."""
        return torch_generator(self.run.training.seed, "sampling", purpose, device=self.dataset.device)

    @cached_property
    def counts(self) -> ItemCounts:
        """Return how often each item occurs in the training log."""
        return ItemCounts(self.train.positives().items, self.num_items)

    @cached_property
    def frequency(self) -> Frequency:
        """Return the frequency that log q is computed from, one for all sources.

        The in-batch source feeds it, others read it.
        """
        if self.sampling.frequency == "counts":
            return self.counts
        width = min(CELLS_OF_ITEM * self.num_items, MOST_CELLS)
        return StreamingFrequency(width, seed=self.run.training.seed, device=self.dataset.device)

    def need_inner_product(self, what: str) -> None:
        """Refuse a model whose score is no inner product.

        Raises:
            InputError: names what asked for it.
        """
        if not self.model.inner_product:
            raise InputError(
                f"{what} needs one vector a user and an item, scored by inner product, and model "
                f"'{self.run.model.name}' has another score"
            )

    def need_vectors(self, what: str) -> None:
        """Refuse a model whose states are not one vector each.

        Raises:
            InputError: names what asked for them.
        """
        if not self.model.has_vectors:
            raise InputError(f"{what} needs one vector a user and an item, but model '{self.run.model.name}' has none")


def _in_batch(context: BuildContext) -> InBatch:
    sampling = context.sampling
    return InBatch(context.frequency if sampling.correct else None, count=sampling.in_batch_number or None)


def _uniform(context: BuildContext) -> Uniform:
    return Uniform(context.num_items, context.sampling.number, context.generator("uniform"))


def _popularity(context: BuildContext) -> Popularity:
    return Popularity(context.counts.counts, context.sampling.number, context.generator("popularity"))


def _mixed(context: BuildContext) -> Mixed:
    return Mixed([InBatch(context.frequency, count=context.sampling.in_batch_number or None), _uniform(context)])


def _memory_bank(context: BuildContext) -> MemoryBank:
    sampling = context.sampling
    return MemoryBank(
        sampling.number,
        context.run.training.batch_size,
        context.frequency,
        count=sampling.in_batch_number or None,
        start=_drift(context) if sampling.bank_drift else sampling.bank_start,
        state_kind=context.model.item_store.kind,
    )


def _drift(context: BuildContext) -> Drift:
    context.need_vectors("sampling.bank_drift")
    model, dataset = context.model, context.dataset
    seen = (context.counts.counts > 0).nonzero()[:, 0]
    order = torch.randperm(len(seen), generator=context.generator("drift"), device=seen.device)

    def encode(ids: Tensor) -> Tensor:
        with inference(model):
            vectors: Tensor = model.encode_items(dataset.items(ids))
            return vectors

    return Drift(encode, seen[order[:DRIFT_SAMPLE]], every=DRIFT_EVERY, threshold=context.sampling.bank_drift)


def _index_mined(context: BuildContext) -> IndexMined:
    context.need_inner_product("sampling.sources: index_mined")
    sampling, known, section = context.sampling, context.num_items - FIRST_KNOWN, context.run.index
    first, last = sampling.mine_ranks
    if last >= known:
        raise InputError(f"sampling.mine_ranks: rank {last} of {known} items; lower the last rank")
    return IndexMined(
        miner(
            context.model,
            context.dataset,
            context.train,
            lambda: build_index(section.kind, section.settings, context.model),
        ),
        context.dataset.schema.num_users,
        sampling.mine_number,
        context.generator("index mined"),
        first=first,
        last=last,
        refresh=sampling.mine_every,
        start=sampling.mine_start,
    )


SAMPLERS: Registry[Callable[[BuildContext], Sampler]] = Registry(
    "source of negatives",
    "twotower.SAMPLERS",
    {
        "in_batch": _in_batch,
        "uniform": _uniform,
        "popularity": _popularity,
        "mixed": _mixed,
        "memory_bank": _memory_bank,
        "index_mined": _index_mined,
    },
    group="twotower.samplers",
)
"""Functions or classes, called with the `BuildContext`. Add one of ours by its file and one function here."""

FILTERS: dict[str, Callable[[Sampling], HardFilter | None]] = {
    "none": lambda sampling: None,
    "hardest": lambda sampling: Hardest(sampling.hard_number),
    "radius": lambda sampling: WithinRadius(),
    "batch_radius": lambda sampling: WithinBatchRadius(),
    "margin": lambda sampling: WithinMargin(sampling.hard_margin),
    "below_positive": lambda sampling: BelowPositive(sampling.hard_margin),
}


def build_sampler(context: BuildContext) -> Sampler:
    """Build the run's sources, joined when there are several.

    Raises:
        InputError: if a source is unknown (the closest is named), asks for more negatives than there are items, or
            cannot work with the model or with the other sources.
    """
    sampling, sources = context.sampling, []
    for name in sampling.sources:
        try:
            source = SAMPLERS.get(name)
        except InputError as error:
            raise InputError(f"sampling.sources: {error}") from None
        sources.append(source(context))
    if sampling.sources == ("memory_bank",):
        raise InputError("sampling.sources: a memory bank starts empty, so join it: ['in_batch', 'memory_bank']")
    if sampling.frequency == "streaming" and not _reads_batch(sampling):
        raise InputError("sampling.frequency: 'streaming' learns from in_batch or mixed; name one in sampling.sources")
    if sampling.in_batch_number > context.run.training.batch_size:
        raise InputError(
            f"sampling.in_batch_number: {sampling.in_batch_number} of the {context.run.training.batch_size} rows of a "
            "batch; lower it, or raise training.batch_size"
        )
    return sources[0] if len(sources) == 1 else Sum(sources)


def _reads_batch(sampling: Sampling) -> bool:
    return bool({"in_batch", "mixed"} & set(sampling.sources))


@dataclass(frozen=True)
class Parts:
    """Hold parts given as objects, in place of those that the run names."""

    loss: Loss | None = None
    sampler: Sampler | None = None


def build_objective(run: Run, dataset: Dataset, train: Log, model: Model, parts: Parts | None = None) -> Objective:
    """Build the objective of a training step; ``parts`` replace what the run names.

    Raises:
        InputError: if loss, sources and filter do not suit each other, the model or the log.
    """
    loss, sampling, parts = run.objective.loss, run.sampling, parts or Parts()
    LOSSES.get(loss)
    if run.objective.regularise and not model.has_vectors:
        raise InputError(f"model '{run.model.name}' has no vectors of one piece: remove objective.regularise")
    regulariser = Regulariser(run.objective.regularise)
    labelled = loss == "bce" and train.labels is not None
    if sampling.hard != "none" and (loss == "full_softmax" or labelled):
        raise InputError(f"sampling.hard = '{sampling.hard}' narrows sampled negatives, but objective.loss draws none")
    if loss == "full_softmax":
        if not model.inner_product:
            raise InputError(
                f"model '{run.model.name}' scores no inner product: set objective.loss = 'sampled_softmax'; or, for "
                "a pre-ranker, data.split = 'pre-ranking' and objective.loss = 'bce'"
            )
        serves_new = new_item_model(model) is not None
        return AgainstAll(dataset, regulariser, seen_items(dataset, train.positives()) if serves_new else None)
    if labelled:
        return AgainstLabels(regulariser)
    context = BuildContext(run, dataset, train, model)
    if sampling.hard in ("radius", "batch_radius"):
        context.need_inner_product(f"sampling.hard = '{sampling.hard}'")
    if sampling.correct_positive and (
        loss != "sampled_softmax" or not _reads_batch(sampling) or sampling.in_batch_number
    ):
        raise InputError(
            "sampling.correct_positive needs objective.loss = 'sampled_softmax' and in_batch or mixed with all rows"
        )
    positives = train.positives()
    return AgainstSamples(
        dataset,
        parts.sampler or build_sampler(context),
        parts.loss or build_loss(loss, context.num_items - FIRST_KNOWN),
        Positives(positives.offsets, positives.items, dataset.schema.num_items),
        regulariser,
        hard=FILTERS[sampling.hard](sampling),
        rescale_bank=sampling.bank_rescale,
        correct_positive=sampling.correct_positive,
    )


def seen_items(dataset: Dataset, train: Log) -> Tensor:
    """Return whether each item row has an event in the log that is trained on: bool [items]."""
    return train.items.bincount(minlength=dataset.schema.num_items).to(dataset.device) > 0


def build_batching(run: Run, dataset: Dataset, train: Log, rows: Rows, model: Model) -> Batching:
    """Build the batching of a run: which rows share a batch.

    Raises:
        InputError: if clusters cannot be had of these rows or this model, or would change nothing.
    """
    training = run.training
    if run.sampling.batches == "random":
        return RandomBatches(len(rows), training.batch_size, seed=training.seed)
    BuildContext(run, dataset, train, model).need_vectors("sampling.batches = 'clustered'")
    if run.objective.loss == "full_softmax" or not _reads_batch(run.sampling):
        raise InputError(
            "sampling.batches = 'clustered' makes the items of a batch hard negatives: "
            "take in_batch or mixed in sampling.sources and a loss that samples"
        )
    return ClusteredUsers(
        rows, dataset, train, batch_size=training.batch_size, schedule=run.clusters, seed=training.seed
    )
