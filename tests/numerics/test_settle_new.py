"""Rows of ids without training events: the mean of the nearest learnt ones by features."""

import torch

from twotower.towers import embedding
from twotower.towers.embedding import settle_new, settle_unknown
from twotower.towers.table import DenseTable


def test_only_the_nearest_stand_in_and_the_nearer_and_oftener_used_weigh_more(monkeypatch):
    monkeypatch.setattr(embedding, "NEAREST", 2)
    table = DenseTable(7, 3)
    before = table.weight.detach().clone()
    fields = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [-0.6, -0.8], [1.0, 0.0]])
    monkeypatch.setattr(embedding, "POWER", 0.5)
    events = torch.tensor([0, 9, 4, 9, 1, 1, 0])  # the events of the unknown id teach nothing about it
    settle_new(table, torch.arange(7) == 6, events, fields)
    torch.testing.assert_close(table.weight[6], (2.0 * before[2] + 1.8 * before[3]) / 3.8)
    assert table.weight[:6].equal(before[:6])


def test_an_id_like_none_takes_the_row_of_the_unknown_one():
    table = DenseTable(5, 3)
    fields = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    settle_new(table, torch.arange(5) == 4, torch.tensor([0, 0, 1, 1, 0]), fields)
    assert table.weight[4].equal(table.weight[1])


def test_blocks_and_an_even_choice_of_many_learnt_ids_change_little(monkeypatch):
    torch.manual_seed(2)
    events = (torch.arange(60) % 3 > 0).long()
    new = events == 0
    new[:2] = False
    fields = torch.randn(60, 4)
    whole = DenseTable(60, 3)
    blocks = DenseTable(60, 3)
    blocks.load_state_dict(whole.state_dict())
    settle_new(whole, new, events, fields)
    monkeypatch.setattr(embedding, "BLOCK", 1)
    settle_new(blocks, new, events, fields)
    torch.testing.assert_close(blocks.weight, whole.weight)
    monkeypatch.setattr(embedding, "MOST_COMPARED", 5)
    settle_new(blocks, new, events, fields)
    assert blocks.weight.isfinite().all()
    assert not torch.allclose(blocks.weight, whole.weight)


def test_without_a_learnt_id_rows_stay_as_they_are():
    table = DenseTable(5, 3)
    before = table.weight.detach().clone()
    settle_unknown(table, torch.zeros(5, dtype=torch.int64))
    settle_new(table, torch.arange(5) > 1, torch.zeros(5, dtype=torch.int64), torch.randn(5, 2))
    assert table.weight.equal(before)


def test_the_unknown_id_is_the_mean_of_the_learnt_ones():
    table = DenseTable(5, 3)
    settle_unknown(table, torch.tensor([7, 7, 1, 0, 2]))
    torch.testing.assert_close(table.weight[1], table.weight[[2, 4]].mean(dim=0))
