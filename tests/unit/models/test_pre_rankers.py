"""FIT and its baselines as models: states that store, slice and refuse, features of history items, bad input."""

from __future__ import annotations

import pytest
import torch

from twotower.core import states
from twotower.core.errors import InputError
from twotower.core.records import Batch, Items
from twotower.core.schema import Schema
from twotower.models.base import Phased
from twotower.models.fit.model import FIT
from twotower.models.fit.states import FITItems, PairedHeads, bytes_per_item, compact, whole_heads
from twotower.models.prerank.cold import COLD
from twotower.models.registry import build_model
from twotower.training.objective import AgainstLabels

SMALL = {
    "dat": {"dim": 6, "hidden": (8,), "field_dim": 4},
    "cold": {"hidden": (8, 6), "field_dim": 4},
    "int_tower": {"dim": 6, "item_heads": 2, "user_heads": 3, "hidden": (8, 6), "field_dim": 4},
    "rank_tower": {"dim": 6, "item_heads": 2, "user_heads": 3, "hidden": (8, 6), "field_dim": 4},
    "fit": {"dim": 6, "item_heads": 2, "user_heads": 3, "hidden": (8, 6), "field_dim": 4, "meta_queries": 5},
}
VARIANTS = {
    "fit-no-mqm": ("fit", {"meta_queries": 0}),
    "fit-no-lss": ("fit", {"scorer": "dot", "user_heads": 1, "item_heads": 1}),
    "fit-sum-max": ("fit", {"scorer": "sum_max"}),
    "fit-fc": ("fit", {"scorer": "flat_fc"}),
    "fit-dien": ("fit", {"interaction": "dien"}),
    "fit-target": ("fit", {"interaction": "target_attention"}),
    "fit-deepfm": ("fit", {"interaction": "deepfm"}),
    "fit-hard": ("fit", {"query_training": "hard", "self_attention": False}),
    "cold-user-id": ("cold", {"user_id": True}),
}


def make(name, dataset, **more):
    base, settings = VARIANTS.get(name, (name, {}))
    model = build_model(base, dataset.schema, SMALL[base] | settings | more)
    model.attach_items(dataset.all_items())
    return model


@pytest.fixture
def batch(tiny_dataset):
    users = tiny_dataset.users(torch.tensor([2, 3, 1, 4]), torch.tensor([[2, 3, 4], [5, 0, 0], [0, 0, 0], [7, 8, 0]]))
    return Batch(users, tiny_dataset.items(torch.tensor([6, 2, 9, 6])), torch.tensor([1.0, 0.0, 1.0, 0.0]))


@pytest.fixture(params=[*SMALL, *VARIANTS])
def name(request):
    return request.param


def test_all_ways_to_score_agree(name, tiny_dataset, batch):
    model = make(name, tiny_dataset).eval()
    users, items = model.encode_users(batch.users), model.encode_items(batch.items)
    everything = model.score(users, items)
    assert everything.shape == (4, 4)
    torch.testing.assert_close(model.score_pairs(batch), everything.diagonal())
    encoded = model(batch)
    torch.testing.assert_close(model.score_rows(encoded.users, encoded.items), everything.diagonal())
    by_row = states.map_state(lambda part: part.expand(4, *part.shape), items)
    torch.testing.assert_close(model.score_rows(users, by_row), everything)


def test_a_step_of_training_lowers_the_loss(name, tiny_dataset, batch):
    model, objective = make(name, tiny_dataset), AgainstLabels()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = objective(model, batch).item()
    for step in range(30):
        if isinstance(model, Phased):
            model.set_progress(step / 10)
        optimizer.zero_grad()
        loss = objective(model, batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < first


def test_item_states_are_stored_and_read_back(name, tiny_dataset):
    model = make(name, tiny_dataset).eval()
    items = model.encode_items(tiny_dataset.all_items())
    back = states.from_tensors(states.to_tensors(items), model.item_store.kind)
    assert states.rows(back) == tiny_dataset.schema.num_items
    assert type(back) is type(items)


def test_features_are_looked_up_when_ids_come_alone(name, tiny_dataset, batch):
    model = make(name, tiny_dataset).eval()
    alone = batch._replace(items=Items(batch.items.ids))
    if name == "dat":
        model = model.eval()
    torch.testing.assert_close(model.score_pairs(alone), model.score_pairs(batch))


def test_padding_of_histories_has_no_effect(name, tiny_dataset, batch):
    model = make(name, tiny_dataset).eval()
    wider = batch.users._replace(history=torch.nn.functional.pad(batch.users.history, (0, 2)))
    torch.testing.assert_close(model.score_pairs(batch._replace(users=wider)), model.score_pairs(batch))


def test_weights_carry_what_was_attached(name, tiny_dataset, batch):
    model = make(name, tiny_dataset).eval()
    base, settings = VARIANTS.get(name, (name, {}))
    other = build_model(base, tiny_dataset.schema, SMALL[base] | settings).eval()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.score_pairs(batch), model.score_pairs(batch), rtol=0, atol=0)


