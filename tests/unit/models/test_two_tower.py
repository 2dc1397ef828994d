"""The two-tower model over all kinds of features: what it reads, what it ignores, what unknown items fall back on."""

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Batch
from twotower.core.schema import Feature, Schema
from twotower.models.registry import build_model
from twotower.models.two_tower import TwoTower
from twotower.towers import embedding


def users_of(dataset, rows: list[int], histories: list[list[int]]):
    width = max(map(len, histories))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in histories])
    return dataset.users(torch.tensor(rows), padded)


def test_vectors_have_length_one_under_the_cosine(tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=6, field_dim=5).eval()
    items = model.encode_items(tiny_dataset.all_items())
    assert items.shape == (tiny_dataset.schema.num_items, 6)
    torch.testing.assert_close(items.norm(dim=1), torch.ones(len(items)))
    users = model.encode_users(users_of(tiny_dataset, [2, 3], [[2, 4], [3]]))
    torch.testing.assert_close(model.score(users, items), users @ items.T)


def test_a_network_over_both_vectors_in_the_place_of_their_product(tiny_dataset):
    model = build_model("two_tower", tiny_dataset.schema, {"dim": 6, "field_dim": 5, "score": "mlp"}).eval()
    users = model.encode_users(users_of(tiny_dataset, [2, 3], [[2, 4], [3]]))
    items = model.encode_items(tiny_dataset.all_items())
    first, last = model.scorer.user_part, model.scorer.rest[-1]
    expected = [
        [
            last(torch.relu(first.weight @ user + first.bias + model.scorer.item_part.weight @ item)).item()
            for item in items
        ]
        for user in users
    ]
    torch.testing.assert_close(model.score(users, items), torch.tensor(expected))
    torch.testing.assert_close(model.score_rows(users, items[4:6]), model.score(users, items[4:6]).diagonal())
    assert not model.inner_product
    assert build_model("two_tower", tiny_dataset.schema, {"dim": 6}).inner_product


def test_every_item_feature_moves_the_item_vector(tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=6, field_dim=5).eval()
    items = tiny_dataset.items(torch.tensor([4]))
    before = model.encode_items(items)
    for feature in tiny_dataset.schema.item_features:
        value = items.features[feature.name]
        other = (value + 1) % feature.size if feature.is_discrete else value.nan_to_num() + 1
        changed = items._replace(features={**items.features, feature.name: other})
        assert not torch.allclose(model.encode_items(changed), before), feature.name


def test_a_missing_feature_is_a_zero_field_whatever_its_kind(tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=6, field_dim=5).eval()
    items = tiny_dataset.items(torch.tensor([4, 5]))
    empty = {
        feature.name: torch.zeros_like(items.features[feature.name])
        if feature.is_discrete
        else torch.full_like(items.features[feature.name], float("nan"))
        for feature in tiny_dataset.schema.item_features
    }
    fields = model.item_fields(empty)
    assert not fields.any()
    assert model.encode_items(items._replace(features=empty)).isfinite().all()


def test_order_of_the_history_and_its_padding_have_no_effect(tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=6).eval()
    short = model.encode_users(users_of(tiny_dataset, [2], [[2, 4, 5]]))
    other = model.encode_users(users_of(tiny_dataset, [2, 3], [[5, 2, 4], [3, 4, 5, 6, 7]]))[:1]
    torch.testing.assert_close(short, other)
    assert model.encode_users(users_of(tiny_dataset, [2], [[0]])).isfinite().all()


def test_user_ids_are_read_only_when_asked(tiny_dataset):
    histories = [[2, 4], [2, 4]]
    same_features = {
        name: column[:1].repeat(7) for name, column in tiny_dataset.user_features.items() if column.ndim == 1
    }
    from dataclasses import replace

    alike = replace(tiny_dataset, user_features={**tiny_dataset.user_features, **same_features})
    for user_id in (False, True):
        model = TwoTower(alike.schema, dim=6, user_id=user_id).eval()
        first, second = model.encode_users(users_of(alike, [2, 3], histories))
        assert torch.allclose(first, second) != user_id


def test_id_dropout_trains_the_row_of_unknown_items(tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=6, id_dropout=0.5).train()
    model.encode_items(tiny_dataset.items(torch.arange(2, 10).repeat(8))).sum().backward()
    assert model.item_table.weight.grad[1].any()


