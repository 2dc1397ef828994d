"""Pooling of a history against loops over its items in Python floats."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.towers.pooling import HistoryPooling
from twotower.towers.table import DenseTable


def table_of(rows: torch.Tensor) -> DenseTable:
    """The table with these rows."""
    table = DenseTable(*rows.shape).to(rows.dtype)
    table.put(torch.arange(len(rows)), rows)
    return table


HISTORY = torch.tensor([[3, 5, 2, 4, 0], [6, 0, 0, 0, 0], [0, 0, 0, 0, 0], [2, 2, 3, 7, 5]])


def slow(table: list[list[float]], history: list[int], rate: float | None) -> list[float]:
    """Weights by their definition, one item after the other; the mean where there is no rate."""
    items = [item for item in history if item]
    if not items:
        return [0.0] * len(table[0])
    weights = [1.0 if rate is None else math.exp(-rate * (len(items) - 1 - place)) for place in range(len(items))]
    return [
        sum(weight * table[item][column] for weight, item in zip(weights, items, strict=True)) / sum(weights)
        for column in range(len(table[0]))
    ]


@pytest.mark.parametrize("pooling", ["mean", "recency", "both"])
def test_matches_loops(pooling):
    table = torch.randn(8, 3, dtype=torch.float64)
    pool = HistoryPooling(pooling=pooling).double()
    rate = None
    if pooling != "mean":
        with torch.no_grad():
            pool.raw_rate.fill_(0.7)
        rate = math.log1p(math.exp(0.7))
    expected = []
    for row in HISTORY.tolist():
        parts = {"mean": slow(table.tolist(), row, None), "recency": slow(table.tolist(), row, rate)}
        expected.append(parts["mean"] + parts["recency"] if pooling == "both" else parts[pooling])
    torch.testing.assert_close(
        pool(table_of(table), HISTORY), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_the_rate_and_the_table_take_gradients():
    both = torch.nn.ModuleList([DenseTable(8, 3), HistoryPooling(pooling="both")]).double()
    both.forward = lambda history: both[1](both[0], history)

    def run(rows: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(both, {"0.weight": rows, "1.raw_rate": rate}, (HISTORY,))

    given = (both[0].weight, both[1].raw_rate)
    assert torch.autograd.gradcheck(run, tuple(part.detach().clone().requires_grad_() for part in given))


@pytest.mark.parametrize("pooling", ["mean", "recency", "both"])
def test_padding_has_no_effect(pooling):
    table, pool = DenseTable(8, 3), HistoryPooling(pooling=pooling)
    wider = torch.cat([HISTORY, torch.zeros(4, 3, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(pool(table, wider), pool(table, HISTORY))


def test_dropped_items_are_left_out_of_the_mean_in_training_alone():
    table, pool = table_of(torch.eye(8)), HistoryPooling(dropout=0.5)
    history = torch.tensor([[2, 3, 4, 5, 6]]).expand(4000, 5)
    kept = pool(table, history)
    counts = (kept > 0).sum(1)
    assert abs(float(counts.double().mean()) - 2.5) < 0.1
    torch.testing.assert_close(kept.sum(1), (counts > 0).float())
    assert torch.equal(pool.eval()(table, history), torch.eye(8)[2:7].mean(0).expand(4000, 8))


@pytest.mark.parametrize("pooling", ["recency", "both"])
def test_a_history_of_which_nothing_is_kept_gives_zero(pooling):
    pool = HistoryPooling(pooling=pooling, dropout=0.999)
    found = pool(DenseTable(8, 3), HISTORY[:1])
    assert torch.equal(found, torch.zeros_like(found))
    assert found.isfinite().all()


@pytest.mark.bad_input
def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="unknown pooling 'recent'; did you mean 'recency'"):
        HistoryPooling(pooling="recent")
    with pytest.raises(ValueError, match="history_dropout"):
        HistoryPooling(dropout=1.0)


def test_a_mean_in_which_nothing_is_left_out_reads_the_history_as_it_is():
    read = []

    class Kept(DenseTable):
        def mean(self, ids: torch.Tensor) -> torch.Tensor:
            read.append(ids)
            return super().mean(ids)

    table, pool = Kept(8, 3), HistoryPooling(pooling="mean", dropout=0.5)
    pool.eval()
    plain = pool(table, HISTORY)
    assert read[0] is HISTORY
    masked = table.mean(HISTORY.masked_fill(HISTORY == 0, 0))
    assert torch.equal(plain, masked)
    pool.train()
    pool(table, HISTORY)
    assert read[-1] is not HISTORY
    assert not torch.equal(read[-1], HISTORY)