def test_a_history_needs_its_features(name, tiny_dataset, batch):
    base, settings = VARIANTS.get(name, (name, {}))
    model = build_model(base, tiny_dataset.schema, SMALL[base] | settings)
    with pytest.raises(InputError, match="attach_items"):
        model.score_pairs(batch)


def test_no_features_need_no_attaching():
    model = FIT(Schema(5, 9), **SMALL["fit"]).eval()
    from twotower.core.records import Users

    users = Users(torch.tensor([2]), {}, torch.tensor([[3, 4, 0]]))
    scores = model.score(model.encode_users(users), model.encode_items(Items(torch.arange(2, 9))))
    assert scores.shape == (1, 7)
    assert scores.isfinite().all()


# FIT


@pytest.mark.bad_input
def test_states_of_training_rows_score_no_other_item(tiny_dataset, batch):
    """The user was made with the item's help: against other items that would be a leak."""
    model = make("fit", tiny_dataset)
    encoded = model(batch)
    assert isinstance(encoded.users, PairedHeads)
    with pytest.raises(InputError, match="pointwise loss"):
        model.score(encoded.users, encoded.items)
    by_row = states.map_state(lambda part: part.expand(4, *part.shape), encoded.items)
    with pytest.raises(InputError, match="pointwise loss"):
        model.score_rows(encoded.users, by_row)


@pytest.mark.parametrize(
    ("precision", "bytes_each", "close"), [("float32", 25, 1e-7), ("float16", 13, 2e-3), ("int8", 9, 3e-2)]
)
def test_compact_states(tiny_dataset, batch, precision, bytes_each, close):
    model = make("fit", tiny_dataset).eval()
    items = model.encode_items(tiny_dataset.all_items())
    assert items.query_index.dtype == torch.uint8
    small = compact(items, precision)
    assert bytes_per_item(small) == bytes_each
    users = model.encode_users(batch.users)
    torch.testing.assert_close(model.score(users, small), model.score(users, items), rtol=0, atol=close)


def test_int8_rounds_to_the_nearest_step():
    items = FITItems(
        torch.zeros(50, dtype=torch.uint8), torch.randn(50, 3, 7) * torch.logspace(-3, 3, 50)[:, None, None]
    )
    small = compact(items, "int8")
    step = small.step.float()[:, None, None]
    assert ((whole_heads(small, torch.float32) - items.heads).abs() <= step * 0.5001).all()


def test_compact_state_of_zeros():
    small = compact(FITItems(torch.zeros(2, dtype=torch.uint8), torch.zeros(2, 1, 4)), "int8")
    assert small.heads.dtype == torch.int8
    assert not small.heads.any()


def test_query_index_grows_with_the_queries():
    schema = Schema(3, 400)
    for count, dtype in ((256, torch.uint8), (257, torch.int16)):
        items = FIT(schema, **(SMALL["fit"] | {"meta_queries": count})).eval().encode_items(Items(torch.arange(2, 400)))
        assert items.query_index.dtype == dtype


def test_tables_go_with_what_they_were_made_of(tiny_dataset, batch):
    model = make("fit", tiny_dataset)
    model.prepare_serving()
    assert not model.training
    for change in (
        lambda: model.train().eval(),
        lambda: model.load_state_dict(make("fit", tiny_dataset).state_dict()),
        lambda: model.double().float(),
        lambda: model.attach_items(tiny_dataset.all_items()),
    ):
        model.prepare_serving()
        change()
        assert model.prepared.tables is None
    with torch.no_grad():
        model.meta.meta.mul_(-1.0)
    before = model.encode_users(batch.users)
    model.prepare_serving()
    torch.testing.assert_close(model.encode_users(batch.users), before)


# COLD


def test_cold_leaves_fields_out(tiny_dataset, batch):
    model = make("cold", tiny_dataset).eval()
    names = model.select_fields(batch, 5)
    assert len(names) == 5
    assert set(names) <= set(model.field_names)
    assert int((model.field_weights(batch) > 0).sum()) == 5
    before = model.score_pairs(batch)
    dropped = next(place for place, field in enumerate(model.field_names) if field not in names)
    assert model.kept[dropped] == 0
    if model.field_names[dropped].startswith("user."):
        feature = model.field_names[dropped].removeprefix("user.")
        users = batch.users._replace(features=batch.users.features | {feature: 0 * batch.users.features[feature]})
        torch.testing.assert_close(model.score_pairs(batch._replace(users=users)), before)


