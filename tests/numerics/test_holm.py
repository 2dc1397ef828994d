"""Holm's correction against its definition, step by step."""

from __future__ import annotations

import random

import pytest

from twotower.metrics.intervals import holm


def slow_holm(p_values: list[float], level: float) -> list[bool]:
    """Which hypotheses the step-down procedure rejects at a level, one at a time, smallest first."""
    left = dict(enumerate(p_values))
    rejected = [False] * len(p_values)
    while left:
        smallest = min(left, key=lambda place: left[place])
        if left[smallest] > level / len(left):
            break
        rejected[smallest] = True
        del left[smallest]
    return rejected


@pytest.mark.parametrize("number", [1, 2, 5, 9])
def test_a_corrected_value_below_a_level_is_a_rejection_at_that_level(number):
    draw = random.Random(number)
    p_values = [draw.random() ** 3 for _ in range(number)]
    corrected = holm(p_values)
    for level in (0.013, 0.05, 0.1, 0.35):
        assert [value <= level for value in corrected] == slow_holm(p_values, level)


def test_no_corrected_value_is_above_one_or_below_the_plain_one():
    p_values = [0.6, 0.9, 0.2, 0.2]
    corrected = holm(p_values)
    assert all(plain <= value <= 1.0 for plain, value in zip(p_values, corrected, strict=True))
    assert holm([]) == []
