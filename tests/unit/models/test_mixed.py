"""A mixture of two models: what it scores, that its parts are as they would be alone, and what cannot be mixed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_model, save_model

from twotower.core.errors import InputError
from twotower.core.records import PADDING
from twotower.core.schema import Schema
from twotower.models.encode import encode_known_items, inference, users_with_history
from twotower.models.registry import build_model

SMALL = {"dim": 4, "field_dim": 3, "hidden": [], "history_length": 2}
PAIRS = {
    "both lists": ("item_cosine", {}, "item_lists", {"history_length": 2}),
    "both vectors": ("two_tower", SMALL, "sasrec", {"dim": 6, "heads": 1, "history_length": 3, "score": "cosine"}),
    "popularity and vectors": ("popularity", {}, "two_tower", SMALL),
    "lists and vectors": ("ease", {"lambda_": 1.0}, "two_tower", SMALL),
}


def learnt(name, settings, dataset):
    """A model as a run leaves it; its weights are drawn where it would be trained."""
    model = build_model(name, dataset.schema, settings).eval()
    if hasattr(model, "fit_log"):
        model.fit_log(dataset.log)
    return model


def scores_of(model, dataset):
    """Every user row, from 2 up, with every known item."""
    ids = torch.arange(2, dataset.schema.num_users)
    with inference(model):
        users = model.encode_users(users_with_history(dataset, dataset.log, ids, model.history_length))
        return model.score(users, encode_known_items(model, dataset).states).clone()


@pytest.fixture(params=PAIRS)
def mixed(request, tiny_dataset):
    """The mixture, and its two parts."""
    first, first_settings, second, second_settings = PAIRS[request.param]
    settings = {"first": first, "first_settings": first_settings, "second": second, "second_settings": second_settings}
    model = build_model("mixture", tiny_dataset.schema, settings | {"weight": 0.5})
    parts = [learnt(name, more, tiny_dataset) for name, more in ((first, first_settings), (second, second_settings))]
    known = [encode_known_items(part, tiny_dataset).states for part in parts]
    model.hold(*parts, items=(known[0], known[1]))
    return model.eval(), parts, settings


def test_a_score_is_the_sum_of_both_standardised_over_the_known_items(mixed, tiny_dataset):
    model, parts, _ = mixed
    expected = 0.0
    for part, weight in zip(parts, (1.0, 0.5), strict=True):
        alone = scores_of(part, tiny_dataset)
        deviation = alone.std(1, correction=0, keepdim=True)
        expected = expected + weight * torch.where(deviation > 1e-6, alone / deviation, 0.0)
    torch.testing.assert_close(scores_of(model, tiny_dataset), expected, rtol=1e-4, atol=1e-5)


def test_pairs_and_chosen_candidates_have_the_scores_of_the_whole_table(mixed, tiny_dataset):
    model, _, _ = mixed
    table = scores_of(model, tiny_dataset)
    with inference(model):
        ids = torch.arange(2, 7)
        users = model.encode_users(users_with_history(tiny_dataset, tiny_dataset.log, ids, model.history_length))
        states = encode_known_items(model, tiny_dataset).states
        chosen = torch.tensor([5, 0, 3])
        torch.testing.assert_close(model.score_among(users, states, chosen), table[:, chosen])
        items = model.encode_items(tiny_dataset.items(torch.tensor([4, 3, 9, 2, 8])))
        torch.testing.assert_close(
            model.score_rows(users, items), table[torch.arange(5), torch.tensor([2, 1, 7, 0, 6])]
        )


def test_two_models_of_vectors_are_one_of_vectors_side_by_side(mixed, tiny_dataset):
    model, parts, _ = mixed
    vectors = all(part.inner_product for part in parts)
    assert (model.has_vectors, model.inner_product) == (vectors, vectors)
    states = encode_known_items(model, tiny_dataset).states
    assert isinstance(states, torch.Tensor) == vectors
    if vectors:
        wide = [encode_known_items(part, tiny_dataset).states for part in parts]
        assert states.equal(torch.cat(wide, dim=1))


def test_what_is_stored_gives_the_same_scores(mixed, tiny_dataset, tmp_path):
    model, _, settings = mixed
    save_model(model, str(tmp_path / "weights.safetensors"))
    again = build_model("mixture", tiny_dataset.schema, settings | {"weight": 0.5})
    load_model(again, tmp_path / "weights.safetensors")
    assert scores_of(again.eval(), tiny_dataset).equal(scores_of(model, tiny_dataset))


def test_each_part_reads_as_much_of_a_history_as_it_would_alone(tiny_dataset):
    settings = {"first": "ease", "second": "two_tower", "first_settings": {"lambda_": 1.0}, "second_settings": SMALL}
    model = build_model("mixture", tiny_dataset.schema, settings | {"weight": 1.0})
    assert model.history_length is None
    seen = []
    model.second.encode_users = lambda users: seen.append(users) or torch.zeros(len(users.ids), 4)
    model.second_spread = torch.zeros(4, 4)
    ids = torch.arange(2, 7)
    model.encode_users(users_with_history(tiny_dataset, tiny_dataset.log, ids, None))
    alone = users_with_history(tiny_dataset, tiny_dataset.log, ids, 2)
    assert seen[0].history.equal(alone.history)
    assert seen[0].history_times.equal(alone.history_times)
    assert (alone.history == PADDING).any(), "a history shorter than the window takes part"


def test_a_part_that_scores_all_items_alike_says_nothing(tiny_dataset):
    model = build_model("mixture", tiny_dataset.schema, {"first": "ease", "second": "popularity", "weight": 1.0})
    model.fit_log(tiny_dataset.log)
    nobody = tiny_dataset.users(torch.tensor([1]), torch.tensor([[PADDING]]))
    items = model.encode_items(tiny_dataset.all_items())
    counts = tiny_dataset.log.items.bincount(minlength=10).float()
    with inference(model):
        found = model.score(model.encode_users(nobody), items)[0]
    torch.testing.assert_close(found, counts / counts[2:].std(correction=0))


def test_a_part_that_is_trained_is_not_fitted(tiny_dataset):
    model = build_model("mixture", tiny_dataset.schema, {"second": "two_tower"})
    with pytest.raises(InputError, match="its part TwoTower is trained, not fitted .* 'twotower fit' mixes"):
        model.fit_log(tiny_dataset.log)


def test_a_sequence_model_is_mixed_unless_it_reads_features_of_the_catalogue(tiny_dataset):
    assert build_model("mixture", tiny_dataset.schema, {"first": "sasrec"})
    with pytest.raises(InputError, match="'sasrec' cannot be a part"):
        build_model("mixture", tiny_dataset.schema, {"first": "sasrec", "first_settings": {"item_features": True}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": "dat"}, "'dat' cannot be a part; those are closed forms"),
        ({"first": "mixture"}, "'mixture' cannot be a part"),
        ({"first": "easy"}, "unknown model"),
        ({"weight": -1.0}, "weight must be finite and at least 0"),
        ({"weight": float("inf")}, "weight must be finite"),
        ({"first_settings": {"neighbors": 3}}, "neighbours"),
        pytest.param({"first_settings": 3}, "mixture", marks=pytest.mark.bad_input),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as raised:
        build_model("mixture", Schema(200, 300), settings)
    assert "\n" not in str(raised.value)
