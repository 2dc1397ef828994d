"""Training part of a run: fit a closed form, or train with validation and, if set, once more on all events."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.records import FIRST_KNOWN
from twotower.core.seeds import derive
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows, Rows, SequenceRows
from twotower.data.log import Log
from twotower.data.split import Split, Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.build import Parts, build_batching, build_objective, item_events
from twotower.experiment.choose import LimitsTries, fit_closed_form
from twotower.experiment.run import IndexSection, Run
from twotower.experiment.several import check_model, shared_metrics
from twotower.index.base import ModelIndex
from twotower.index.registry import build_index, index_class, serves
from twotower.models.base import (
    ClosedForm,
    Model,
    OffersChoices,
    StartsFromLog,
    UsesCodes,
    attach_items,
    attach_users,
    new_item_model,
    reads_times,
)
from twotower.models.encode import training_length
from twotower.models.registry import build_model
from twotower.models.size import check_batch_size, check_scores_size, check_training_size
from twotower.towers.shared_table import shared_out
from twotower.training.against_samples import AgainstSamples
from twotower.training.callbacks import Callback, EpochRecord, JsonLines
from twotower.training.curves import Curves
from twotower.training.distributed import World
from twotower.training.feed import AHEAD
from twotower.training.gradient_cache import GradientCached, check_in_parts
from twotower.training.list_lengths import ListLengths
from twotower.training.loop import Validate, fit
from twotower.training.objective import AgainstLabels
from twotower.training.state import Progress
from twotower.training.tracking import Tracking

logger = logging.getLogger(__name__)


def learn(
    run: Run,
    dataset: Dataset,
    split: Split,
    *,
    folder: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    parts: Parts | None = None,
    world: World | None = None,
    start: Model | None = None,
) -> tuple[Model, list[EpochRecord]]:
    """Train a model on the split, with one record for each epoch (none for closed forms).

    Args:
        run: what to learn, and how.
        dataset: on the device to learn on.
        split: its ``train``, or with ``training.refit`` in the end its ``known``.
        folder: for logs and checkpoints; None keeps none.
        resume: go on from the checkpoints in ``folder``.
        callbacks: told of every epoch; of a closed form's tries one that `LimitsTries`.
        parts: loss and sampler handed over as objects.
        world: the processes that train as one.
        start: the same model with the weights to begin from, which stays as it is; None: they are drawn. A last fit
            (``training.refit``) begins from drawn ones all the same.
    """
    world = world or World()
    with world.together():
        model = new_model(run, dataset)
        if start is not None:
            model.load_state_dict(start.state_dict())
        check_model(world, run, model)
    if model.batches == "sequences" and not dataset.is_ordered:
        logger.warning(
            "data set '%s' has no order, and '%s' learns from order: it is trained on one that was drawn; name a time "
            "column, or prepare with unit = 'order' where the order of the file is real",
            dataset.name,
            run.model.name,
        )
    if isinstance(model, ClosedForm) and not (isinstance(model, OffersChoices) and model.undecided):
        model.fit_log(learnt_log(run, split))
        return model, []
    metric_length(run.training.metric)  # refused before anything is trained

    def validate(current: Model) -> dict[str, float]:
        own = World() if shared_out(current) else world  # ranks that look rows up together judge the same users
        return shared_metrics(own, split.validation, lambda part: ranked(current, run, dataset, part))

    if isinstance(model, OffersChoices):
        metric = run.training.metric
        fit_closed_form(
            model,
            split,
            learnt_log(run, split),
            lambda one: metric_of(validate(one), metric),
            metric=metric,
            limit=next((one for one in callbacks if isinstance(one, LimitsTries)), None),
        )
        return model, []

    own_sampler = parts is not None and parts.sampler is not None

    def train(model: Model, log: Log, name: str, validate: Validate | None, epochs: int | None) -> Progress:
        with world.together():
            objective = build_objective(run, dataset, log, model, parts, world=world)
            if not isinstance(objective, AgainstLabels):
                log = log.positives()
            rows = _rows(run, dataset, log, model)
            check_batches(run, rows, model, world, sampled=isinstance(objective, AgainstSamples) and not own_sampler)
            if run.training.encode_rows:
                check_in_parts(model, run.model.name)
                objective = GradientCached(objective, run.training.encode_rows)
            events = item_events(dataset, log)
            batching = build_batching(run, dataset, log, rows, model)

        def settled(current: Model) -> dict[str, float]:
            settle(current, dataset, events)
            return validate(current) if validate is not None else {}

        if isinstance(model, StartsFromLog) and (start is None or name == "refit"):
            model.start_from(log)
        progress = fit(
            model,
            rows,
            objective,
            run.training,
            batching=batching,
            validate=None if validate is None else settled,
            epochs=epochs,
            world=world,
            ahead=AHEAD if dataset.is_near else 0,
            **kept_in(folder, name, [*watch, *callbacks], resume, world, metric=run.training.metric),
        )
        settle(model, dataset, events)
        return progress

    watch: list[Callback] = []
    if run.training.geometry != "off":
        if not model.has_vectors:
            raise InputError(f"model '{run.model.name}' has no item vectors to watch: set training.geometry = 'off'")
        judged = run.training.metric if run.training.evaluate_every else None
        watch.append(Tracking(dataset, mode=run.training.geometry, metric=judged))
    if isinstance(model, UsesCodes):
        watch.append(ListLengths(dataset))
    progress = train(model, split.train, "train", validate, None)
    if run.training.refit:
        model = new_model(run, dataset)
        watch.clear()  # it judges evaluations, and there are none
        train(model, split.known, "refit", None, progress.best_epoch)
    return model, progress.records


def _rows(run: Run, dataset: Dataset, log: Log, model: Model) -> Rows:
    """The training rows of a log, with what the model reads and no more."""
    length, features = training_length(model), run.objective.loss != "full_softmax"
    if model.batches == "sequences":
        one_width = run.training.compile
        return SequenceRows(dataset, log, history_length=length, item_features=features, one_width=one_width)
    return EventRows(dataset, log, history_length=length, item_features=features, times=reads_times(model))


def check_batches(run: Run, rows: Rows, model: Model, world: World, *, sampled: bool) -> None:
    """Refuse batches that the memory does not hold.

    Args:
        run: with batch size and sources of negatives.
        rows: that are cut into batches.
        model: on the device of the steps.
        world: the processes that share a batch.
        sampled: whether negatives come from the run's sources.

    Raises:
        InputError: with what is needed and what is there.
    """
    number, name = min(run.training.batch_size, len(rows)), run.model.name
    pairs = number
    if isinstance(rows, SequenceRows):  # as long as the longest of a batch, whatever the model could read
        pairs = int(number * rows.lengths.double().mean())
    else:
        check_batch_size(number, training_length(model), name)
    own = run.sampling.source("in_batch", "mixed")
    if sampled and own is not None and not model.draws_rows:
        candidates = min(own.settings.get("rows") or pairs, pairs)
        width = 2 if run.training.precision == "bfloat16" else 4
        device = next(model.parameters()).device
        check_scores_size(-(-pairs // world.size), candidates, name, device, width=width)


def validation_metrics(model: Model, run: Run, dataset: Dataset, split: Split) -> dict[str, float]:
    """Return the metrics of the validation part, at the list length of ``training.metric``."""
    return ranked(model, run, dataset, split.validation).metrics


def ranked(model: Model, run: Run, dataset: Dataset, targets: Targets) -> Result:
    """Rank the catalogue for some users of the validation part, at the list length of ``training.metric``."""
    protocol = Protocol(
        ks=(metric_length(run.training.metric),), split="validation", mask_seen=run.evaluation.mask_seen
    )
    return evaluate(model, dataset, targets, protocol)


def settle(model: Model, dataset: Dataset, events: Tensor) -> None:
    """Let a model that serves new items represent those that have no training event (0 in ``events``)."""
    serving = new_item_model(model)
    if serving is not None:
        new = events == 0
        new[:FIRST_KNOWN] = False
        serving.settle_items(new, events, dataset.all_items())


def kept_in(
    folder: Path | None, name: str, callbacks: Sequence[Callback], resume: bool, world: World, *, metric: str
) -> dict[str, Any]:
    """Return callbacks, curves and checkpoint of one training phase, written to ``folder`` if there is one."""
    if folder is None:
        return {"callbacks": callbacks}
    checkpoint, lines = folder / f"{name}.safetensors", folder / f"{name}.jsonl"
    return {
        "callbacks": [*callbacks, *([] if world.rank else [JsonLines(lines), Curves(lines, metric)])],
        "checkpoint": checkpoint,
        "resume": world.first(resume and checkpoint.is_file()),
    }


def learnt_log(run: Run, split: Split) -> Log:
    """Return the events that the run's final model was trained on."""
    return split.known if run.training.refit else split.train


