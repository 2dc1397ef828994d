"""Sources of negatives by name: functions or classes called with the `BuildContext` and the source's own settings.

Add one of ours by its file under `sampling` and one function here; one of your own by `SAMPLERS.register`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.records import FIRST_KNOWN
from twotower.core.registry import Registry
from twotower.experiment.context import BuildContext
from twotower.experiment.mining import miner
from twotower.index.registry import build_index
from twotower.models.encode import inference
from twotower.sampling.base import Sampler
from twotower.sampling.drift import EmbeddingDrift
from twotower.sampling.in_batch import InBatch
from twotower.sampling.index_mined import IndexMined
from twotower.sampling.memory_bank import MemoryBank
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.sum import Sum
from twotower.sampling.uniform import Uniform
from twotower.training.config import Sampling
from twotower.training.sources import wrong_kind

DRIFT_SAMPLE, DRIFT_EVERY = 256, 100
"""Items that are watched for drift, and optimiser steps between two looks at them."""


def _in_batch(context: BuildContext, *, rows: int = 0) -> InBatch:
    """Take the items of the other rows of the batch.

    Args:
        context: of the run.
        rows: rows of a batch whose items are taken; 0: all.
    """
    return InBatch(context.frequency if context.sampling.correct else None, count=context.rows("in_batch", rows))


def _uniform(context: BuildContext, *, number: int = 256) -> Uniform:
    """Draw items evenly.

    Args:
        context: of the run.
        number: draws a batch.
    """
    return Uniform(context.num_items, number, context.generator("uniform"))


def _popularity(context: BuildContext, *, number: int = 256) -> Popularity:
    """Draw items by their number of training events.

    Args:
        context: of the run.
        number: draws a batch.
    """
    return Popularity(context.counts.counts, number, context.generator("popularity"))


def _mixed(context: BuildContext, *, number: int = 256, rows: int = 0) -> Mixed:
    """Join in-batch items and even draws under one log q (mixed negative sampling).

    Args:
        context: of the run.
        number: even draws a batch.
        rows: rows of a batch whose items are taken; 0: all.
    """
    return Mixed([InBatch(context.frequency, count=context.rows("mixed", rows)), _uniform(context, number=number)])


def _memory_bank(
    context: BuildContext,
    *,
    number: int = 256,
    rows: int = 0,
    start: int = 0,
    drift: float = 0.0,
    rescale: bool = False,
) -> MemoryBank:
    """Keep item states of earlier steps (cross-batch negatives).

    Args:
        context: of the run.
        number: places of the bank.
        rows: rows of a batch whose items the bank keeps; 0: all.
        start: optimiser steps before the bank gives negatives; it fills from the first.
        drift: instead of a number of steps: the bank starts once sampled items move less than this in 100 steps, as a
            mean squared distance; 0: not used.
        rescale: whether the batch's items take the gradient that the bank's cannot; as published they do not.
    """
    del rescale  # the objective reads it
    if start and drift:
        raise InputError("sampling.sources.memory_bank: the bank begins by start or by drift; set one of them")
    return MemoryBank(
        number,
        context.run.training.batch_size,
        context.frequency,
        count=context.rows("memory_bank", rows),
        start=_drift(context, drift) if drift else start,
        state_kind=context.model.item_store.kind,
    )


def _drift(context: BuildContext, threshold: float) -> EmbeddingDrift:
    context.need_vectors("sampling.sources.memory_bank.drift")
    model, dataset = context.model, context.dataset
    seen = (context.counts.counts > 0).nonzero()[:, 0]
    order = torch.randperm(len(seen), generator=context.generator("drift"), device=seen.device)

    def encode(ids: Tensor) -> Tensor:
        with inference(model):
            vectors: Tensor = model.encode_items(dataset.items(ids))
            return vectors

    return EmbeddingDrift(encode, seen[order[:DRIFT_SAMPLE]], every=DRIFT_EVERY, threshold=threshold)


def _index_mined(
    context: BuildContext, *, number: int = 8, ranks: tuple[int, ...] = (10, 99), every: int = 1000, start: int = 0
) -> IndexMined:
    """Draw among the items that an index finds for each user, positives left out (mined hard negatives).

    Args:
        context: of the run.
        number: negatives that each row gets.
        ranks: first and last rank, counted from 0, among which to draw.
        every: optimiser steps between searches.
        start: optimiser steps before the first search.
    """
    context.need_inner_product("sampling.sources: index_mined")
    place, known, section = "sampling.sources.index_mined", context.num_items - FIRST_KNOWN, context.run.index
    if len(ranks) != 2 or ranks[0] > ranks[1]:
        raise InputError(f"{place}.ranks must be a first and a last rank, such as [10, 99], got {list(ranks)}")
    if every < 1:
        raise InputError(f"{place}.every must be at least 1, got {every}")
    first, last = ranks
    if last >= known:
        raise InputError(f"{place}.ranks: rank {last} of {known} items; lower the last rank")
    return IndexMined(
        miner(
            context.model,
            context.dataset,
            context.train,
            lambda: build_index(section.kind, section.settings, context.model),
        ),
        context.dataset.schema.num_users,
        number,
        context.generator("index mined"),
        first=first,
        last=last,
        refresh=every,
        start=start,
    )


SAMPLERS: Registry[Callable[..., Sampler]] = Registry(
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
"""Called with the `BuildContext`; keyword-only parameters are the settings of the source's table in the run."""


def source_parameters(name: str) -> dict[str, Any] | None:
    """Return the settings that a source takes and their defaults; None where it takes any.

    Raises:
        InputError: if no source has that name; names the closest.
    """
    try:
        factory = SAMPLERS.get(name)
    except InputError as error:
        raise InputError(f"sampling.sources: {error}") from None
    parameters = inspect.signature(factory).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return None
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def check_sources(sampling: Sampling) -> None:
    """Check the names and settings of all sources before one is built.

    Raises:
        InputError: for an unknown source or setting (the closest is named), or a value of another kind than its
            default; names the source and the key.
    """
    for source in sampling.sources:
        known = source_parameters(source.name)
        for key, value in source.settings.items():
            place = f"sampling.sources.{source.name}"
            if known is None:
                continue
            if key not in known:
                raise unknown_name(
                    f"setting of source '{source.name}'", f"{place}.{key}", [f"{place}.{k}" for k in known]
                )
            wanted = wrong_kind(value, known[key])
            if wanted:
                raise InputError(f"{place}.{key} must be {wanted}, got {shown(value)}")


def build_sampler(context: BuildContext) -> Sampler:
    """Build the run's sources, joined when there are several.

    Raises:
        InputError: if a source is unknown (the closest is named), asks for more negatives than there are items, or
            cannot work with the model or with the other sources.
    """
    sampling = context.sampling
    check_sources(sampling)
    sources = [SAMPLERS.get(source.name)(context, **_with_tuples(source.settings)) for source in sampling.sources]
    if [source.name for source in sampling.sources] == ["memory_bank"]:
        raise InputError("sampling.sources: a memory bank starts empty, so join it: ['in_batch', 'memory_bank']")
    if sampling.frequency == "streaming" and not reads_batch(sampling):
        raise InputError("sampling.frequency: 'streaming' learns from in_batch or mixed; name one in sampling.sources")
    return sources[0] if len(sources) == 1 else Sum(sources)


def _with_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a builder takes them: TOML has lists alone."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def reads_batch(sampling: Sampling) -> bool:
    """Return whether the batch's own items are negatives."""
    return sampling.source("in_batch", "mixed") is not None
