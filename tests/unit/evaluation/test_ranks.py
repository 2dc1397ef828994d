"""Ranks of single pairs, where a whole evaluation would hide them."""

from __future__ import annotations

import torch

from twotower.evaluation.ranks import ranks_by_counting, ranks_in_lists
from twotower.metrics.ranking import MISSED

LEFT_OUT = -torch.inf
SCORES = torch.tensor([[3.0, LEFT_OUT, 1.0, 3.0], [LEFT_OUT, LEFT_OUT, 2.0, LEFT_OUT]])
ROWS, COLUMNS = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 2, 3, 0, 2])
EXPECTED = [MISSED, 2, 1, MISSED, 0]


def tiles():
    return [(0, SCORES[:, :3]), (3, SCORES[:, 3:])]


def test_what_is_left_out_of_the_answers_has_no_rank_however_few_stand_above_it():
    found = ranks_by_counting(tiles, ROWS, COLUMNS)
    assert found.ranks.tolist() == EXPECTED
    assert found.not_allowed.tolist() == [rank == MISSED for rank in EXPECTED]


def test_lists_say_the_same():
    found, best = ranks_in_lists(tiles, ROWS, COLUMNS, 4)
    assert found.ranks.tolist() == EXPECTED
    assert best.ids.tolist() == [[0, 3, 2, -1], [2, -1, -1, -1]]
