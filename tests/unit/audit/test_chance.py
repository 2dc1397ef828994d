"""How much of the texts' likeness neighbours have: 1 as much as the texts' own nearest, 0 chance, None no telling."""

from __future__ import annotations

import pytest
import torch

from twotower.audit.chance import text_gain

GROUPS = torch.arange(120) % 6


def texts() -> list[str]:
    return [f"kind{group} sort{group} word{number % 7}" for number, group in enumerate(GROUPS.tolist())]


def noise(dim: int) -> torch.Tensor:
    return torch.randn(120, dim, generator=torch.Generator().manual_seed(1))


def test_states_that_go_by_the_text_gain_nearly_all_of_it() -> None:
    gain = text_gain(torch.eye(6)[GROUPS] + 0.01 * noise(6), texts())
    assert gain is not None
    assert gain > 0.7


def test_states_that_have_nothing_to_do_with_the_text_are_at_chance() -> None:
    assert text_gain(noise(8), texts()) == pytest.approx(0.0, abs=0.05)


def test_texts_without_a_word_in_common_tell_nothing() -> None:
    assert text_gain(noise(8), [f"word{number}" for number in range(120)]) is None


def test_fewer_than_fifty_texts_tell_nothing() -> None:
    assert text_gain(noise(8), [*texts()[:49], *[""] * 71]) is None
