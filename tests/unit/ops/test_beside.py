"""Work beside other work, where there is nothing to branch: it is done at once, and once."""

from __future__ import annotations

import pytest
import torch

from twotower.ops.beside import beside


def test_outside_a_captured_graph_the_work_is_done_at_once_and_once():
    done = []

    def work() -> int:
        done.append("work")
        return 7

    joined = beside(work, like=torch.zeros(2))
    done.append("rest")
    assert (joined(), joined()) == (7, 7)
    assert done == ["work", "rest"]


def test_an_error_of_the_work_is_told_where_it_was_begun():
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0, like=torch.zeros(2))
