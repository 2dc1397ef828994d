"""A model over a vocabulary that grew: known rows stay bit by bit, new ones are the unknown one's or the mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import UNKNOWN
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.models.encode import inference, users_with_history
from twotower.models.enlarge import enlarged
from twotower.models.registry import build_model

SETTINGS = {"dim": 4, "field_dim": 3, "hidden": [4], "user_id": True}


def more(schema: Schema) -> Schema:
    """Three users, two items and one brand more."""
    brand, *rest = schema.item_features
    grown = (replace(brand, size=brand.size + 1), *rest)
    return replace(schema, num_users=schema.num_users + 3, num_items=schema.num_items + 2, item_features=grown)


def both(dataset: Dataset, name: str, *, as_unknown: bool, **settings: object) -> tuple[Model, Model]:
    model = build_model(name, dataset.schema, settings).eval()
    return model, enlarged(model, name, settings, more(dataset.schema), as_unknown=as_unknown)


@pytest.mark.parametrize("as_unknown", [True, False])
def test_known_rows_stay_bit_by_bit(tiny_dataset: Dataset, as_unknown: bool) -> None:
    model, grown = both(tiny_dataset, "two_tower", as_unknown=as_unknown, **SETTINGS)
    after = grown.state_dict()
    for name, before in model.state_dict().items():
        assert torch.equal(after[name][: len(before)] if before.ndim else after[name], before)


def test_new_rows_are_unknown_ones_and_a_new_user_scores_as_an_unknown_one(tiny_dataset: Dataset) -> None:
    model, grown = both(tiny_dataset, "two_tower", as_unknown=True, **SETTINGS)
    table = grown.state_dict()["user_table.weight"]
    assert torch.equal(table[7:], table[UNKNOWN].expand(3, -1))
    users = users_with_history(tiny_dataset, tiny_dataset.log, torch.tensor([4]), 5)
    with inference(model), inference(grown):
        unknown = model.encode_users(users._replace(ids=torch.tensor([UNKNOWN])))
        assert torch.equal(grown.encode_users(users._replace(ids=torch.tensor([9]))), unknown)


def test_rows_to_train_begin_at_the_mean_or_where_features_tell_items_apart_as_unknown(tiny_dataset: Dataset) -> None:
    model, grown = both(tiny_dataset, "two_tower", as_unknown=False, **SETTINGS)
    before, after = model.state_dict(), grown.state_dict()
    users, items = before["user_table.weight"], before["item_table.weight"]
    assert torch.equal(after["user_table.weight"][7:], users[2:].mean(dim=0).expand(3, -1))
    assert torch.equal(after["item_table.weight"][10:], items[UNKNOWN].expand(2, -1))
    model, grown = both(tiny_dataset, "sasrec", as_unknown=False, dim=4)
    rows = model.state_dict()["item_table.weight"]
    assert torch.equal(grown.state_dict()["item_table.weight"][10:], rows[2:].mean(dim=0).expand(2, -1))


def test_it_draws_nothing_from_the_global_generator(tiny_dataset: Dataset) -> None:
    model = build_model("two_tower", tiny_dataset.schema, SETTINGS)
    state = torch.random.get_rng_state()
    enlarged(model, "two_tower", SETTINGS, more(tiny_dataset.schema))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.bad_input
def test_matrices_of_items_by_items_cannot_grow(tiny_dataset: Dataset) -> None:
    model = build_model("ease", tiny_dataset.schema)
    with pytest.raises(InputError, match="keeps more of its items than a row of a table"):
        enlarged(model, "ease", {}, more(tiny_dataset.schema))