def test_feature_dropout_only_in_training(tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=6, feature_dropout=0.7)
    items = tiny_dataset.all_items()
    torch.testing.assert_close(model.eval().encode_items(items), model.encode_items(items))
    assert not torch.allclose(model.train().encode_items(items), model.encode_items(items))


def test_forward_pairs_rows_and_follows_the_batch(tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=6).eval()
    users, items = users_of(tiny_dataset, [2, 3], [[2], [3]]), tiny_dataset.items(torch.tensor([4, 5]))
    encoded = model(Batch(users, items))
    torch.testing.assert_close(model.score_rows(encoded.users, encoded.items), model.score_pairs(Batch(users, items)))
    assert model(Batch(users, items._replace(features=None))).items is None


def test_names_that_a_module_cannot_bear_are_features_all_the_same():
    schema = Schema(3, 4, (), (Feature("type", "categorical", 5), Feature("a.b", "numeric", 1)))
    model = TwoTower(schema, dim=4)
    from twotower.core.records import Items

    items = Items(torch.tensor([2, 3]), {"type": torch.tensor([2, 3]), "a.b": torch.tensor([0.5, 1.0])})
    assert model.encode_items(items).shape == (2, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": "cosin"}, "unknown score 'cosin'; did you mean 'cosine'?"),
        ({"temperature": 0.0}, "temperature must be positive and finite"),
        ({"feature_dropout": 1.0}, "dropouts must be in"),
        ({"hidden": [0]}, "widths of at least 1"),
        ({"dims": 3}, "unknown setting of model 'two_tower' 'model.dims'; did you mean 'model.dim'?"),
    ],
)
def test_settings_that_make_no_model_are_refused(settings, message, tiny_dataset):
    with pytest.raises(InputError) as error:
        build_model("two_tower", tiny_dataset.schema, settings)
    assert message in str(error.value)


def test_items_without_features_need_their_id():
    with pytest.raises(InputError, match="item_id = true"):
        build_model("two_tower", Schema(3, 4), {"item_id": False})


@pytest.mark.parametrize("id_dropout", [0.0, 0.5])
def test_items_without_events_take_the_ids_of_items_with_features_like_theirs(id_dropout, tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=6, field_dim=5, id_dropout=id_dropout).eval()
    before = model.item_table.weight.detach().clone()
    events = torch.tensor([0, 0, 3, 1, 0, 2, 1, 1, 4, 0])
    new = torch.tensor([False, False, *(events[2:] == 0).tolist()])
    model.settle_items(new, events, tiny_dataset.all_items())
    table = model.item_table.weight
    learnt = [2, 3, 5, 6, 7, 8]
    torch.testing.assert_close(table[1], before[1] if id_dropout else before[learnt].mean(dim=0))
    assert table[[0, *learnt]].equal(before[[0, *learnt]])
    with torch.no_grad():
        fields = model.item_fields(tiny_dataset.all_items().features).flatten(1).double()
    for item in (4, 9):
        centred = fields - fields[learnt].mean(dim=0)
        cosines = [float(torch.cosine_similarity(centred[item], centred[other], dim=0)) for other in learnt]
        shares = torch.tensor([max(0.0, cosine) for cosine in cosines]) * events[learnt] ** embedding.POWER
        wanted = (before[learnt] * shares[:, None]).sum(0) / shares.sum()
        torch.testing.assert_close(table[item], wanted, rtol=1e-4, atol=1e-5)
    vectors = model.encode_items(tiny_dataset.all_items())
    assert not torch.allclose(vectors[4], vectors[9])


def test_a_tower_that_reads_one_field_copies_nothing(tiny_dataset, monkeypatch):
    bare = Schema(tiny_dataset.schema.num_users, tiny_dataset.schema.num_items, (), ())
    model = TwoTower(bare, dim=4, history_length=3)
    asked, offered = users_of(tiny_dataset, [2, 3], [[2, 4], [3]]), tiny_dataset.items(torch.tensor([4, 5]))
    users, items = model.encode_users(asked), model.encode_items(offered)

    def refused(*parts, **settings):
        raise AssertionError("fields were joined")

    monkeypatch.setattr(torch, "cat", refused)
    assert torch.equal(model.encode_users(asked), users)
    assert torch.equal(model.encode_items(offered), items)
    with pytest.raises(AssertionError, match="joined"):
        TwoTower(bare, dim=4, history_length=3, user_id=True).encode_users(asked)
