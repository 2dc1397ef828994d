"""The mean of a table's rows, and its gradient, against loops in float64."""

from __future__ import annotations

import torch

from twotower.core.records import PADDING
from twotower.towers.table import mean_of_rows

IDS = [[3, 1, 3, 0], [0, 0, 0, 0], [4, 0, 2, 0], [0, 1, 0, 0]]  # padding may stand anywhere


def test_mean_and_gradient():
    table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64)
    out = mean_of_rows(table, torch.tensor(IDS))
    (out * weight).sum().backward()
    gradient = [[0.0] * 3 for _ in range(6)]
    for row, ids in enumerate(IDS):
        present = [i for i in ids if i != PADDING]
        for c in range(3):
            mean = sum(table[i, c].item() for i in present) / len(present) if present else 0.0
            assert abs(out[row, c].item() - mean) < 1e-12
            for i in present:
                gradient[i][c] += weight[row, c].item() / len(present)
    torch.testing.assert_close(table.grad, torch.tensor(gradient, dtype=torch.float64))


def test_nothing_to_average():
    table = torch.randn(6, 3, requires_grad=True)
    for ids in (torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)):
        assert mean_of_rows(table, ids).tolist() == [[0.0] * 3] * 2
    assert mean_of_rows(table, torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 3)
