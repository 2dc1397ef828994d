"""Cosine neighbours against plain Python."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.serving.neighbours import Neighbours, directions


class Heads(NamedTuple):
    heads: Tensor
    query: Tensor


def cosine(left: list[float], right: list[float]) -> float:
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / math.sqrt(sum(a * a for a in left)) / math.sqrt(sum(b * b for b in right))


def test_neighbours_are_those_of_a_plain_loop() -> None:
    vectors = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
    ids = torch.arange(11) * 5 + 2
    found = Neighbours(directions(vectors), ids).of_ids(ids[[7, 0]], 4)
    for row, place in enumerate([7, 0]):
        cosines = {ids[j].item(): cosine(vectors[place].tolist(), vectors[j].tolist()) for j in range(11) if j != place}
        expected = sorted(cosines, key=lambda id: -cosines[id])[:4]
        assert found.ids[row].tolist() == expected
        assert found.scores[row].tolist() == pytest.approx([cosines[id] for id in expected], abs=1e-6)


def test_heads_are_laid_end_to_end_and_whole_numbers_left_out() -> None:
    heads = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2))
    found = directions(Heads(heads, torch.arange(5)))
    assert (found @ found.T)[1, 4].item() == pytest.approx(
        cosine(heads[1].flatten().tolist(), heads[4].flatten().tolist())
    )


def test_a_zero_state_has_cosine_zero_and_no_nan() -> None:
    found = directions(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert found.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_single_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="no item vectors"):
        directions(torch.ones(4, 1))


def test_a_vector_may_leave_one_item_out() -> None:
    neighbours = Neighbours(directions(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])), torch.tensor([2, 3, 4]))
    query = directions(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert neighbours.of_vectors(query, 1, torch.tensor([-1, 2])).ids.tolist() == [[2], [3]]
