"""What every model of sequences keeps, with features of items and time read: a new one is taken up by its line of the
registry, and a further form of one by a line of `FORMS`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import PADDING, Batch, Items, Users
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.models.base import attach_items
from twotower.models.registry import MODELS, build_model, model_class
from twotower.models.sequence_model import SequenceModel
from twotower.models.sequential import Sequential
from twotower.models.t2diff import T2Diff
from twotower.towers.sequence.base import Stepwise
from twotower.training.objective import own_losses

FORMS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in MODELS if model_class(name).batches == "sequences"),
    *((name, {"relative": True}) for name in ("sasrec", "ligr", "contrast_vae", "diffurec", "t2diff")),
    ("bert4rec", {"asked": "last"}),
    ("dat_plus", {"encoder": "causal", "relative": True}),
    ("t2diff", {"restored": "as_served"}),
    ("t2diff", {"restored": "printed", "drift": False}),
    ("t2diff", {"attention": "mixed", "session": 3, "session_gap": 3_000}),
    ("t2diff", {"attention": "mixed", "session": 3, "restored": "none"}),
]
FEATURES = ("brand", "genres", "price", "title", "picture")
STEPWISE = {"gru4rec", "lrurec", "mamba4rec"}
LENGTH = 6
START = 1_000_000_000


@pytest.fixture
def tiny_dataset(tiny_dataset: Dataset) -> Dataset:
    """With numbers and vectors in float64, as the models of these tests are."""
    columns = tiny_dataset.item_features
    items = {name: part.double() if part.is_floating_point() else part for name, part in columns.items()}
    return replace(tiny_dataset, item_features=items)


@pytest.fixture(params=FORMS, ids=lambda form: "-".join([form[0], *map(str, form[1].values())]))
def form(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return request.param


def made(form: tuple[str, dict[str, object]], dataset: Dataset, **settings: object) -> SequenceModel:
    """In float64, in evaluation mode, with no weight at a value where it would do nothing."""
    shared = {"dim": 8, "history_length": LENGTH, "item_features": True, "time_gaps": True}
    model = build_model(form[0], replace(dataset.schema, has_times=True), shared | form[1] | settings).double().eval()
    assert isinstance(model, SequenceModel)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    attach_items(model, dataset.all_items())
    return model


@pytest.fixture
def model(form: tuple[str, dict[str, object]], tiny_dataset: Dataset) -> SequenceModel:
    return made(form, tiny_dataset)


@pytest.fixture
def users() -> Users:
    """Three users: a whole window, two events, one."""
    history = torch.tensor([[3, 4, 5, 6, 7, 8], [6, 7, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
    times = torch.tensor([[0, 10, 900, 4_000, 90_000, 90_001], [0, 50_000, 0, 0, 0, 0], [0] * 6])
    return Users(torch.tensor([2, 3, 4]), {}, history, torch.where(history > 0, START + times, 0))


@pytest.fixture
def batch(users: Users) -> Batch:
    return Batch(users, Items(torch.tensor([[4, 5, 6, 7, 8, 9], [7, 8, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0]])))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def at_all_places(model: SequenceModel, users: Users) -> Tensor:
    """The state after each event, as serving knows it."""
    if isinstance(model, T2Diff):
        vectors = model.embedded(users.history)
        guesses = None if model.next_item is None else model.next_item(vectors, users.history != PADDING)
        return model.positions(model.timed(vectors, users.history_times), guesses, users.history_times)
    assert isinstance(model, Sequential)
    return model.positions(users.history, users.history_times)


def changed(dataset: Dataset, feature: str, item: int) -> Items:
    """All items, of which one has another value."""
    items = dataset.all_items()
    values = dict(items.features or {})
    column = values[feature].clone()
    if column.is_floating_point():
        column[item] += 1.0
    else:
        column[item] = torch.where(column[item] == 1, 2, 1)
    return Items(items.ids, values | {feature: column})


class TestSequenceModel:
    """One class for all."""

    def test_a_changed_later_event_or_time_or_feature_changes_no_earlier_state(self, form, model, users, tiny_dataset):
        if model.draws_rows:
            pytest.skip("it sees both sides, and is trained to fill in blanks")
        row = Users(users.ids[:1], {}, users.history[:1], users.history_times[:1])
        before = at_all_places(model, row)
        for place in range(1, LENGTH):
            history, times = row.history.clone(), row.history_times.clone()
            history[:, place] = 9
            times[:, place:] += 77_777
            after = at_all_places(model, row._replace(history=history, history_times=times))
            close(after[:, :place], before[:, :place])
            assert not torch.isclose(after[:, place], before[:, place]).all()
        model.attach_items(changed(tiny_dataset, "brand", 6))
        after = at_all_places(model, row)
        close(after[:, :3], before[:, :3])
        assert not torch.isclose(after[:, 3], before[:, 3]).all()

    def test_a_batch_is_what_its_users_are_alone_at_any_width(self, model, users):
        together = model.encode_users(users)
        for row, length in enumerate((6, 2, 1)):
            history, times = (part[row : row + 1, :length] for part in users[2:])
            close(model.encode_users(Users(users.ids[row : row + 1], {}, history, times))[0], together[row])

    def test_the_answer_is_the_state_after_the_latest_event(self, form, model, users):
        if model.draws_rows or form[0] == "dat_plus":
            pytest.skip("it is asked otherwise, or knows who is asking")
        last = torch.tensor([5, 1, 0])
        close(model.encode_users(users), at_all_places(model, users)[torch.arange(3), last])

    def test_one_event_after_the_other_gives_the_answer_of_the_whole_where_there_is_a_step_form(
        self, form, model, users
    ):
        tower = model.get_submodule("tower")
        assert isinstance(tower, Stepwise) is (form[0] in STEPWISE)
        if isinstance(tower, Stepwise):
            row = Users(users.ids[:1], {}, users.history[:1], users.history_times[:1])
            events, state = model.events(row.history, row.history_times), None
            for place in range(LENGTH):
                found, state = tower.step(events[:, place], state)
            close(found, model.encode_users(row))

    def test_an_empty_history_is_the_zero_vector(self, form, model):
        empty = torch.zeros(2, 1, dtype=torch.int64)
        assert not model.encode_users(Users(torch.tensor([2, 3]), {}, empty, empty)).any()
        if "session_gap" not in form[1]:
            assert not model.encode_users(Users(torch.tensor([2, 3]), {}, empty)).any()

    def test_a_history_longer_than_the_window_is_cut_to_its_first_places(self, model, users):
        """Whoever asks hands over the latest events, and no more than the window holds."""
        row = Users(users.ids[:1], {}, users.history[:1], users.history_times[:1])
        history, times = (torch.cat([part, part[:, -1:]], dim=1) for part in row[2:])
        close(model.encode_users(row._replace(history=history, history_times=times)), model.encode_users(row))

    def test_a_changed_feature_changes_the_score_of_the_item_and_of_users_who_had_it(self, model, users, tiny_dataset):
        def scores(items: Items) -> Tensor:
            model.attach_items(items)
            return model.score(model.encode_users(users), model.encode_items(items))

        before, others = scores(tiny_dataset.all_items()), torch.arange(2, 8)
        for feature in FEATURES:
            after = scores(changed(tiny_dataset, feature, 9))
            close(after[:, others], before[:, others])
            assert not torch.isclose(after[:, 9], before[:, 9]).any(), feature
            after = scores(changed(tiny_dataset, feature, 8))
            assert not torch.isclose(after[0, 2:], before[0, 2:]).any(), feature
            close(after[1:, others], before[1:, others])

    def test_items_by_id_alone_have_the_features_that_are_attached(self, model, tiny_dataset):
        with_features = tiny_dataset.items(torch.arange(2, 10))
        close(model.encode_items(Items(with_features.ids)), model.encode_items(with_features))

    def test_many_places_and_few_find_the_same_features(self, model, users):
        """A step embeds each item once where it has more places than there are items."""
        assert users.history.numel() >= model.schema.num_items
        whole = model.embedded(users.history)
        for row in range(3):
            close(model.embedded(users.history[row]), whole[row])

    def test_the_gradient_reaches_all_features_and_the_time(self, model, batch):
        model.train()
        torch.manual_seed(0)
        encoded = model(batch)
        items = model.encode_items(Items(encoded.item_ids))
        (model.score_rows(encoded.users, items).square().sum() + own_losses(encoded)).backward()
        for name, weight in model.named_parameters():
            if name.startswith(("item_features.", "gaps.", "item_table.")):
                assert weight.grad is not None, name
                assert weight.grad.isfinite().all(), name
                assert weight.grad.any(), name

    def test_times_that_stand_in_padding_have_no_effect_in_training(self, model, batch):
        noisy = torch.where(batch.users.history > 0, batch.users.history_times, START + 100)
        for seed in range(12 if model.draws_rows else 1):  # a short window is mostly asked for its last event
            states = []
            for times in (batch.users.history_times, noisy):
                torch.manual_seed(seed)
                states.append(model(batch._replace(users=batch.users._replace(history_times=times))).users)
            close(states[0], states[1])

    def test_a_changed_time_changes_the_answer(self, model, users):
        later = users._replace(history_times=users.history_times.clone())
        later.history_times[0, 5] += 500_000
        found = torch.isclose(model.encode_users(later), model.encode_users(users)).all(1)
        assert found.tolist() == [False, True, True]

    def test_a_clock_that_goes_back_counts_like_one_that_goes_forward(self, model, users):
        back = users._replace(history_times=torch.where(users.history > 0, 2 * START - users.history_times, 0))
        close(model.encode_users(back), model.encode_users(users))

    def test_a_history_without_times_is_read_without(self, form, model, tiny_dataset, users):
        if form[1].get("session_gap"):
            with pytest.raises(InputError, match="this log has none"):
                model.encode_users(users._replace(history_times=None))
            return
        torch.manual_seed(0)
        timeless = made(form, tiny_dataset, time_gaps=False)
        timeless.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("gaps.")})
        without = users._replace(history_times=None)
        close(model.encode_users(without), timeless.encode_users(without))

    def test_what_is_saved_is_all_there_is(self, form, model, users, tiny_dataset, tmp_path):
        save_model(model, str(tmp_path / "weights.safetensors"))
        schema = replace(tiny_dataset.schema, has_times=True)
        shared = {"dim": 8, "history_length": LENGTH, "item_features": True, "time_gaps": True}
        again = build_model(form[0], schema, shared | form[1]).double().eval()
        with pytest.raises(InputError, match="are not attached"):
            again.encode_users(users)
        load_model(again, tmp_path / "weights.safetensors")
        assert again.encode_users(users).equal(model.encode_users(users))
        assert again.encode_items(Items(torch.arange(10))).equal(model.encode_items(Items(torch.arange(10))))

    def test_without_features_and_time_there_is_nothing_of_them(self, form, tiny_dataset):
        plain = build_model(form[0], tiny_dataset.schema, {"dim": 8, "history_length": LENGTH} | form[1])
        assert not any(key.startswith(("item_features", "gaps")) for key in plain.state_dict())
        attach_items(plain, tiny_dataset.all_items())

    def test_features_and_times_that_are_not_there_are_refused_in_one_line(self, form):
        bare = Schema(4, 12, has_times=False)
        for setting, message in (
            ("item_features", "item_features = true, but the items of this data have no features"),
            ("time_gaps", "time_gaps = true needs times, and this log has none"),
        ):
            own = {key: value for key, value in form[1].items() if key != "session_gap"}
            with pytest.raises(InputError, match=message) as refused:
                build_model(form[0], bare, {"dim": 8, "history_length": LENGTH, setting: True} | own)
            assert "\n" not in str(refused.value)


def test_every_model_of_sequences_is_one():
    assert all(issubclass(model_class(name), SequenceModel) for name, _ in FORMS)
    assert {"sasrec", "bert4rec", "stosa", "diffurec", "contrast_vae", "dat_plus", "t2diff"} <= {n for n, _ in FORMS}


def test_the_vector_of_an_item_is_its_row_plus_the_vectors_of_its_features(tiny_dataset):
    model = made(("sasrec", {}), tiny_dataset)
    items = tiny_dataset.items(torch.tensor([3, 4]))
    parts = model.item_features.features(items.features)
    assert parts.shape == (2, 5, 8)
    close(model.encode_items(items), model.item_table.weight[[3, 4]] + parts.sum(1))
    assert not parts[1, 2].any()  # a price that is missing adds nothing


def test_a_gap_is_that_to_the_event_before_and_the_first_event_has_none(tiny_dataset):
    model = made(("sasrec", {}), tiny_dataset)
    times = START + torch.tensor([[0, 1, 1, 4_000]])
    found = model.events(torch.tensor([[3, 4, 5, 6]]), times) - model.embedded(torch.tensor([[3, 4, 5, 6]]))
    buckets = [0, 0, int(torch.tensor(3_999.0).log() / 0.301)]
    close(found[0, 0], torch.zeros(8, dtype=torch.float64))
    close(found[0, 1:], model.gaps.vectors[buckets])
