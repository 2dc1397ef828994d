"""What pre-rankers cost: latency of a request, bytes of an item, passes of the user tower, parameters."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch

from twotower.core.records import FIRST_KNOWN
from twotower.core.states import rows, to_tensors
from twotower.data.dataset import Dataset
from twotower.evaluation.latency import Answer, answer_of, drawn_requests, percentile, take_turns
from twotower.models.base import Model
from twotower.models.cold import COLD
from twotower.models.encode import encode_items
from twotower.models.fit import FIT
from twotower.recipes.learn import new_model
from twotower.recipes.run import Run

ANSWER = 100
CANDIDATES = 2_000
CURVE = (100, 300, 1_000, 2_000, 5_000, 10_000, 30_000, 100_000)
REQUESTS, CURVE_REQUESTS, WARM_UPS = 200, 30, 10
ITEM_TILE = 8_192

Costs = dict[str, dict[str, Any]]


def cost_sheet(runs: Mapping[str, Run], dataset: Dataset, *, requests: int = REQUESTS) -> Costs:
    """Costs of each run's model on the data set's device, measured in one process, in turns.

    Weights are those that training starts from. They change the work only of FIT, whose items read user states of more
    or fewer queries: ``benchmarks/preranking.py`` has its dearest case, and its compiled form, which needs a compiler.

    Args:
        runs: by variant.
        dataset: on the device to measure on.
        requests: of 2,000 candidates (all items, where there are fewer), put to every model.

    Returns:
        By variant: ``parameters``, ``bytes_per_item`` (0: nothing is stored), ``user_passes`` of a request, ``p50_ms``
        and ``p99_ms``, and ``p50_ms_by_candidates`` for 100 to 100,000, as far as there are items.
    """
    models = {name: _ready(run, dataset) for name, run in runs.items()}
    known = dataset.schema.num_items - FIRST_KNOWN
    with torch.inference_mode():
        ids = torch.arange(dataset.schema.num_items, device=dataset.device)
        states = {name: encode_items(model, dataset, ids, ITEM_TILE) for name, model in models.items()}

    def timed(candidates: int, count: int) -> dict[str, list[float]]:
        (example,) = drawn_requests(dataset, 1, candidates=candidates, seed=1)
        answers: dict[str, Answer] = {
            name: answer_of(model, states[name], ANSWER, example) for name, model in models.items()
        }
        drawn = drawn_requests(dataset, WARM_UPS + count, candidates=candidates)
        return take_turns(answers, drawn, warm_ups=WARM_UPS)

    asked = min(CANDIDATES, known)
    times = timed(asked, requests)
    curve = {count: timed(count, min(requests, CURVE_REQUESTS)) for count in CURVE if count <= known}
    return {
        name: {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "bytes_per_item": stored_bytes(model, states[name]),
            "user_passes": user_passes(model, asked),
            "candidates": asked,
            "p50_ms": statistics.median(times[name]),
            "p99_ms": percentile(times[name], 0.99),
            "p50_ms_by_candidates": {str(count): statistics.median(found[name]) for count, found in curve.items()},
        }
        for name, model in models.items()
    }


def _ready(run: Run, dataset: Dataset) -> Model:
    model = new_model(run, dataset).eval()
    model.prepare_serving()
    return model


def user_passes(model: Model, candidates: int) -> int:
    """Rows that go through the user's side: a query each for FIT, a candidate each for a network of the pair."""
    if isinstance(model, COLD):
        return candidates
    return len(model.meta.meta) if isinstance(model, FIT) and model.meta is not None else 1


def stored_bytes(model: Model, states: Any) -> float:
    """Bytes of an item's state; COLD's are its embedding tables, of which it needs no copy."""
    if isinstance(model, COLD):
        return 0.0
    return sum(part.numel() * part.element_size() for part in to_tensors(states).values()) / rows(states)
