"""What every sequence encoder keeps, and the model that is made of each; a new line of the registry is taken up."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Split
from twotower.data.splitters import leave_one_out
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.run import ModelSection
from twotower.models import registry
from twotower.models.encode import encode_known_items, inference, users_with_history
from twotower.models.registry import MODELS, build_model, model_class, model_parameters
from twotower.models.sequential import Sequential
from twotower.sampling.base import batch_items
from twotower.serving.bundle import Bundle
from twotower.serving.contents import Contents, write_bundle
from twotower.towers.sequence.base import LearnsMore, SequenceEncoder, Stepwise
from twotower.towers.sequence.cloze import ClozeEncoder
from twotower.towers.sequence.mamba4rec import Mamba4Rec
from twotower.training.config import Objective, Sampling
from twotower.training.sources import NegativeSource

NAMES = [name for name in MODELS if issubclass(model_class(name), Sequential)]
VARIANTS = [
    *((name, {}) for name in NAMES),
    ("ligr", {"relative": True}),
    ("hstu", {"time_buckets": 0}),
    *((name, {"relative": True}) for name in ("sasrec", "contrast_vae", "diffurec")),
    *((name, {"block": block}) for name in ("contrast_vae", "diffurec") for block in ("ligr", "hstu")),
    *(("dat_plus", {"encoder": "causal", "block": block}) for block in ("ligr", "hstu")),
    ("bert4rec", {"asked": "last"}),
    ("stosa", {"apart_weight": 0.5}),
    ("contrast_vae", {"view": "data"}),
    ("diffurec", {"draws": 2, "eta": 1.0, "noise_share": 0.3, "reconstruction_weight": 1.0}),
]
USERS, LENGTH, DIM = 3, 9, 8
STEPWISE = {"gru4rec", "lrurec", "mamba4rec"}
CUT = {"CausalTransformer", "HSTU", "LiGR", "LRURec"}
"""Encoders whose last block works for the last place alone when asked."""
LONGER: dict[str, tuple[int, float, dict[str, object]]] = {
    "bert4rec": (100, 3e-3, {"dim": 32, "dropout": 0.1}),
    "stosa": (20, 0.01, {"dim": 8}),
    "diffurec": (20, 0.01, {"dim": 8}),
    "contrast_vae": (40, 0.01, {"dim": 8}),
    "dat_plus": (30, 0.01, {"dim": 8}),
}
"""Epochs (of three steps), learning rate and settings, where two epochs of what is learnt from are too few."""


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join([variant[0], *variant[1]]))
def variant(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return request.param


@pytest.fixture
def encoder(variant: tuple[str, dict[str, object]]) -> SequenceEncoder:
    """In float64, in evaluation mode, with no weight at a value where it would do nothing."""
    name, settings = variant
    model = build_model(name, Schema(4, 12), {"dim": DIM, "history_length": LENGTH, **settings})
    tower = model.get_submodule("tower").double().eval()
    assert isinstance(tower, SequenceEncoder)
    with torch.no_grad():
        for weight in tower.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return tower


@pytest.fixture
def events() -> Tensor:
    return torch.randn(USERS, LENGTH, DIM, dtype=torch.float64)


@pytest.fixture
def times() -> Tensor:
    return 1_000_000_000 + torch.randint(0, 90_000, (USERS, LENGTH)).cumsum(1)


@pytest.fixture
def everywhere() -> Tensor:
    return torch.ones(USERS, LENGTH, dtype=torch.bool)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def learnt(encoder: SequenceEncoder, events: Tensor, mask: Tensor, times: Tensor) -> Tensor:
    """A number that training could make smaller, by all that the encoder learns from."""
    if isinstance(encoder, ClozeEncoder):
        states = encoder.fill_in(events, encoder.draw(mask), mask)
        return (states * torch.randn_like(states)).sum()
    if isinstance(encoder, LearnsMore):
        states, losses = encoder.learn(events, torch.randn_like(events), mask, times)
        return (encoder.as_user(states) * torch.randn_like(encoder.as_user(states))).sum() + sum(losses.values())
    return (encoder(events, mask, times) * torch.randn_like(events)).sum()


class TestSequenceEncoder:
    """One class for all."""

    def test_a_changed_later_event_changes_no_earlier_state(self, encoder, events, times, everywhere):
        if not encoder.causal:
            pytest.skip("it says so, and is trained to fill in blanks")
        before = encoder(events, everywhere, times)
        for place in range(1, LENGTH):
            other, later = events.clone(), times.clone()
            other[:, place:] = torch.randn_like(other[:, place:])
            later[:, place:] += 500_000
            after = encoder(other, everywhere, later)
            close(after[:, :place], before[:, :place])
            assert not torch.isclose(after[:, place], before[:, place]).all(dim=1).any()

    def test_one_that_says_it_is_not_causal_sees_later_events_and_fills_in_blanks(self, encoder, events, everywhere):
        assert encoder.causal is not isinstance(encoder, ClozeEncoder)
        if encoder.causal:
            return
        other = events.clone()
        other[:, -1] = torch.randn_like(other[:, -1])
        assert not torch.isclose(encoder(other, everywhere), encoder(events, everywhere)).all(dim=2).any()

    def test_states_have_the_shape_of_events_and_know_what_came_before(self, encoder, events, times, everywhere):
        states = encoder(events, everywhere, times)
        assert states.shape == events.shape
        earlier = events.clone()
        earlier[:, LENGTH - 2] = torch.randn_like(earlier[:, 0])
        assert not torch.isclose(encoder(earlier, everywhere, times)[:, -1], states[:, -1]).all(dim=1).any()

    def test_a_batch_is_what_its_rows_are_alone(self, encoder, events, times, everywhere):
        together = encoder(events, everywhere, times)
        for user in range(USERS):
            row = slice(user, user + 1)
            close(encoder(events[row], everywhere[row], times[row]), together[row])

    @pytest.mark.parametrize("length", [1, 4, 8])
    def test_padding_has_no_effect_whatever_it_holds(self, encoder, events, times, everywhere, length):
        alone = encoder(events[:, :length], everywhere[:, :length], times[:, :length])
        mask = torch.arange(LENGTH).expand(USERS, LENGTH) < length
        padded = encoder(events, mask, times.masked_fill(~mask, 0))
        close(padded[:, :length], alone)

    def test_the_state_at_the_end_is_that_of_the_last_real_place(self, encoder, events, times, everywhere):
        lengths = torch.tensor([9, 1, 5])
        found = encoder.at_end(events, lengths, times)
        for user, length in enumerate(lengths):  # alone and without padding: what all encoders must give
            row = slice(user, user + 1)
            close(encoder.at_end(events[row, :length], lengths[row], times[row, :length]), found[row])
        if encoder.causal:
            close(found, encoder(events, everywhere, times)[torch.arange(USERS), lengths - 1])

    def test_the_state_at_the_end_does_not_work_for_all_places_in_the_last_block(self, encoder, events, times):
        """The last linear layer of a block costs as much as the places that it reads."""
        blocks = getattr(encoder, "blocks", None)
        if blocks is None or type(encoder).__name__ not in CUT:
            pytest.skip("it has no blocks, or its last one must read all places")
        read = []
        layer = [part for part in blocks[-1].modules() if isinstance(part, nn.Linear)][-1]
        layer.register_forward_pre_hook(lambda _, given: read.append(given[0].numel() // given[0].shape[-1]))
        encoder.at_end(events, torch.tensor([9, 1, 5]), times)
        assert read == [USERS]

    def test_the_gradient_reaches_all_weights_and_is_finite(self, encoder, events, times, everywhere):
        encoder.train()
        given = events.requires_grad_()
        learnt(encoder, given, everywhere, times).backward()
        for name, weight in encoder.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.any(), name
        assert given.grad is not None
        assert given.grad[:, 0].any()

    def test_one_event_after_the_other_gives_the_states_of_the_whole_where_there_is_a_step_form(
        self, variant, encoder, events, times, everywhere
    ):
        assert isinstance(encoder, Stepwise) or variant[0] not in STEPWISE
        if isinstance(encoder, Stepwise):
            whole, state = encoder(events, everywhere, times), None
            for place in range(LENGTH):
                found, state = encoder.step(events[:, place], state)
                close(found, whole[:, place])

    def test_a_log_without_a_clock_is_read(self, encoder, events, everywhere):
        assert encoder(events, everywhere).isfinite().all()

    def test_bfloat16_is_near(self, encoder, events, times, everywhere):
        encoder.float()
        exact = encoder(events.float(), everywhere, times)
        with torch.autocast("cpu", torch.bfloat16):
            near = encoder(events.float(), everywhere, times)
        torch.testing.assert_close(near.float(), exact, rtol=0.1, atol=0.1 * float(exact.detach().abs().max()))

    def test_settings_of_no_use_are_refused_in_one_line(self, variant):
        for wrong in ({"dim": 0}, {"history_length": 0}, {"dropout": 1.0}):
            with pytest.raises(InputError, match="must be") as refused:
                build_model(variant[0], Schema(4, 12), wrong)
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["sasrec", "hstu", "ligr", "bert4rec", "stosa", "diffurec", "contrast_vae"])
def test_heads_must_divide_the_width(name):
    with pytest.raises(InputError, match="heads must divide dim"):
        build_model(name, Schema(4, 12), {"heads": 3})


@pytest.fixture
def small(tmp_path) -> tuple[Dataset, Split]:
    """Twelve users who walk round nine items, each from another start; the last steps are to be foretold."""
    walks = [[2 + (start + step) % 9 for step in range(7)] for start in range(12)]
    lengths = torch.tensor([0, 0] + [7] * 12)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    log = Log(offsets, torch.tensor(walks).flatten(), 1_000_000_000 + 3_600 * torch.arange(7 * 12))
    dataset = Dataset(Schema(14, 11), log, {}, {}, {"name": "walks"}, tmp_path)
    return dataset, leave_one_out(log)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sasrec"])
def test_few_epochs_teach_something_and_the_bundle_answers_alike(name, small, tmp_path):
    dataset, split = small
    run = default_run(name)
    assert run.objective.loss == "full_softmax"
    assert run.training == default_run("sasrec").training
    epochs, rate, settings = LONGER.get(name, (2, 0.01, {"dim": 8}))
    run = replace(
        run,
        model=ModelSection(name, {"history_length": 6, **settings}),
        training=replace(
            run.training, epochs=epochs, batch_size=4, learning_rate=rate, evaluate_every=0, patience=0, seed=1
        ),
    )
    model, records = learn(run, dataset, split)
    losses = [record.loss for record in records]
    assert len(losses) == epochs
    assert losses[-1] < losses[0]
    if name in LONGER:  # every item is as popular as any other, and of the three that are not seen one is right
        assert evaluate(model, dataset, split.test, Protocol(ks=(1,))).metrics["recall@1"] > 0.6
    settings = registry.all_settings(name, run.model.settings)
    contents = Contents(
        model=model,
        model_name=name,
        model_parameters=settings,
        dataset=dataset,
        items=encode_known_items(model, dataset),
        run_toml=run.to_toml(),
        histories=split.known,
    )
    write_bundle(tmp_path / "bundle", contents)
    bundle = Bundle.load(tmp_path / "bundle")
    ids = torch.arange(2, 14)
    with inference(model), torch.inference_mode():
        asked = users_with_history(dataset, split.known, ids, model.history_length)
        expected = model.score(model.encode_users(asked), model.encode_items(dataset.items(torch.arange(2, 11))))
        found = bundle.model.score(bundle.model.encode_users(bundle.users(ids)), bundle.item_states)
    assert found.equal(expected)
    assert found.std(dim=0).min() > 0


class Mean(SequenceEncoder):
    """The newcomer of the docstring of `twotower.towers.sequence.base`."""

    def __init__(self, *, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)

    def forward(self, events: Tensor, mask: Tensor, times: Tensor | None = None) -> Tensor:
        count = torch.arange(1, events.shape[1] + 1, device=events.device)
        return self.project(events.cumsum(1) / count[:, None])


class Everywhere(Mean):
    """One that sees what comes."""

    causal = False


def test_one_line_makes_a_model_of_an_encoder(monkeypatch):
    monkeypatch.setitem(MODELS.parts, "mean", f"{__name__}:Mean")
    assert model_parameters("mean") == {
        "dim": 64,
        "dropout": 0.0,
        "item_features": False,
        "time_gaps": False,
        "history_length": 50,
        "score": "dot",
        "temperature": 1.0,
        "table": "dense",
        "table_buckets": 0,
        "table_hashes": 2,
        "targets": 0,
    }
    model = build_model("mean", Schema(4, 12), {"dim": 4})
    users = Users(torch.tensor([2]), {}, torch.tensor([[3, 5, 0]]))
    both = model.encode_items(Items(torch.tensor([3, 5]))) * 2
    expected = both.mean(dim=0) @ model.get_submodule("tower.project").weight.T
    torch.testing.assert_close(model.encode_users(users)[0], expected + model.get_submodule("tower.project").bias)


def test_an_encoder_that_sees_the_answer_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS.parts, "everywhere", f"{__name__}:Everywhere")
    with pytest.raises(InputError, match="Everywhere is not causal"):
        build_model("everywhere", Schema(4, 12))


def made(name: str, **settings: object) -> Sequential:
    """A small model in float64 with no weight at a value where it would do nothing."""
    model = build_model(name, Schema(4, 12), {"dim": 8, "history_length": 3, **settings}).double().eval()
    assert isinstance(model, Sequential)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model


@pytest.fixture
def batch() -> Batch:
    history = torch.tensor([[3, 4, 0], [6, 0, 0], [2, 5, 7]])
    times = torch.tensor([[10, 900, 0], [50, 0, 0], [7, 7, 80_000]])
    targets = torch.tensor([[4, 5, 0], [7, 0, 0], [5, 7, 8]])
    return Batch(Users(torch.tensor([2, 3, 2]), {}, history, times), Items(targets))


@pytest.mark.parametrize("name", NAMES)
def test_both_ways_through_a_training_batch_give_the_same(name, batch, monkeypatch):
    monkeypatch.setattr("twotower.models.sequential.CPU_GROUP", 2)
    model = made(name)
    if model.draws_rows or not model.tower.row_by_row:
        pytest.skip("what it learns from is drawn, or is the batch as a whole")
    grouped, together = model._in_groups(batch), model._at_once(batch)
    assert grouped.item_ids.equal(together.item_ids)
    assert grouped.item_ids.equal(batch_items(batch))  # samplers name in-batch candidates in this order
    assert grouped.user_rows.equal(together.user_rows)
    close(grouped.states, together.states)
    last = torch.tensor([1, 2, 5])
    close(model.encode_users(batch.users), together.states[last])


class TestCloze:
    """What encoders that see both sides learn from, and are asked about."""

    @pytest.fixture(params=["blank", "last"])
    def model(self, request: pytest.FixtureRequest) -> Sequential:
        return made("bert4rec", asked=request.param)

    def test_a_step_asks_for_hidden_items_of_the_whole_window_each_by_its_own_state(self, model, batch, monkeypatch):
        monkeypatch.setattr("twotower.models.sequential.CPU_GROUP", 2)
        hidden = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
        monkeypatch.setattr(model.tower, "draw", lambda mask: hidden)
        found = model(batch)
        pairs = list(zip(found.user_rows.tolist(), found.item_ids.tolist(), strict=True))
        assert sorted(pairs) == [(0, 4), (0, 5), (1, 7), (2, 7), (2, 8)]
        window = torch.tensor([[3, 4, 5, 0], [6, 7, 0, 0], [2, 5, 7, 8]])
        for (row, item), state in zip(pairs, found.users, strict=True):
            length = int((window[row] > 0).sum())
            events = model.embedded(window[row, :length])
            events[hidden[row, :length]] = model.tower.blank
            place = window[row].tolist().index(item) - (model.tower.asked == "last")
            close(state, model.tower(events[None], torch.ones(1, length, dtype=torch.bool))[0, place])

    def test_what_is_hidden_reaches_no_state(self, model, batch):
        torch.manual_seed(1)
        first = model(batch)
        other = batch._replace(users=batch.users._replace(history=batch.users.history.clone()))
        other = other._replace(items=Items(batch.items.ids.clone()))
        for row, item in zip(first.user_rows.tolist(), first.item_ids.tolist(), strict=True):
            for ids in (other.users.history[row], other.items.ids[row]):
                ids[ids == item] = 9
        torch.manual_seed(1)
        close(model(other).users, first.users)

    def test_the_item_to_be_told_when_asked_is_no_part_of_the_question(self, model, batch):
        """The state of a window whose last item is hidden is the answer for the history before it."""
        events, lengths = model.embedded(batch.users.history), torch.tensor([2, 1, 3])
        window = torch.cat([batch.users.history[:, :1], batch.items.ids], dim=1)
        hidden = torch.arange(4) == lengths[:, None]
        trained = model.tower.fill_in(model.embedded(window), hidden, window > 0)
        if model.tower.asked == "blank":
            close(model.tower.at_end(events, lengths), trained)
        else:  # where nothing stands for the next event
            assert not torch.isclose(model.tower.at_end(events, lengths), trained).any()

    def test_the_share_that_is_hidden_is_the_share_asked_for_and_never_padding(self, model):
        tower = model.tower
        lengths = torch.randint(2, 101, (2_000,), generator=torch.Generator().manual_seed(0))
        mask = torch.arange(100) < lengths[:, None]
        tower.masked_share, tower.end_share = 0.3, 0.0
        hidden = tower.draw(mask)
        assert not (hidden & ~mask).any()
        assert hidden.any(1).all()
        long = mask[:, 20:] & (lengths > 60)[:, None]
        assert float(hidden[:, 20:][long].double().mean()) == pytest.approx(0.3, abs=0.01)
        assert hidden[:, 0].any() == (tower.asked == "blank")
        tower.end_share = 0.25
        at_end = tower.draw(mask[lengths > 50]).sum(1) == 1
        assert float(at_end.double().mean()) == pytest.approx(0.25, abs=0.04)

    def test_negatives_of_the_batch_or_of_a_row_are_refused(self, small):
        dataset, split = small
        run = default_run("bert4rec")
        settings = replace(run.training, epochs=1, batch_size=4)
        run = replace(run, model=ModelSection("bert4rec", {"dim": 8, "history_length": 6}), training=settings)
        run = replace(run, objective=Objective("sampled_softmax"))
        shared = replace(run, sampling=Sampling((NegativeSource("uniform", {"number": 4}),)))
        assert learn(shared, dataset, split)[1][0].loss > 0
        with pytest.raises(InputError, match="BERT4Rec draws its training rows itself"):
            learn(replace(run, sampling=Sampling((NegativeSource("in_batch"),))), dataset, split)


class TestDiffuRec:
    """What is drawn, and what is not known."""

    SETTINGS: ClassVar[dict[str, float]] = {"noise_share": 0.5, "restore_steps": 2}

    def test_the_same_question_has_the_same_answer_unless_that_is_switched_off(self, batch):
        model = made("diffurec", **self.SETTINGS)
        assert model.encode_users(batch.users).equal(model.encode_users(batch.users))
        model = made("diffurec", fixed=False, **self.SETTINGS)
        first, second = model.encode_users(batch.users), model.encode_users(batch.users)
        assert not torch.isclose(first, second).all(1).any()

    def test_answers_of_many_draws_depend_less_on_the_seed(self, batch):
        def spread(draws: int) -> float:
            answers = []
            for seed in range(8):
                torch.manual_seed(1)
                model = made("diffurec", draws=draws, noise_seed=seed, **self.SETTINGS)
                answers.append(model.encode_users(batch.users))
            return float(torch.stack(answers).detach().var(0).sum())

        assert spread(16) < 0.2 * spread(1)

    def test_training_reads_the_answer_by_the_share_of_its_noise(self, batch):
        """Which is why the share must be small."""
        other = batch._replace(items=Items(batch.items.ids.clone()))
        other.items.ids[2, 2] = 4
        changes = []
        for share in (0.0, 0.001, 0.5):
            model = made("diffurec", **self.SETTINGS | {"noise_share": share})
            states = []
            for one in (batch, other):
                torch.manual_seed(2)
                states.append(model(one).users)
            difference = (states[0] - states[1]).detach().abs().amax(1)
            assert not difference[:5].any()
            changes.append(difference[5].item())
        assert changes[0] == 0.0
        assert 0.0 < 50 * changes[1] < changes[2]


class TestContrastVAE:
    """Losses of a batch as a whole."""

    @pytest.mark.parametrize("view", ["variational", "model", "data"])
    def test_its_contrast_compares_all_users_of_the_batch(self, batch, view, monkeypatch):
        monkeypatch.setattr("twotower.models.sequential.CPU_GROUP", 1)
        model = made("contrast_vae", view=view)
        assert not model.row_by_row

        def contrast_of(one: Batch) -> float:
            torch.manual_seed(4)
            return model(one).losses["contrast"].item()

        other = batch._replace(users=batch.users._replace(history=batch.users.history.clone()))
        other.users.history[1, 0] = 9
        users, ids = batch.users, batch.items.ids
        alone = Batch(Users(users.ids[:1], {}, users.history[:1], users.history_times[:1]), Items(ids[:1]))
        assert contrast_of(batch) != contrast_of(other)
        assert contrast_of(alone) == 0.0

    def test_the_divergence_grows_with_the_steps_of_training_alone_and_goes_on_where_it_was(self, batch):
        model = made("contrast_vae", anneal_steps=2)

        def divergence() -> float:
            torch.manual_seed(4)
            return model(batch).losses["divergence"].item()

        assert divergence() == divergence() == 0.0  # asked outside training
        model.train()
        assert divergence() == 0.0
        half, whole, later = (model.eval() and divergence(), model.train() and divergence(), divergence())
        assert half > 0.0
        model.eval()
        assert divergence() == pytest.approx(2 * half)
        assert whole > 0.0
        assert later > 0.0
        again = made("contrast_vae", anneal_steps=2)
        again.load_state_dict(model.state_dict())
        assert int(again.tower.steps) == 3

    def test_padding_has_no_part_in_its_own_losses(self, batch):
        model = made("contrast_vae", kl_weight=1.0, anneal_steps=1)
        model.tower.steps.fill_(1)
        wide = Batch(
            batch.users._replace(history=nn.functional.pad(batch.users.history, (0, 1))[:, :3], history_times=None),
            batch.items,
        )
        torch.manual_seed(4)
        before = model(wide).losses
        events, mask = model.embedded(wide.users.history), wide.items.ids > 0
        noisy = torch.where(mask[:, :, None], events, torch.randn_like(events))
        torch.manual_seed(4)
        _, after = model.tower.learn(noisy, torch.zeros_like(events), mask)
        for name, loss in before.items():
            close(after[name], loss)


def test_a_distance_of_gaussians_has_no_cosine(batch):
    assert {"score", "temperature"}.isdisjoint(default_run("stosa").model.settings)
    with pytest.raises(InputError, match="score must be dot, got 'cosine'"):
        build_model("stosa", Schema(4, 12), {"score": "cosine"})
    model = made("stosa")
    with torch.no_grad():  # nothing is nearer to a Gaussian than itself, at a distance of 0
        points = model.tower.as_user(torch.cat([torch.randn(3, 4), torch.rand(3, 4)], dim=1).double())
        assert (model.score(points, model.encode_items(Items(torch.arange(2, 12)))) < 0).all()
        same = torch.cat([points[:, :8] / 2, torch.ones(3, 1), points[:, 8:9]], dim=1)
        close(model.score_rows(points, same), torch.zeros(3, dtype=torch.float64))
        assert model(batch).users.shape == (6, 10)


def test_a_request_of_many_users_scans_a_part_at_a_time(monkeypatch):
    encoder = Mamba4Rec(dim=8, states=4).eval()
    events, lengths, seen = torch.randn(7, 5, 8), torch.tensor([1, 5, 2, 3, 4, 5, 1]), []
    whole = encoder.at_end(events, lengths)
    encoder.norm.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    monkeypatch.setattr("twotower.towers.sequence.mamba4rec.HELD", 2 * 5 * 2 * 8 * 4)  # of two users
    close(encoder.at_end(events, lengths), whole)
    assert seen == [2, 2, 2, 1]


class TestSTOSA:
    """The second term of its paper."""

    def test_it_is_added_where_it_has_a_weight_and_compares_users(self, batch, monkeypatch):
        monkeypatch.setattr("twotower.models.sequential.CPU_GROUP", 3)
        model, plain = (made("stosa", apart_weight=weight) for weight in (2.0, 0.0))
        assert not model.row_by_row
        assert plain.row_by_row
        plain.load_state_dict(model.state_dict())
        torch.manual_seed(0)
        with_term, without = model(batch), plain(batch)
        assert without.losses == {}
        close(with_term.users, without.users)
        assert with_term.losses["apart"] > 0
        users = batch.users
        alone = Batch(Users(users.ids[:1], {}, users.history[:1], users.history_times[:1]), Items(batch.items.ids[:1]))
        assert model(alone).losses["apart"] == 0.0

    def test_negatives_come_from_the_whole_batch_on_a_cpu_too(self, batch, monkeypatch):
        model, found = made("stosa", apart_weight=1.0), []
        for group in (1, 16):
            monkeypatch.setattr("twotower.models.sequential.CPU_GROUP", group)
            torch.manual_seed(0)
            found.append(model(batch))
        close(*(one.losses["apart"] for one in found))
        assert found[0].losses["apart"] > 0
        close(*(one.users for one in found))

    def test_a_negative_that_is_the_positive_has_no_part(self, batch):
        model = made("stosa", apart_weight=1.0)
        same = batch._replace(items=Items(torch.where(batch.items.ids > 0, 4, 0)))
        assert model(same).losses["apart"] == 0.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masked_share": 0.0}, "masked_share must be between 0 and 1"),
        ({"masked_share": 1.0}, "masked_share must be between 0 and 1"),
        ({"end_share": 1.5}, "end_share in"),
        ({"asked": "first"}, "asked must be one of blank, last, got 'first'"),
        ({"score": "manhattan"}, "score must be dot or cosine"),
    ],
)
def test_settings_of_the_cloze_are_refused_in_one_line(wrong, message):
    with pytest.raises(InputError, match=message) as refused:
        build_model("bert4rec", Schema(4, 12), wrong)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_steps": 0}, "noise_steps must be at least 1, got 0"),
        ({"restore_steps": 33}, "restore_steps must be from 1 to noise_steps = 32"),
        ({"last_beta": 1.0}, "0 < first_beta <= last_beta < 1"),
        ({"schedule": "cosine"}, "schedule must be one of"),
        ({"eta": 2.0}, "eta must be in"),
        ({"draws": 0}, "draws must be at least 1, got draws = 0"),
        ({"noise_share": -0.1}, "noise_share must be finite and at least 0"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight must be finite and at least 0"),
    ],
)
def test_settings_of_the_diffusion_are_refused_in_one_line(wrong, message):
    with pytest.raises(InputError, match=message) as refused:
        build_model("diffurec", Schema(4, 12), wrong)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"view": "mirror"}, "view must be one of variational, model, data, got 'mirror'"),
        ({"left_out": 1.0}, "left_out must be in"),
        ({"kl_weight": -1.0}, "kl_weight must be finite and at least 0"),
        ({"contrast_weight": -1.0}, "contrast_weight must be finite and at least 0"),
        ({"contrast_temperature": 0.0}, "contrast_temperature must be finite and at least 0.001"),
        ({"anneal_steps": 0}, "anneal_steps must be at least 1, got anneal_steps = 0"),
    ],
)
def test_settings_of_the_autoencoder_are_refused_in_one_line(wrong, message):
    with pytest.raises(InputError, match=message) as refused:
        build_model("contrast_vae", Schema(4, 12), wrong)
    assert "\n" not in str(refused.value)
