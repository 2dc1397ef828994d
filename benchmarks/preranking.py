"""Latency and storage of a pre-ranking request, each model against our own two-tower in the same run.

A request is one user with 50 items of history and a list of candidates, ranked by ``twotower.models.rank.rank``:
candidates checked, user encoded, item states gathered, pairs scored, the best 100 returned. Models take turns, one
request each and in random order, so that a slow moment of the machine meets all of them. ``fit`` is FIT after
``compile_scoring``, which needs a C compiler or Triton, ``fit_eager`` without it (where there is no compiler they are
the same). On a GPU, requests are replayed from CUDA graphs (``CapturedRank``), but not those of the curves. The first
requests, which compile, are not counted. Weights are random: they do not change the work, but for FIT's query indices,
which are drawn evenly (the dearest case: all queries are asked for). Training is timed on random pairs in batches of
2,048.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

import common
from twotower.core.records import Batch, State, Users
from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.evaluation.latency import Answer, Request, answer_of, percentile, take_turns
from twotower.models.base import Model, attach_items, prepare_serving
from twotower.models.fit.model import FIT
from twotower.models.fit.states import bytes_per_item, compact
from twotower.models.registry import build_model
from twotower.reproduce.fit_costs import stored_bytes, user_passes
from twotower.training.objective import AgainstLabels

NUM_USERS, NUM_ITEMS, HISTORY, ANSWER = 10_000, 100_002, 50, 100
CANDIDATES = 2_000
BATCH = 2_048
CURVE = (100, 300, 1_000, 2_000, 10_000, 30_000, 100_000)
QUERIES = (8, 16, 32, 64, 128, 256)

MODELS: dict[str, dict[str, Any]] = {
    "two_tower": {"dim": 128, "field_dim": 16, "hidden": (300, 300)},
    "dat": {"dim": 32},
    "cold": {},
    "int_tower": {},
    "rank_tower": {},
    "fit": {},
    "fit_eager": {},
}
"""Layers 300-300-128 and fields of 16 for all; states as in table 2 of the paper (DAT 0.25, IntTower 8, others 1)."""


def make_dataset(device: torch.device) -> Dataset:
    """Users and items with two categorical features each; no events, since nothing is trained."""
    schema = Schema(
        NUM_USERS,
        NUM_ITEMS,
        (Feature("age", "categorical", 9), Feature("job", "categorical", 23)),
        (Feature("category", "categorical", 200), Feature("brand", "categorical", 5_000)),
    )
    generator = torch.Generator().manual_seed(1)

    def columns(side: Any, count: int) -> dict[str, torch.Tensor]:
        return {f.name: torch.randint(2, f.size, (count,), generator=generator) for f in schema.features(side)}

    empty = Log(torch.zeros(NUM_USERS + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    return Dataset(schema, empty, columns("user", NUM_USERS), columns("item", NUM_ITEMS), {}).to(device)


def make_model(name: str, dataset: Dataset, **settings: Any) -> Model:
    """A model with random weights, ready to serve."""
    torch.manual_seed(2)
    model = build_model(name.removesuffix("_eager"), dataset.schema, MODELS[name] | settings).to(dataset.device)
    attach_items(model, dataset.all_items())
    model.eval()
    prepare_serving(model)
    return model


def compiles(served: Served, dataset: Dataset) -> bool:
    """Compile FIT's request; where that cannot be done, it goes on without, and the answer is False."""
    assert isinstance(served.model, FIT)
    try:
        served.model.compile_scoring()
        served.answer(request_users(dataset, 1), torch.arange(2, 2 + CANDIDATES, device=dataset.device))
    except Exception as error:  # whatever a missing or broken compiler raises
        sys.stderr.write(f"no compiled scorer: {str(error).splitlines()[0]}\n")
        return False
    return True


