"""Lists that nominate, for models without an inner product: what they keep and what a request costs, MovieLens-100K.

FIT, COLD, IntTower and a two-tower with an MLP as its scorer have no vectors that a vector index could search. Each is
trained for a few epochs on labelled pairs (the run of ``twotower reproduce fit``, shrunk), and so is the two-tower of
their table, which has vectors. Each user's last item is the test. Then ``nominate`` makes 128 lists of L items from the
users before their test, a request reads the c nearest lists, and the model scores what they hold; items that the user
has seen are left out. For every L and c, of the lists alone (a bundle would scan where they hold fewer than 50):

- *found*: share of the model's own best 50, by a scan of all items, that the answer holds;
- *kept*: recall@50 on the test relative to the scan's; *short*: share of users with fewer than 50 answers;
- *candidates*: items that are scored for a request; *microseconds*: CPU time of a request's search, the median.

Encoding the user is in neither time. Popularity and EASE have a row for recall@50. Run it as
``python benchmarks/nominate_any.py --data PREPARED``; ``--quick`` trains small models on 20,000 rows and searches few
settings (under a minute). Without ``--data`` it takes the shared copy, or a random log where there is none.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import common
import movielens
from twotower.core.records import State, TopK
from twotower.core.states import take
from twotower.data.dataset import Dataset
from twotower.data.split import Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.candidates import learn_pairs
from twotower.experiment.index_users import show_users, user_states
from twotower.experiment.labelled_pairs import pairs_of
from twotower.experiment.run import ModelSection, Run
from twotower.index.brute_force import BruteForceIndex
from twotower.index.nominate_index import NominateIndex
from twotower.models.base import Model, prepare_serving
from twotower.models.encode import encode_known_items, inference
from twotower.reproduce.fit import MODELS, pair_run

K, CODES, LISTS, NEAREST = 50, 128, (50, 100, 200, 400), (1, 2, 4)
TIMED = 200
"""Requests that are timed, each in every way before the next, so that a slow moment meets all ways."""

TRAINED: dict[str, tuple[str, dict[str, Any], int]] = {
    "fit": ("fit", {**MODELS["fit"][1], "meta_queries": 8, "history_length": 20}, 4),
    "cold": (*MODELS["cold"], 4),
    "int_tower": (*MODELS["int_tower"], 4),
    "two_tower_mlp": ("two_tower", {**MODELS["two_tower"][1], "score": "mlp"}, 4),
    "two_tower": (*MODELS["two_tower"], 6),
}
"""Name, model, settings and epochs; FIT with 8 of its 64 queries and a history of 20, which are most of its time."""
Search = Callable[[State, Tensor], TopK]
CLOSED = ("popularity", "ease")
SMALL: dict[str, Any] = {"field_dim": 8, "history_length": 20}


def run_of(row: str, *, quick: bool = False, seed: int = 1) -> Run:
    """The run of a row: that of FIT's table with smaller batches and few epochs; a closed form has no training."""
    if row in CLOSED:
        return replace(run_of("two_tower"), model=ModelSection(row))
    model, settings, epochs = TRAINED[row]
    run = pair_run(model, {**settings, **(SMALL if quick else {})}, reading="all", rate=3e-3)
    training = replace(run.training, epochs=1 if quick else epochs, evaluate_every=1, batch_size=2048)
    return replace(run, training=replace(training, device="cpu", seed=seed))


def share_found(best: Tensor, found: Tensor) -> float:
    """Mean share of each row's ids in ``best`` that its row in ``found`` has; -1 is no id, and a row may lack them."""
    hits = (best[:, :, None] == found[:, None]).any(2) & (best >= 0)
    there = (best >= 0).sum(1)
    return (hits.sum(1)[there > 0] / there[there > 0]).mean().item()


def recall(found: Tensor, truth: Tensor) -> float:
    """Share of rows whose one true id is among those found."""
    return (found == truth[:, None]).any(1).float().mean().item()


def scored(index: NominateIndex, states: State, seen: Tensor) -> float:
    """Items in the nearest lists of a request that it has not seen, on average: those that the model scores."""
    lists = index._lists
    assert lists is not None, "it was built"
    offsets, places = torch.from_numpy(lists.lists.offsets), torch.from_numpy(lists.lists.places.astype("int64"))
    listed = torch.zeros(len(offsets) - 1, len(lists), dtype=torch.bool)
    listed[torch.arange(len(listed)).repeat_interleave(offsets.diff()), places] = True
    wanted = listed[lists.codes(states)].any(1)
    ids = torch.from_numpy(lists.lists.ids)
    at = torch.searchsorted(ids, seen.contiguous()).clamp(max=len(ids) - 1)
    met = (ids[at] == seen).nonzero()[:, 0], at[ids[at] == seen]
    wanted[met] = False
    return wanted.sum(1).float().mean().item()


