# mypy: allow-untyped-defs, allow-incomplete-defs
"""Captured ranking on a GPU gives the answers of `rank`."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.models.base import attach_items, prepare_serving
from twotower.models.captured import CapturedRank
from twotower.models.rank import rank
from twotower.models.registry import build_model

pytestmark = pytest.mark.gpu

SETTINGS = {
    "two_tower": {"dim": 4, "field_dim": 4, "hidden": (6,)},
    "dat": {"dim": 4, "field_dim": 4, "hidden": (6,)},
    "cold": {"field_dim": 4, "hidden": (6,)},
    "int_tower": {"dim": 4, "field_dim": 4, "hidden": (6, 5), "item_heads": 2, "user_heads": 2},
    "rank_tower": {"dim": 4, "field_dim": 4, "hidden": (6, 5), "item_heads": 2, "user_heads": 2},
    "fit": {"dim": 4, "field_dim": 4, "hidden": (6, 5), "meta_queries": 5},
}
NO_QUERIES = {"meta_queries": 0}


def served(name, dataset, **more):
    """A model where the data are, ready for requests."""
    model = build_model(name, dataset.schema, SETTINGS[name] | more).to(dataset.device)
    attach_items(model, dataset.all_items())
    model.eval()
    prepare_serving(model)
    return model


def a_request(dataset):
    users = dataset.users(torch.tensor([2], device="cuda"), torch.tensor([[2, 3, 4]], device="cuda"))
    return users, torch.tensor([9, 2, 7, 3]).cuda()


@pytest.mark.parametrize(("name", "more"), [*((name, {}) for name in SETTINGS), ("fit", NO_QUERIES)])
def test_same_answers(name, more, tiny_dataset):
    dataset = tiny_dataset.to("cuda")
    model = served(name, dataset, **more)
    with torch.inference_mode():
        items = model.encode_items(dataset.all_items())
        cases = [([2, 3, 4], [9, 2, 7, 3]), ([7, 0, 0], [5, 8, 4, 6]), ([0, 0, 0], [2, 3, 4, 5])]
        requests = [
            (dataset.users(torch.tensor([u], device="cuda"), torch.tensor([h], device="cuda")), torch.tensor(c).cuda())
            for u, (h, c) in enumerate(cases, start=2)
        ]
        captured = CapturedRank(model, items, *requests[0], k=3)
        for users, candidates in requests:
            found, expected = captured(users, candidates), rank(model, users, items, candidates, 3)
            assert found.ids.tolist() == expected.ids.tolist()
            torch.testing.assert_close(found.scores, expected.scores.cpu())
        for wrong in ([2, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4, 10]):
            with pytest.raises(InputError, match="stands twice|not a known item"):
                captured(requests[0][0], torch.tensor(wrong).cuda())
        with pytest.raises(InputError, match="captured for 4 candidates"):
            captured(requests[0][0], torch.tensor([2, 3]).cuda())


def test_a_model_that_changed_is_captured_anew(tiny_dataset):
    """FIT's tables are copies of its weights: a graph of the old ones must not answer for the new ones."""
    dataset = tiny_dataset.to("cuda")
    model = served("fit", dataset)
    users, candidates = a_request(dataset)
    with torch.inference_mode():
        captured = CapturedRank(model, model.encode_items(dataset.all_items()), users, candidates, k=3)
        captured(users, candidates)
        prepare_serving(model)
        with pytest.raises(InputError, match="make a new CapturedRank"):
            captured(users, candidates)


@pytest.mark.filterwarnings("ignore")  # the compiler of PyTorch warns about PyTorch
@pytest.mark.parametrize("more", [{}, NO_QUERIES])
def test_a_compiled_request_gives_the_answers_of_rank(more, tiny_dataset):
    dataset = tiny_dataset.to("cuda")
    model = served("fit", dataset, **more)
    users, candidates = a_request(dataset)
    with torch.inference_mode():
        items = model.encode_items(dataset.all_items())
        plain = rank(model, users, items, candidates, 3)
        model.compile_scoring()
        assert model.prepared.user_pass is not None
        for answer in (
            rank(model, users, items, candidates, 3),
            CapturedRank(model, items, users, candidates, 3)(users, candidates),
        ):
            assert answer.ids.tolist() == plain.ids.tolist()
            torch.testing.assert_close(answer.scores.cpu(), plain.scores.cpu())


@pytest.mark.parametrize("more", [{}, NO_QUERIES])
def test_tables_serve_under_autocast(more, tiny_dataset):
    dataset = tiny_dataset.to("cuda")
    model = served("fit", dataset, **more)
    users, _ = a_request(dataset)
    with torch.inference_mode():
        whole = model.encode_users(users)
        with torch.autocast("cuda", torch.bfloat16):
            half = model.encode_users(users)
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.05)
