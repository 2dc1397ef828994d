"""Sizes of lists that nominate: what 0 stands for."""

from __future__ import annotations

import logging

import pytest
import torch

from twotower.index.nominate_sizes import sizes_of, users_to_read

OPEN = {"codes": 0, "longest": 0, "members": 0}


def test_open_settings_go_by_users_and_items():
    assert sizes_of(OPEN, torch.randn(40, 3), 900) == (10, 100, 0)
    assert sizes_of(OPEN, torch.randn(9_000, 3), 9_000) == (1024, 180, 0)
    assert sizes_of(OPEN, torch.randn(9_000, 3), 100_000) == (2048, 1000, 0)
    assert sizes_of({"codes": 3, "longest": 7, "members": 2}, torch.randn(40, 3), 900) == (3, 7, 2)


def test_states_that_are_no_vectors_are_averaged_over_several_users():
    assert sizes_of(OPEN, torch.zeros(40, 3, dtype=torch.int64), 900).members == 8
    assert sizes_of(OPEN, torch.randn(40, 3, 2), 900).members == 8


def test_more_codes_than_users_are_a_list_for_each_and_a_warning(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert sizes_of(OPEN | {"codes": 50}, torch.randn(40, 3), 900).codes == 40
    assert "index.codes = 50 for 40 users" in caplog.text


def test_ten_users_are_read_for_each_code():
    assert (users_to_read(7), users_to_read(0)) == (70, 20_480)
