"""What the order of a history is worth: a two-tower that reads it as a set (DIN) or in order (DIEN), and two controls.

*shuffled_dien* is shown each history in a random order, in training and in serving. The log *ties* has the events that
bear one time in a random order from the start, so that the order of a file cannot tell the next item; that needs data
with a clock. Settings are those of ``twotower reproduce fit-ablations``. On MovieLens-1M a training with DIEN takes
five minutes on an H200, and hours on two cores.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import common
import movielens
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.placement import pick_device
from twotower.models.fit.units import UNITS
from twotower.reproduce.fit import COSINE, ONE_QUERY, pair_run
from twotower.reproduce.fit_measure import measure
from twotower.reproduce.study import seeded
from twotower.towers.interaction.dien import DIEN

LOGS = ("given", "ties")


class ShuffledDIEN(DIEN):
    """DIEN that is shown each history in a random order."""

    def forward(self, queries: Tensor, history: Tensor, present: Tensor) -> Tensor:
        """As DIEN."""
        return super().forward(queries, shuffled(history, present), present)

    def shared(self, queries: Tensor, history: Tensor, present: Tensor) -> Tensor:
        """As DIEN."""
        return super().shared(queries, shuffled(history, present), present)


UNITS["shuffled_dien"] = ShuffledDIEN


def shuffled(history: Tensor, present: Tensor) -> Tensor:
    """The places that are there in a random order; padding stays behind them."""
    order = torch.rand(present.shape, device=present.device).masked_fill(~present, 2.0).argsort(1)
    return history.gather(1, order[:, :, None].expand_as(history))


def with_log(dataset: Dataset, log: str, seed: int) -> Dataset:
    """The data set with one of ``LOGS``, without times."""
    if log == "given":
        return dataset.with_log(dataset.log._replace(times=None))
    if dataset.log.times is None:
        raise SystemExit(f"error: {dataset.name}: histories carry no clock; take --log given")
    return dataset.with_log(ties_drawn_anew(dataset.log, seed)._replace(times=None))


def ties_drawn_anew(log: Log, seed: int) -> Log:
    """Events of a user that bear one time, in a random order."""
    assert log.times is not None
    order = torch.randperm(log.num_events, generator=torch.Generator().manual_seed(1_000 + seed))
    for key in (log.times, log.users()):
        order = order[key[order].argsort(stable=True)]
    return log._replace(items=log.items[order], labels=None if log.labels is None else log.labels[order])


def one_training(dataset: Dataset, unit: str, log: str, seed: int, options: Any) -> dict[str, Any]:
    """Test metrics of a two-tower with that unit on that log."""
    settings = {"temperature": COSINE, **ONE_QUERY, "interaction": unit, "history_length": options.history}
    run = seeded(pair_run("fit", settings, reading="all"), seed)
    run = replace(run, training=replace(run.training, epochs=options.epochs))
    measured = measure(run, with_log(dataset, log, seed).to(pick_device("auto")))
    row = {"unit": unit, "log": log, "seed": seed, "validation": measured.validation}
    return {**row, "metrics": measured.metrics, "curves": measured.curves}


def main() -> None:
    """Train, print, keep."""
    made = common.parser(__doc__)
    made.add_argument("--data", type=Path, help="a prepared folder (default: MovieLens-100K)")
    made.add_argument("--unit", action="append", choices=sorted(UNITS), help="again for more (default: din, dien)")
    made.add_argument("--log", action="append", choices=LOGS, help="again for more (default: given)")
    made.add_argument("--seeds", type=int, default=2)
    made.add_argument("--epochs", type=int, default=30)
    made.add_argument("--history", type=int, default=50, help="latest events that are read")
    options = common.parse(made)
    if options.quick:
        options.seeds, options.epochs, options.history = 1, 1, 5
    dataset, real = movielens.load("ml-100k", options.data)
    trainings = [
        one_training(dataset, unit, log, seed, options)
        for seed in range(1, options.seeds + 1)
        for unit in options.unit or ("din", "dien")
        for log in options.log or ("given",)
    ]
    settings = {"data": dataset.name, "real": real, "epochs": options.epochs, "history": options.history}
    common.finish("history_order", options, settings=settings, figures={"trainings": trainings})


if __name__ == "__main__":
    main()
