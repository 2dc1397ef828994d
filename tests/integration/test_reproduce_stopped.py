"""A training of a table that is killed goes on from its last checkpoint, to the figures that it would have had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.run import Run
from twotower.reproduce import fit as fits
from twotower.reproduce import fit_measure, negatives
from twotower.reproduce.leaderboard import measure as board
from twotower.reproduce.leaderboard import table as board_table
from twotower.reproduce.sparcode import measure as sparcode
from twotower.reproduce.sparcode import table as sparcode_table
from twotower.reproduce.study import Measured
from twotower.reproduce.t2diff import measure as t2diff
from twotower.reproduce.t2diff import table as t2diff_table
from twotower.training import loop
from twotower.training.state import State

EPOCHS = 6


class Killed(BaseException):
    """As a process ends that is killed: nothing is written after it."""


@pytest.fixture
def dataset() -> Dataset:
    """Sixty users, 40 items with a category, twelve events each."""
    generator = torch.Generator().manual_seed(2)
    items = torch.cat([2 + torch.randperm(40, generator=generator)[:12] for _ in range(60)])
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), 12 * torch.arange(1, 61)])
    kinds = torch.randint(2, 5, (42,), generator=generator)
    schema = Schema(62, 42, (), (Feature("kind", "categorical", 5),))
    return Dataset(schema, Log(offsets, items), {}, {"kind": kinds}, {"name": "tiny"})


def small(run: Run, **settings: object) -> Run:
    """The run with few epochs and narrow layers."""
    sources = tuple(replace(one, settings={"number": 20}) for one in run.sampling.sources if "number" in one.settings)
    return replace(
        run,
        model=replace(run.model, settings={**run.model.settings, **settings}),
        sampling=replace(run.sampling, sources=sources or run.sampling.sources),
        training=replace(run.training, epochs=EPOCHS, batch_size=64, evaluate_every=2, seed=1, device="cpu"),
    )


def cases() -> dict[str, tuple[Callable[..., Measured], Run]]:
    """One run of every kind of table."""
    narrow = {"dim": 8, "history_length": 10}
    towers = t2diff_table.variants("ml-1m")
    coded = sparcode_table.variants("ml-1m")["sparcode_sasrec"][0]
    mined = negatives.variant_run("ngame", negatives.Size(64, 20, EPOCHS), 0.2)
    pair = fits.pair_run("fit", {"field_dim": 4, "hidden": [8], "dim": 8, "meta_queries": 4}, reading="all")
    rows = board_table.variants("ml-1m-3706")["sasrec"][0]
    return {
        "t2diff": (t2diff.measure, small(towers["t2diff"][0], **narrow, channels=6)),
        "sasrec": (t2diff.measure, small(towers["sasrec"][0], **narrow)),
        "sparcode": (sparcode.measure_dense, small(coded, dim=8, layers=1, codebook=8, warm_up=0.5)),
        "negatives": (negatives.measure, small(mined, dim=8, field_dim=4, hidden=[8])),
        "fit": (fit_measure.measure, small(pair)),
        "leaderboard": (board.measure, small(rows, dim=8, history_length=10)),
    }


@pytest.fixture
def killed_at(monkeypatch) -> Callable[[int], None]:
    """Let the process be killed once so many checkpoints are written."""
    save = State.save

    def after(number: int) -> None:
        left = [number]

        def saved(self: State) -> None:
            save(self)
            left[0] -= 1
            if not left[0]:
                raise Killed

        monkeypatch.setattr(State, "save", saved)

    return after


@pytest.mark.parametrize("name", list(cases()))
def test_a_killed_training_goes_on_to_the_same_figures(name, dataset, tmp_path, killed_at, monkeypatch):
    measure, run = cases()[name]
    whole = measure(run, dataset)
    assert len(whole.curves) == EPOCHS
    killed_at(2)
    with pytest.raises(Killed):
        measure(run, dataset, tmp_path / "cell.run")
    monkeypatch.undo()
    finished: list[int] = []
    finish = loop._Run._finish_epoch
    monkeypatch.setattr(loop._Run, "_finish_epoch", lambda self: (finish(self), finished.append(1))[0])
    again = measure(run, dataset, tmp_path / "cell.run")
    assert 0 < len(finished) < EPOCHS
    assert again.validation == whole.validation
    times = ("seconds", "seconds_per_epoch")
    assert {k: v for k, v in again.metrics.items() if k not in times} == {
        k: v for k, v in whole.metrics.items() if k not in times
    }
    assert [(one.epoch, one.loss, one.metrics) for one in again.curves] == [
        (one.epoch, one.loss, one.metrics) for one in whole.curves
    ]
    assert set(again.per_user) == set(whole.per_user)
    for metric, values in whole.per_user.items():
        assert torch.equal(again.per_user[metric], values)
