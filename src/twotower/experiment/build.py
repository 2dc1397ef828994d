"""Builders of the objective, negatives and batches of a run: names become parts, or your own parts are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.data.examples import Rows
from twotower.data.log import Log
from twotower.experiment.context import BuildContext
from twotower.experiment.run import Run
from twotower.experiment.sources import build_sampler, check_sources, reads_batch
from twotower.losses.base import Loss
from twotower.losses.registry import LOSSES, build_loss
from twotower.models.base import Model, new_item_model
from twotower.sampling.base import Sampler
from twotower.sampling.filters import BelowPositive, Hardest, HardFilter, WithinBatchRadius, WithinMargin, WithinRadius
from twotower.sampling.known import Positives
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.all_scores import AgainstAllScores
from twotower.training.batching import Batching, ClusteredUsers, RandomBatches
from twotower.training.config import Sampling
from twotower.training.distributed import World
from twotower.training.objective import AgainstLabels, Objective
from twotower.training.regularise import Regulariser

FILTERS: dict[str, Callable[[Sampling], HardFilter | None]] = {
    "none": lambda sampling: None,
    "hardest": lambda sampling: Hardest(sampling.hard_number),
    "radius": lambda sampling: WithinRadius(),
    "batch_radius": lambda sampling: WithinBatchRadius(),
    "margin": lambda sampling: WithinMargin(sampling.hard_margin),
    "below_positive": lambda sampling: BelowPositive(sampling.hard_margin),
}


@dataclass(frozen=True)
class Parts:
    """Hold parts given as objects, in place of those that the run names."""

    loss: Loss | None = None
    sampler: Sampler | None = None


def build_objective(
    run: Run,
    dataset: Dataset,
    train: Log,
    model: Model,
    parts: Parts | None = None,
    *,
    world: World | None = None,
) -> Objective:
    """Build the objective of a training step; ``parts`` replace what the run names.

    Raises:
        InputError: if loss, sources and filter do not suit each other, the model or the log.
    """
    loss, sampling, parts = run.objective.loss, run.sampling, parts or Parts()
    reads_positive = getattr(parts.loss or LOSSES.get(loss), "reads_positive_log_q", False)
    check_sources(sampling)
    if run.objective.regularise and not model.has_vectors:
        raise InputError(f"objective.regularise needs one vector a user and an item; model '{run.model.name}' has none")
    regulariser = Regulariser(run.objective.regularise)
    labelled = loss == "bce" and train.labels is not None
    if sampling.hard != "none" and (loss == "full_softmax" or labelled):
        raise InputError(f"sampling.hard = '{sampling.hard}' narrows sampled negatives, but objective.loss draws none")
    if loss == "full_softmax":
        if not model.scores_all:
            raise InputError(
                f"full_softmax needs a model whose score is an inner product, and '{run.model.name}' is none: set "
                "objective.loss = 'sampled_softmax'; or, for a pre-ranker, data.split = 'pre-ranking' and "
                "objective.loss = 'bce'"
            )
        if not model.inner_product:
            return AgainstAllScores(dataset)
        serves_new = new_item_model(model) is not None
        return AgainstAll(
            dataset, regulariser, item_events(dataset, train.positives()) > 0 if serves_new else None, world=world
        )
    if labelled:
        return AgainstLabels(regulariser, world=world)
    context = BuildContext(run, dataset, train, model)
    if sampling.hard in ("radius", "batch_radius"):
        context.need_inner_product(f"sampling.hard = '{sampling.hard}'")
    own = sampling.source("in_batch", "mixed")
    if sampling.correct_positive and (not reads_positive or not own or own.settings.get("rows")):
        raise InputError(
            "sampling.correct_positive needs a loss that reads it, such as objective.loss = 'sampled_softmax', and "
            "in_batch or mixed with all rows"
        )
    positives, bank = train.positives(), sampling.source("memory_bank")
    return AgainstSamples(
        dataset,
        parts.sampler or build_sampler(context),
        parts.loss or build_loss(loss, context.num_items - FIRST_KNOWN),
        Positives(positives.offsets, positives.items, dataset.schema.num_items).to(dataset.device),
        regulariser,
        hard=FILTERS[sampling.hard](sampling),
        rescale_bank=bank is not None and bool(bank.settings.get("rescale")),
        correct_positive=sampling.correct_positive,
        world=world,
    )


def item_events(dataset: Dataset, train: Log) -> Tensor:
    """Return how many events each item row has in the log that is trained on: int64 [items]."""
    return train.items.bincount(minlength=dataset.schema.num_items).to(dataset.device)


def build_batching(run: Run, dataset: Dataset, train: Log, rows: Rows, model: Model) -> Batching:
    """Build the batching of a run: which rows share a batch.

    Raises:
        InputError: if clusters cannot be had of these rows or this model, or would change nothing.
    """
    training = run.training
    if run.sampling.batches == "random":
        pinned = dataset.device.type == "cuda"
        return RandomBatches(len(rows), training.batch_size, seed=training.seed, pinned=pinned)
    BuildContext(run, dataset, train, model).need_vectors("sampling.batches = 'clustered'")
    if run.objective.loss == "full_softmax" or not reads_batch(run.sampling):
        raise InputError(
            "sampling.batches = 'clustered' makes the items of a batch hard negatives: "
            "take in_batch or mixed in sampling.sources and a loss that samples"
        )
    return ClusteredUsers(
        rows, dataset, train, batch_size=training.batch_size, schedule=run.clusters, seed=training.seed
    )
