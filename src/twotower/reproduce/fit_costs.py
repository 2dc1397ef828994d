"""Costs of pre-rankers: training of an epoch, latency of a request, bytes of an item, user passes, parameters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from twotower.core.records import FIRST_KNOWN, State
from twotower.core.states import rows, to_tensors
from twotower.data.dataset import Dataset
from twotower.evaluation.latency import Answer, answer_of, drawn_requests, percentile, take_turns
from twotower.experiment.candidates import learn_pairs
from twotower.experiment.labelled_pairs import pairs_of
from twotower.experiment.learn import new_model
from twotower.experiment.run import Run
from twotower.models.base import Model, prepare_serving
from twotower.models.encode import encode_items
from twotower.models.fit.model import FIT
from twotower.models.prerank.cold import COLD
from twotower.training.callbacks import Silent, StopTraining

ANSWER = 100
CANDIDATES = 2_000
CURVE = (100, 300, 1_000, 2_000, 5_000, 10_000, 30_000, 100_000)
REQUESTS, CURVE_REQUESTS = 200, 20
WARM_UPS = 5
STEPS = {"cpu": 8, "cuda": 40}
FIRST_STEPS = 3
ITEM_TILE = 8_192

Costs = dict[str, dict[str, Any]]


def cost_sheet(
    runs: Mapping[str, Run], dataset: Dataset, *, requests: int = REQUESTS, curve: Sequence[int] = CURVE
) -> Costs:
    """Measure the costs of each run's model on the data set's device, in one process, requests in turns.

    Weights are those that training starts from. They change the work only of FIT, whose items read user states of more
    or fewer queries: ``benchmarks/preranking.py`` has its dearest case, and its compiled form, which needs a compiler.

    Args:
        runs: by variant, on labelled pairs.
        dataset: on the device to measure on.
        requests: of 2,000 candidates (all items, where there are fewer), put to every model.
        curve: numbers of candidates for the curve, ascending.

    Returns:
        By variant: ``parameters``, ``bytes_per_item`` (0: nothing is stored), ``user_passes`` of a request,
        ``seconds_per_epoch`` of training (see `epoch_seconds`), ``p50_ms`` and ``p99_ms`` of a request, and
        ``p50_ms_by_candidates`` along the curve, all from one catalogue of at least as many items as the curve's end
        (see `grown`).
    """
    training = {name: epoch_seconds(run, dataset) for name, run in runs.items()}
    served = {name: _serve(run, dataset) for name, run in runs.items()}
    asked = min(CANDIDATES, dataset.schema.num_items - FIRST_KNOWN)
    times = _times(served, dataset, asked, requests)
    costs: Costs = {
        name: {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "bytes_per_item": stored_bytes(model, states),
            "user_passes": user_passes(model, asked),
            "seconds_per_epoch": training[name],
            "candidates": asked,
            "p50_ms": statistics.median(times[name]),
            "p99_ms": percentile(times[name], 0.99),
        }
        for name, (model, states) in served.items()
    }
    large = grown(dataset, max(curve))
    served = {name: _serve(run, large) for name, run in runs.items()}
    points = {count: _times(served, large, count, min(requests, CURVE_REQUESTS)) for count in curve}
    for name, row in costs.items():
        row["p50_ms_by_candidates"] = {str(count): statistics.median(found[name]) for count, found in points.items()}
    return costs


def epoch_seconds(run: Run, dataset: Dataset) -> float:
    """Return the seconds of training an epoch, from the median of a run's first steps: 8 on the CPU, 40 on a GPU.

    Validation is left out. FIT's soft and hard queries cost about the same.
    """
    split = pairs_of(run, dataset)
    clock = _Steps(FIRST_STEPS, STEPS[dataset.device.type], dataset.device)
    training = replace(run.training, epochs=clock.last, patience=0, evaluate_every=0, refit=False)
    learn_pairs(replace(run, training=training), dataset, split, callbacks=[clock])
    return clock.median() * -(-len(split.train) // run.training.batch_size)


class _Steps(Silent):
    """Looks at the clock after each step, and ends training ``steps`` after the ``first``."""

    def __init__(self, first: int, steps: int, device: torch.device) -> None:
        self.first, self.last, self.device = first, first + steps, device
        self.times: list[float] = []

    def stepped(self, step: int) -> None:
        """Note the time, with the device's work done."""
        if step < self.first:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append(time.perf_counter())
        if step == self.last:
            raise StopTraining("timed")

    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(after - before for before, after in pairwise(self.times))


def grown(dataset: Dataset, items: int) -> Dataset:
    """Return the data set grown to so many items: copies of those that are there, under new ids, in no event."""
    known = dataset.schema.num_items - FIRST_KNOWN
    source = torch.arange(max(items, known), device=dataset.device) % known + FIRST_KNOWN
    source = torch.cat([torch.arange(FIRST_KNOWN, device=dataset.device), source])
    return replace(
        dataset,
        schema=replace(dataset.schema, num_items=len(source)),
        item_features={name: column[source] for name, column in dataset.item_features.items()},
    )


class _Served(NamedTuple):
    model: Model
    states: State


def _serve(run: Run, dataset: Dataset) -> _Served:
    model = new_model(run, dataset).eval()
    prepare_serving(model)
    ids = torch.arange(dataset.schema.num_items, device=dataset.device)
    with torch.inference_mode():
        return _Served(model, encode_items(model, dataset, ids, ITEM_TILE))


def _times(served: Mapping[str, _Served], dataset: Dataset, candidates: int, requests: int) -> dict[str, list[float]]:
    (example,) = drawn_requests(dataset, 1, candidates=candidates, seed=1)
    answers: dict[str, Answer] = {
        name: answer_of(model, states, ANSWER, example) for name, (model, states) in served.items()
    }
    return take_turns(answers, drawn_requests(dataset, WARM_UPS + requests, candidates=candidates), warm_ups=WARM_UPS)


def user_passes(model: Model, candidates: int) -> int:
    """Return the rows that go through the user's side.

    A query each for FIT, a candidate each for a network of the pair.
    """
    if isinstance(model, COLD):
        return candidates
    return len(model.meta.meta) if isinstance(model, FIT) and model.meta is not None else 1


def stored_bytes(model: Model, states: Any) -> float:
    """Return the bytes of an item's state; COLD's are its embedding tables, of which it needs no copy."""
    if isinstance(model, COLD):
        return 0.0
    return sum(part.numel() * part.element_size() for part in to_tensors(states).values()) / rows(states)
