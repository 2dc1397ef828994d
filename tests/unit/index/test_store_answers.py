"""Answers of an engine as rows: the best first, the lower id of equal scores, room that stays empty."""

from __future__ import annotations

import torch

from twotower.core.records import TopK
from twotower.index.checks import nothing
from twotower.index.store_answers import excluded_ids, put_best


def test_equal_scores_are_cut_by_the_lower_id_and_room_stays_empty():
    answers = TopK(*nothing(2, 3, torch.device("cpu")))
    put_best(answers, 0, [(9, 1.0), (4, 1.0), (2, 0.5), (7, 1.0)])
    put_best(answers, 1, [(5, -2.0)])
    assert answers.ids.tolist() == [[4, 7, 9], [5, -1, -1]]
    assert answers.scores.tolist() == [[1.0, 1.0, 1.0], [-2.0, -torch.inf, -torch.inf]]


def test_ids_to_leave_out_are_named_once_and_empty_places_are_none():
    exclude = torch.tensor([[3, 3, -1], [-1, -1, -1]])
    assert excluded_ids(exclude, 0) == [3]
    assert excluded_ids(exclude, 1) == []
    assert excluded_ids(None, 0) == []