def median_microseconds(ways: dict[str, Search], states: State, seen: Tensor, number: int) -> dict[str, float]:
    """Median CPU microseconds of one user's search in each way; the first ten are not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for row in range(min(number, len(seen))):
        state, left_out = take(states, slice(row, row + 1)), seen[row : row + 1]
        left_out = left_out[:, left_out[0] >= 0]
        for name, search in ways.items():
            started = time.process_time()
            search(state, left_out)
            times[name].append(1e6 * (time.process_time() - started))
    return {name: statistics.median(taken[10:]) for name, taken in times.items()}


def by_lists(index: NominateIndex, nearest: int) -> Search:
    """A search of the nearest lists alone, so many of them."""

    def search(state: State, left_out: Tensor) -> TopK:
        index.set_effort(nearest)
        return index.search_lists(state, K, left_out)

    return search


def searched(model: Model, dataset: Dataset, targets: Targets, *, quick: bool) -> dict[str, Any]:
    """What lists of every length and number give beside the scan of all items, for every test user."""
    prepare_serving(model)
    users, before = targets.users()[: 100 if quick else None], targets.history
    items = encode_known_items(model, dataset)
    seen, truth = before.seen(users), targets.truth.items[targets.truth.offsets[users]]
    states = user_states(model, dataset, before.positives(), users)
    with inference(model):
        scan = BruteForceIndex(model)
        scan.build(items.states, items.ids)
        best = scan.search(states, K, seen).ids
        exact = recall(best, truth)
        ways: dict[str, Search] = {"scan": lambda state, out: scan.search(state, K, out)}
        figures: dict[str, dict[str, float]] = {}
        for longest in LISTS[:2] if quick else LISTS:
            index = NominateIndex(model, codes=CODES, longest=longest)
            show_users(index, model, dataset, before.positives())
            index.build(items.states, items.ids)
            for nearest in NEAREST[:2] if quick else NEAREST:
                search = by_lists(index, nearest)
                found, name = search(states, seen).ids, f"L {longest}, c {nearest}"
                figures[name] = {
                    "found": share_found(best, found),
                    "recall@50": recall(found, truth),
                    "kept": recall(found, truth) / exact if exact else 0.0,
                    "short": (found < 0).any(1).float().mean().item(),
                    "candidates": scored(index, states, seen),
                }
                ways[name] = search
        taken = median_microseconds(ways, states, seen, 30 if quick else TIMED)
    for name, one in figures.items():
        one["microseconds"] = taken[name]
    return {"recall@50": exact, "scan_microseconds": taken["scan"], "scan_candidates": len(items.ids), "lists": figures}


def table(figures: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown rows of a run: a model and a length, and in each cell what 1, 2 and 4 lists give."""
    lines = []
    for row, one in figures.items():
        for longest in sorted({int(name.split(",")[0][2:]) for name in one.get("lists", ())}):
            taken = [of for name, of in one["lists"].items() if name.startswith(f"L {longest},")]
            forms = {"found": ".3f", "kept": ".3f", "short": ".2f", "candidates": ".0f", "microseconds": ",.0f"}
            cells = [" / ".join(format(of[name], form) for of in taken) for name, form in forms.items()]
            lines.append(f"| `{row}` | {longest} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Train, search, print and keep."""
    made = common.parser(__doc__)
    made.add_argument("--data", type=Path, help="MovieLens-100K as prepared; without, from the shared copy")
    made.add_argument("--rows", help="names of rows, separated by commas; without, all")
    options = common.parse(made)
    dataset, real = movielens.load("ml-100k", options.data)
    figures: dict[str, dict[str, Any]] = {}
    for row in options.rows.split(",") if options.rows else (*CLOSED, *TRAINED):
        run = run_of(row, quick=options.quick)
        split = pairs_of(run, dataset)
        if options.quick:
            few, fewer = torch.arange(20_000), torch.arange(4_000)
            split = split._replace(train=split.train.take(few), validation=split.validation.take(fewer))
        with common.Clock() as clock:
            model, records = learn_pairs(run, dataset, split)
        if row in CLOSED:
            test = evaluate(model, dataset, split.test_targets(), Protocol(ks=(K,)))
            figures[row] = {"recall@50": test.metrics["recall@50"]}
        else:
            figures[row] = searched(model, dataset, split.test_targets(), quick=options.quick)
            figures[row] |= {"auc": [record.metrics["auc"] for record in records]}
        figures[row] |= {"training_cpu_seconds": round(clock.cpu, 1)}
        sys.stderr.write(f"{row}: recall@50 {figures[row]['recall@50']:.3f}, {clock.cpu:.0f} s\n")
    settings = {
        "data": dataset.name,
        "real": real,
        "items": len(dataset.known_items()),
        "test_users": len(split.test_targets().users()),
        "seed": 1,
        "codes": CODES,
        "k": K,
        "rows": {row: {"model": model, "settings": s, "epochs": e} for row, (model, s, e) in TRAINED.items()},
    }
    if not options.json:
        print("\n".join(table(figures)))
    common.finish("nominate_any", options, settings=settings, figures={"rows": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