def new_model(run: Run, dataset: Dataset) -> Model:
    """Return the run's model with weights drawn from the run's seed, on the data set's device.

    Raises:
        InputError: if the run's index cannot serve the model, or it needs more memory than is free.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(derive(run.training.seed, "weights"))
        model = build_model(run.model.name, dataset.schema, run.model.settings).to(dataset.device)
    if run.index != IndexSection() and not serves(run.index.kind, inner_product=model.inner_product):
        raise InputError(
            f"index.kind = '{run.index.kind}' finds inner products, and model '{run.model.name}' has another score: "
            "leave [index] out, or set index.kind = 'brute_force' or 'nominate'"
        )
    if run.index != IndexSection() and issubclass(index_class(run.index.kind), ModelIndex):
        build_index(run.index.kind, run.index.settings, model)  # refused here, where it is, and not after training
    check_training_size(model, run.model.name, run.model.settings, run.training.optimizer)
    if shared_out(model):
        model.in_one_shape = True  # ranks look the same number of times
    attach_items(model, dataset.all_items())
    attach_users(model, {name: column.to(dataset.device) for name, column in dataset.user_features.items()})
    return model


def metric_of(metrics: dict[str, float], name: str) -> float:
    """Return the metric that validation uses.

    Raises:
        InputError: if validation does not give it; says what it gives.
    """
    if name not in metrics:
        raise InputError(f"training.metric is {shown(name)}, but validation gives {', '.join(metrics)}")
    return metrics[name]


def metric_length(metric: str) -> int:
    """Return the k of a metric such as "ndcg@10".

    Raises:
        InputError: if it has none.
    """
    _, at, k = metric.partition("@")
    if not at or not k.isdecimal() or int(k) < 1:
        raise InputError(f"training.metric {shown(metric)}: write name@k, such as ndcg@10")
    return int(k)
