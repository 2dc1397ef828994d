"""What `benchmarks/nominate_any.py` counts: shares of the best that are found, recall, and items that are scored."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture
def nominate_any(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    import nominate_any

    return nominate_any


def test_the_share_found_is_of_the_ids_that_there_are_and_a_missing_answer_finds_none(nominate_any):
    best = torch.tensor([[3, 5, 7, 9], [2, 4, -1, -1]])
    found = torch.tensor([[9, 3, 11, -1], [4, 2, 8, -1]])
    assert nominate_any.share_found(best, found) == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert nominate_any.share_found(best, best) == 1.0
    assert nominate_any.share_found(best, torch.full_like(found, -1)) == 0.0


def test_recall_is_the_share_of_users_whose_item_is_among_the_answers(nominate_any):
    found = torch.tensor([[3, 5], [4, 2], [8, -1], [6, 7]])
    assert nominate_any.recall(found, torch.tensor([5, 9, 8, 7])) == 0.75


def test_an_item_of_two_lists_is_scored_once_and_one_that_was_seen_is_not(nominate_any):
    lists = SimpleNamespace(ids=np.array([2, 4, 6, 8]), offsets=np.array([0, 2, 4]), places=np.array([0, 1, 1, 3]))

    class Index:
        def __init__(self, codes: list[list[int]]) -> None:
            self._lists, self.lists = self, lists
            self.codes = lambda states: torch.tensor(codes)

        def __len__(self) -> int:
            return 4

    both, one = Index([[0, 1], [1, 0]]), Index([[0], [1]])
    nothing, some = torch.full((2, 2), -1), torch.tensor([[4, 5], [6, -1]])
    states = torch.zeros(2, 1)
    assert nominate_any.scored(both, states, nothing) == 3.0
    assert nominate_any.scored(both, states, some) == 2.5
    assert nominate_any.scored(one, states, some) == 1.5


def test_rows_train_on_the_pairs_of_fit_for_a_few_epochs_and_closed_forms_have_no_settings(nominate_any):
    for row, (model, settings, epochs) in nominate_any.TRAINED.items():
        run = nominate_any.run_of(row)
        assert (run.model.name, run.training.epochs) == (model, epochs)
        assert run.model.settings == {**settings, "dropout": 0.0}
        assert nominate_any.run_of(row, quick=True).training.epochs == 1
    assert nominate_any.run_of("ease").model.name == "ease"
    assert not nominate_any.run_of("ease").model.settings


def test_the_table_on_the_page_is_that_of_the_kept_results(nominate_any):
    folder = Path(nominate_any.__file__).parents[1]
    kept = json.loads((folder / "benchmarks" / "results" / "nominate_any.json").read_text())
    lines = nominate_any.table(kept["rows"])
    page = (folder / "docs" / "concepts" / "sparcode.md").read_text()
    assert len(lines) == len(nominate_any.TRAINED) * len(nominate_any.LISTS)
    assert "\n".join(lines) in page