def training_seconds(name: str, dataset: Dataset, steps: int) -> float:
    """Seconds for 100,000 rows of training, from the fastest of ``steps`` steps."""
    torch.manual_seed(2)
    model = build_model(name, dataset.schema, MODELS[name]).to(dataset.device)
    attach_items(model, dataset.all_items())
    objective, optimizer = AgainstLabels(), torch.optim.Adam(model.parameters(), fused=True)
    ids = torch.randint(2, NUM_USERS, (BATCH,)).to(dataset.device)
    users = dataset.users(ids, torch.randint(2, NUM_ITEMS, (BATCH, HISTORY)).to(dataset.device))
    items = dataset.items(torch.randint(2, NUM_ITEMS, (BATCH,)).to(dataset.device))
    batch = Batch(users, items, (torch.rand(BATCH) < 0.5).float().to(dataset.device))
    times = []
    for _ in range(2 + steps):
        started = time.perf_counter()
        loss = objective(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        times.append(time.perf_counter() - started)
    return min(times[2:]) * 100_000 / BATCH


def item_states(model: Model, dataset: Dataset) -> State:
    """States of all items; FIT's indices drawn evenly."""
    parts = [
        model.encode_items(dataset.items(ids)) for ids in torch.arange(NUM_ITEMS, device=dataset.device).split(8192)
    ]
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    joined = type(parts[0])(*(torch.cat(fields) for fields in zip(*parts, strict=True)))
    count = model.encode_users(request_users(dataset, 1)).shape[1]
    drawn = torch.randint(0, count, (NUM_ITEMS,), generator=torch.Generator().manual_seed(3))
    return joined._replace(query_index=drawn.to(joined.query_index))


def request_users(dataset: Dataset, seed: int) -> Users:
    """One user with a full history."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, NUM_USERS, (1,), generator=generator).to(dataset.device)
    return dataset.users(ids, torch.randint(2, NUM_ITEMS, (1, HISTORY), generator=generator).to(dataset.device))


class Served:
    """A model with the states of all items, and its way to answer a request."""

    def __init__(self, name: str, dataset: Dataset, **settings: Any) -> None:
        self.model = make_model(name, dataset, **settings)
        self.states = item_states(self.model, dataset)
        self.answer = answer_of(self.model, self.states, ANSWER)

    def captured(self, dataset: Dataset) -> Answer:
        """The same on a GPU, its kernels captured in one CUDA graph."""
        (example,) = requests_of(dataset, CANDIDATES, 1)
        return answer_of(self.model, self.states, ANSWER, example)


def requests_of(dataset: Dataset, candidates: int, count: int) -> Iterator[Request]:
    """Random users with full histories, each with random candidates."""
    generator = torch.Generator().manual_seed(4)
    for turn in range(count):
        ids = (torch.randperm(NUM_ITEMS - 2, generator=generator)[:candidates] + 2).to(dataset.device)
        yield Request(request_users(dataset, turn + 1_000), ids)


def turns(answers: dict[str, Answer], dataset: Dataset, candidates: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each request, by model."""
    warm_ups = max(5, repeats // 10)
    return take_turns(answers, requests_of(dataset, candidates, warm_ups + repeats), warm_ups=warm_ups)


@torch.inference_mode()
def main() -> None:
    """Measure, print, keep."""
    made = common.parser(__doc__)
    made.set_defaults(threads=torch.get_num_threads())  # a request may use the whole machine
    options = common.parse(made)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = make_dataset(device)
    repeats = 100 if options.quick else 1_000
    served = {name: Served(name, dataset) for name in MODELS}
    compiled = compiles(served["fit"], dataset)
    if not compiled:
        served["fit"] = served["fit_eager"]
    answers = {name: each.answer for name, each in served.items()}
    times = turns(answers, dataset, CANDIDATES, repeats)
    figures: dict[str, Any] = {}
    if device.type == "cuda":
        medians = {name: statistics.median(values) for name, values in times.items()}
        figures["relative_latency_uncaptured"] = {n: round(v / medians["two_tower"], 3) for n, v in medians.items()}
        figures["p50_milliseconds_uncaptured"] = {n: round(v, 4) for n, v in medians.items()}
        captured = {name: each.captured(dataset) for name, each in served.items()}
        times = turns(captured, dataset, CANDIDATES, repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    stored = {name: stored_bytes(each.model, each.states) for name, each in served.items()}
    base = stored["two_tower"]
    figures |= {
        "relative_latency": {name: round(value / medians["two_tower"], 3) for name, value in medians.items()},
        "relative_storage": {name: round(value / base, 3) for name, value in stored.items()},
        "p50_milliseconds": {name: round(value, 4) for name, value in medians.items()},
        "p99_milliseconds": {name: round(percentile(values, 0.99), 4) for name, values in times.items()},
        "bytes_per_item": stored,
        "fit_bytes_per_item": {
            precision: bytes_per_item(compact(served["fit"].states, precision))
            for precision in ("float32", "float16", "int8")
        },
        "parameters": {
            name: sum(parameter.numel() for parameter in each.model.parameters()) for name, each in served.items()
        },
        "user_tower_rows": {name: user_passes(each.model, CANDIDATES) for name, each in served.items()},
        "fit_is_compiled": compiled,
    }
    with torch.inference_mode(False):
        steps = 2 if options.quick else 20
        trained = [name for name in MODELS if name != "fit_eager"]
        figures["training_seconds_per_100k_rows"] = {n: round(training_seconds(n, dataset, steps), 3) for n in trained}
    if not options.quick:
        uncaptured = "_uncaptured" if device.type == "cuda" else ""
        figures[f"milliseconds_by_candidates{uncaptured}"] = curve_of_candidates(answers, dataset)
        figures[f"fit_eager_milliseconds_by_queries{uncaptured}"] = curve_of_queries(dataset)
        figures["raw_milliseconds"] = {name: [round(t, 4) for t in values] for name, values in times.items()}
    settings = {
        "device": device.type,
        "items": NUM_ITEMS,
        "candidates": CANDIDATES,
        "history": HISTORY,
        "answer": ANSWER,
        "requests": repeats,
        "models": {
            name: {k: list(v) if isinstance(v, tuple) else v for k, v in s.items()} for name, s in MODELS.items()
        },
    }
    common.finish("preranking" + ("_gpu" if device.type == "cuda" else ""), options, settings=settings, figures=figures)


def curve_of_candidates(answers: dict[str, Answer], dataset: Dataset) -> dict[str, dict[str, float]]:
    """Median milliseconds by model and number of candidates."""
    curve: dict[str, dict[str, float]] = {name: {} for name in answers}
    for candidates in CURVE:
        times = turns(answers, dataset, candidates, 50 if candidates <= 10_000 else 10)
        for name, values in times.items():
            curve[name][str(candidates)] = round(statistics.median(values), 4)
    return curve


def curve_of_queries(dataset: Dataset) -> dict[str, float]:
    """Median milliseconds of FIT, not compiled, by its number of meta queries."""
    answers = {str(count): Served("fit_eager", dataset, meta_queries=count).answer for count in QUERIES}
    times = turns(answers, dataset, CANDIDATES, 50)
    return {name: round(statistics.median(values), 4) for name, values in times.items()}


if __name__ == "__main__":
    main()