# Bad input


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("fit", {"meta_queries": 9}, "meta_queries = 9: there are 8 items"),
        ("fit", {"meta_queries": -1}, "model.meta_queries = -1: a whole number of at least 0 is wanted"),
        ("fit", {"meta_queries": 8.5}, "model.meta_queries = 8.5: a whole number"),
        ("fit", {"meta_queries": "a"}, "model.meta_queries = 'a': a whole number"),
        ("fit", {"user_heads": True}, "model.user_heads = True: a number is wanted"),
        ("fit", {"user_id": 1}, "model.user_id = 1: true or false is wanted"),
        ("fit", {"temperature": "hot"}, "model.temperature = 'hot': a number is wanted"),
        ("fit", {"scorer": 3}, "model.scorer = 3: text is wanted"),
        ("fit", {"hidden": 64}, r"model.hidden = 64: a list such as \[300, 300, 128\] is wanted"),
        ("fit", {"hidden": [64, 1.5]}, r"model.hidden = \[64, 1.5\]: a list such as"),
        ("fit", {"field_dim": 0}, "model 'fit' cannot be built with dim = 6, .*field_dim = 0"),
        ("dat", {"dim": -4}, "model.dim = -4: a whole number of at least 0"),
        ("fit", {"dim": 7}, "item_heads = 2 does not divide dim = 7"),
        ("fit", {"scorer": "ls"}, "did you mean 'lss'"),
        ("fit", {"interaction": "dni"}, "did you mean 'din'"),
        ("fit", {"query_training": "sft"}, "did you mean 'soft'"),
        ("fit", {"scorer": "dot"}, "one head a side"),
        ("fit", {"user_heads": 0}, "at least 1"),
        ("fit", {"dropout": 1.0}, "dropout must be in"),
        ("fit", {"hidden": ()}, "widths"),
        ("int_tower", {"dim": 7}, "does not divide"),
        ("int_tower", {"contrastive_temperature": 0.0}, "positive temperature"),
        ("rank_tower", {"dim": 7}, "does not divide"),
        ("rank_tower", {"coarse_negatives": 0}, "at least 1"),
        ("fit", {"history_length": 0}, "history_length = 0: a pre-ranker reads"),
        ("cold", {"history_length": 0}, "history_length = 0"),
        ("dat", {"category": "brnd"}, "did you mean 'brand'"),
        ("dat", {"category": "price"}, "no categorical feature"),
        ("dat", {"mimic_weight": -1.0}, "must not be negative"),
    ],
)
def test_settings_out_of_range(tiny_dataset, model, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        build_model(model, tiny_dataset.schema, SMALL[model] | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_states_of_another_model(tiny_dataset, batch):
    fit, cold, towers = (make(name, tiny_dataset).eval() for name in ("fit", "cold", "rank_tower"))
    users, items = fit.encode_users(batch.users), fit.encode_items(batch.items)
    with pytest.raises(InputError, match="got Tensor: another model's"):
        fit.score(users, items.heads)
    with pytest.raises(InputError, match="another model's states"):
        fit.score(items.heads, items)
    with pytest.raises(InputError, match="another model's states"):
        cold.score(users[:, 0], items.heads)
    with pytest.raises(InputError, match="another model's"):
        towers.score(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4))
    with pytest.raises(InputError, match=r"COLD scores .* with \[items, \d, 4\]; these are another"):
        cold.score(cold.encode_users(batch.users), torch.zeros(2, cold.item_fields.count, 5))
    with pytest.raises(InputError, match=r"items of 2 heads of 3, got \(4, 2, 5\): another model's states"):
        fit.score(users, items._replace(heads=torch.zeros(4, 2, 5)))
    with pytest.raises(InputError, match=r"items of 2 heads of 3, got \(4, 3, 3\)"):
        fit.score_rows(users, items._replace(heads=torch.zeros(4, 3, 3)))
    with pytest.raises(ValueError, match="name query 5, the model has 5: another model's states"):
        fit.item_store.read(states.to_tensors(items._replace(query_index=torch.full_like(items.query_index, 5))))
    dat = make("dat", tiny_dataset).eval()
    with pytest.raises(InputError, match=r"DAT cannot score states of \(6,\) with \(7,\): another model's states"):
        dat.score(dat.encode_users(batch.users), torch.zeros(4, 7))
    with pytest.raises(InputError, match=r"DAT cannot score states of \(6,\) with FITItems: another"):
        dat.score(dat.encode_users(batch.users), items)
    with pytest.raises(InputError, match="FITItems"):
        compact(items.heads, "int8")
    with pytest.raises(InputError, match="did you mean 'float16'"):
        compact(items, "float61")
    with pytest.raises(ValueError, match="another model's states"):
        states.from_tensors(states.to_tensors(torch.zeros(3, 4)), FIT.item_store.kind)


@pytest.mark.bad_input
def test_items_that_do_not_fit(tiny_dataset, batch):
    model = make("fit", tiny_dataset)
    with pytest.raises(InputError, match="all 10 items in the order"):
        model.attach_items(tiny_dataset.items(torch.tensor([3, 2])))
    with pytest.raises(InputError, match="without their feature 'brand'"):
        model.encode_items(Items(batch.items.ids, {}))
    with pytest.raises(InputError, match="between 1 and"):
        COLD(tiny_dataset.schema, **SMALL["cold"]).select_fields(batch, 0)
