"""SparCode's score against loops in float64, its lists against its score, and that it learns."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Feature, Schema
from twotower.index.postings import build_postings
from twotower.index.postings_search import search_postings
from twotower.models import sparcode
from twotower.models.registry import build_model
from twotower.models.sparcode import DEAD_AFTER, REVIVALS, SparCode
from twotower.towers.codes.capsules import Capsules
from twotower.towers.codes.scorers import SCORERS

SCHEMA = Schema(60, 40)
IDS = torch.arange(2, 40)


def users_of(rows: int = 50, length: int = 6) -> Users:
    history = torch.randint(2, 40, (rows, length))
    history[0, 3:] = 0
    return Users(torch.arange(rows) + 2, {}, history)


def model_of(**settings) -> SparCode:
    model = build_model(
        "sparcode",
        SCHEMA,
        {"dim": 8, "tokens": 3, "codebook": 6, "chosen": 2, "warm_up": 0.0, "layers": 1, "history_length": 6}
        | settings,
    )
    assert isinstance(model, SparCode)
    if model.form != "none" and not model.warm_up:
        model.train().encode_users(users_of())  # the codes start
        assert model.selectable
    return model.eval()


def perceptron(layers, numbers: torch.Tensor) -> float:
    """An MLP in float64: its linear layers in turn, with ReLU between them."""
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    for place, layer in enumerate(linear):
        numbers = layer.weight.double() @ numbers + layer.bias.double()
        numbers = numbers.clamp(min=0.0) if place + 1 < len(linear) else numbers
    return numbers.item()


def cross_net(scorer) -> Callable:
    def score(token, items):
        first = torch.cat([token, *items])
        crossed = first
        for layer in scorer.layers:
            crossed = first * (layer.weight.double() @ crossed + layer.bias.double()) + crossed
        return (scorer.last.weight.double()[0] @ crossed + scorer.last.bias.double()[0]).item()

    return score


def dnn(scorer) -> Callable:
    def score(token, items):
        weight = torch.cat([scorer.of_token.weight, scorer.of_item.weight], dim=1).double()
        hidden = weight @ torch.cat([token, *items]) + scorer.of_item.bias.double()
        return perceptron(scorer.rest.modules(), hidden.clamp(min=0.0))

    return score


REFERENCES = {
    "dot": lambda _: lambda token, items: sum((token @ item).item() for item in items),
    "max_sim": lambda _: lambda token, items: max((token @ item).item() for item in items),
    "inner_pdnn": lambda scorer: (
        lambda token, items: perceptron(scorer.network, torch.cat([token * item for item in items]))
    ),
    "cross_net": cross_net,
    "dnn": dnn,
}


@pytest.mark.parametrize("codes", ["quantised", "gate", "none"])
@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_a_score_is_the_sum_over_tokens_of_activated_scores(codes, scorer, activation):
    model = model_of(codes=codes, scorer=scorer, activation=activation, item_tokens=2, bias=0.1)
    with torch.no_grad():
        users, items = model.encode_users(users_of(4)), model.encode_items(Items(IDS[:5]))
        scores = model.score(users, items)
        torch.testing.assert_close(model.score_rows(users, items[:4]), scores.diagonal())
        torch.testing.assert_close(model.score_rows(users, items.expand(4, -1, -1, -1)), scores)
        reference = REFERENCES[scorer](model.scorer)
        for user in range(4):
            for item in range(5):
                total = 0.0
                for token in range(users.vectors.shape[1]):
                    vector, others = users.vectors[user, token].double(), items[item].double()
                    own = reference(vector, others)
                    own += users.offsets[user, token].item()
                    own = math.log1p(math.exp(own)) if activation == "softplus" else max(0.0, own)
                    total += users.weights[user, token].item() * own
                assert scores[user, item].item() == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_on_the_sphere_a_score_is_a_cosine_over_the_temperature():
    model = model_of(codes="none", cosine=True, temperature=0.2, bias=0.5)
    users = users_of(4)
    with torch.no_grad():
        tokens = model.tokenizer(model.item_table(users.history), (users.history != 0).sum(1)).double()
        vectors = model.item_table(IDS).double()
        cosines = torch.nn.functional.cosine_similarity(tokens[:, :, None], vectors[None, None], dim=-1)
        wanted = torch.nn.functional.softplus(cosines / 0.2 + 0.5).sum(1)
        scores = model.score(model.encode_users(users), model.encode_items(Items(IDS)))
    torch.testing.assert_close(scores.double(), wanted, rtol=1e-4, atol=1e-4)


def test_the_commitment_is_of_tokens_as_they_are_scored():
    found = []
    for temperature in (1.0, 0.25):
        torch.manual_seed(3)
        model = model_of(cosine=True, temperature=temperature, dropout=0.0).train()
        users = users_of()
        found.append(model(Batch(users, Items(IDS[:38].repeat(2)[:50], {}))).losses["commitment"].item())
    assert found[1] == pytest.approx(16.0 * found[0], rel=0.3)


def test_a_gate_warms_up_as_a_two_tower_and_its_lists_are_activated():
    model = model_of(codes="gate", warm_up=1.0, cosine=True, temperature=0.1).train()
    assert not model.selectable
    users, items = model.encode_users(users_of()), model.encode_items(Items(IDS))
    torch.testing.assert_close(model.score(users, items), users.vectors[:, 0] @ items[:, 0].T)
    assert model.score(users, items).min().item() < 0.0
    model.set_progress(1.0)
    assert model.score(model.encode_users(users_of()), items).min().item() > 0.0


def test_capsules_are_routed_as_the_procedure_says_in_float64():
    torch.manual_seed(0)
    layer, events, lengths = Capsules(4, capsules=3), 3.0 * torch.randn(2, 5, 4), torch.tensor([5, 2])
    with torch.no_grad():
        found = layer(events, lengths)
        for row in range(2):
            offers = [
                [w @ e for w in layer.offer.weight.double().split(4)] for e in events[row, : lengths[row]].double()
            ]
            logits = torch.zeros(len(offers), 3, dtype=torch.float64)
            for _ in range(3):
                shares = torch.stack([torch.tensor([math.exp(x) for x in line]) for line in logits]).double()
                shares = shares / shares.sum(1, keepdim=True)
                capsules = []
                for k in range(3):
                    total = sum(share[k] * offer[k] for share, offer in zip(shares, offers, strict=True))
                    square = (total @ total).item()
                    capsules.append(square / (1.0 + square) * total / math.sqrt(square))
                for place, offer in enumerate(offers):
                    for k in range(3):
                        logits[place, k] += capsules[k] @ offer[k]
            torch.testing.assert_close(found[row].double(), torch.stack(capsules), rtol=1e-5, atol=1e-6)
    assert not Capsules(4, capsules=2)(torch.randn(1, 5, 4), torch.tensor([0])).any()


def test_gradients_of_capsules_flow_through_the_last_round():
    layer, events = Capsules(4, capsules=3), torch.randn(2, 5, 4, requires_grad=True)
    layer(events, torch.tensor([5, 2])).square().sum().backward()
    assert bool(layer.offer.weight.grad.any())
    assert bool(events.grad[0].any())
    assert not events.grad[1, 2:].any()


def test_an_item_without_a_vector_of_its_own_is_its_features():
    schema = Schema(60, 40, item_features=(Feature("kind", "categorical", 9),))
    settings = {"dim": 8, "tokens": 2, "item_tokens": 3, "codes": "none", "layers": 1}
    for name in ("sparcode", "sparcode_twin"):
        own = settings if name == "sparcode" else {"dim": 8, "score": "dot"}
        for item_id in (False, True):
            model = build_model(name, schema, {**own, "item_id": item_id}).eval()
            with torch.no_grad():
                same = model.encode_items(Items(torch.tensor([5, 7]), {"kind": torch.tensor([3, 3])}))
            assert torch.equal(same[0], same[1]) is not item_id


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_in_tiles_are_the_scores_at_once(scorer, monkeypatch):
    monkeypatch.setattr(sparcode, "PAIRS", 1000)
    model = model_of(codes="none", scorer=scorer, item_tokens=2, dropout=0.0)
    assert model.scores_all is (scorer in ("dot", "max_sim"))
    with torch.no_grad():
        users, items = model.encode_users(users_of(9)), model.encode_items(Items(IDS))
        tiled = model.score(users, items)
        torch.testing.assert_close(tiled, model.train().score(users, items), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("codes", [{}, {"books": 2}, {"books": 4, "codebook": 3}, {"codes": "gate"}])
def test_lists_of_all_items_answer_as_the_model_does(codes, cosine):
    model = model_of(**codes, cosine=cosine, temperature=0.5)
    with torch.no_grad():
        users, items = model.encode_users(users_of()), model.encode_items(Items(IDS))
        postings = build_postings(lambda c, i: model.list_scores(c, items[i]), model.num_lists, IDS, longest=len(IDS))
        found = search_postings(postings, users.codes, users.weights, 7, backend="numpy")
        best = model.score(users, items).topk(7)
    torch.testing.assert_close(found.scores, best.values, rtol=1e-4, atol=1e-5)
    assert (found.ids == IDS[best.indices]).float().mean() > 0.95


def steps(model: SparCode, number: int) -> torch.Tensor:
    for _ in range(number):
        model.set_progress(1.0)
        scores = model.score(model.encode_users(users_of()), model.encode_items(Items(IDS)))
    return scores


@pytest.mark.parametrize("settings", [{"activation": "relu"}, {}, {"codes": "gate"}, {"codes": "quantised"}])
def test_scores_that_all_died_are_said_and_come_back(settings, caplog):
    model = model_of(**{"codes": "none", "bias": -99.0, "dropout": 0.0} | settings).train()
    with caplog.at_level(logging.WARNING):
        assert float(steps(model, DEAD_AFTER).detach().max()) < 1e-6
        assert [record.message.count("b is raised by") for record in caplog.records] == [1]
        scores = steps(model, 1)
        assert 0.3 < float(scores.detach().max()) < 6.0
        model.zero_grad()
        scores.std().backward()
        assert float(model.item_table.weight.grad.abs().max()) > 1e-5
        steps(model, DEAD_AFTER + 5)
    assert len(caplog.records) == 1


def test_scores_that_die_again_and_again_are_given_up_in_one_line(caplog):
    model = model_of(activation="relu", codes="none").train()
    with caplog.at_level(logging.WARNING):
        for _ in range(REVIVALS + 3):
            with torch.no_grad():
                model.bias.fill_(-99.0)
            steps(model, DEAD_AFTER)
    assert ["lower training.learning_rate" in record.message for record in caplog.records] == [False] * REVIVALS + [
        True
    ]


def test_scores_that_live_are_left_alone(caplog):
    model = model_of(codes="none").train()
    steps(model, DEAD_AFTER + 5)
    assert not caplog.records
    assert model.bias.item() == 0.0


def test_only_the_straight_gradient_of_the_match_reaches_the_tokenizer():
    for gradient, learns in (("straight_through", True), ("stop_gradient", False)):
        model = model_of(gradient=gradient, dropout=0.0).train()
        model.zero_grad()
        model.score(model.encode_users(users_of()), model.encode_items(Items(IDS))).sum().backward()
        got = model.tokenizer.linear.linear.weight.grad
        assert (got is not None and bool(got.any())) is learns


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"codes": "gate"},
        {"cosine": True, "temperature": 0.2},
        {"tokenizer": "gru"},
        {"tokenizer": "dnn", "heads": "senet"},
        {"tokenizer": "capsule"},
        {"scorer": "cross_net"},
        {"scorer": "dnn"},
    ],
)
def test_it_learns_what_follows_from_the_latest_item(settings):
    """The next item is the latest one plus 1: the answer of popularity would be right once in 38."""
    # scorers of all pairs of fields take the longest, and learn soon
    rows, steps = (40, 150) if "scorer" in settings else (128, 250)
    model = model_of(dim=32, codebook=40, warm_up=0.3, dropout=0.0, **settings)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    assert not model.selectable

    def batch(rows: int) -> tuple[Users, torch.Tensor]:
        latest = torch.randint(2, 40, (rows, 1))
        history = latest.expand(-1, 3).contiguous()
        return Users(torch.full((rows,), 2), {}, history), (latest[:, 0] - 2 + 1) % 38 + 2

    for step in range(steps):
        model.set_progress(step / steps)
        users, target = batch(rows)
        encoded = model(Batch(users, Items(target, {})))
        scores = model.score(encoded.users, model.encode_items(Items(IDS)))
        loss = torch.nn.functional.cross_entropy(scores, target - 2) + sum(encoded.losses.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    assert model.selectable
    users, target = batch(200)
    right = model.score(model.encode_users(users), model.encode_items(Items(IDS))).argmax(1) + 2 == target
    assert right.float().mean() > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codes": "quantized"}, "did you mean 'quantised'"),
        ({"scorer": "dots"}, "did you mean 'dot'"),
        ({"tokenizer": "grus"}, "did you mean 'gru'"),
        ({"codebook": 59}, "59 codes for 58 users"),
        ({"codebook": 500, "codes": "gate"}, "500 codes for 58 users"),
        ({"heads": "senet", "tokens": 7}, "7 were asked for"),
        ({"books": 3}, "3 codebooks do not divide tokens of width 8"),
        ({"tokenizer": "capsule", "heads": "senet"}, "'capsule' has no heads"),
        ({"item_id": False}, "no item features"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        model_of(**settings)


def test_a_codebook_may_have_as_many_codes_as_there_are_users():
    assert build_model("sparcode", SCHEMA, {"dim": 8, "codebook": 58}).num_lists % 58 == 0
    build_model("sparcode", SCHEMA, {"dim": 8, "codes": "none", "codebook": 500})


def test_a_model_without_lists_says_so():
    with pytest.raises(InputError, match="lists are of codes"):
        model_of(codes="none").list_scores(torch.tensor([0]), torch.zeros(1, 1, 8))
    with pytest.raises(InputError, match="32 books of 6 codes are too many combinations"):
        _ = model_of(books=32, dim=32).num_lists
    with pytest.raises(InputError, match="list 108 of 108"):
        model_of(books=2).list_scores(torch.tensor([108]), torch.zeros(1, 1, 8))


def test_the_use_of_a_gates_codes_is_counted_in_training_alone():
    model = model_of(codes="gate", dropout=0.0)
    assert model.code_use().used > 0  # the step in which they started
    chosen = model.encode_users(users_of()).codes
    assert model.code_use() == (0.0, pytest.approx(1 / 6), 0.0)
    again = model.train().encode_users(users_of()).codes
    counts = again.flatten().bincount(minlength=6)
    assert model.code_use() == pytest.approx(
        ((counts > 0).float().mean().item(), perplexity(counts) / 6, (counts.max() / counts.sum()).item()), abs=1e-6
    )
    assert "coder.hits" not in model.state_dict()
    assert chosen.shape == again.shape
    assert model.state_dict()["coder.counts"].tolist() == [counts.tolist()]
    weights = model.state_dict()
    del weights["coder.counts"]  # of before they were kept
    model_of(codes="gate", dropout=0.0).load_state_dict(weights)


def perplexity(counts: torch.Tensor) -> float:
    share = counts[counts > 0].double() / counts.sum()
    return math.exp(-(share * share.log()).sum().item())


def test_lists_of_two_trainings_have_different_keys():
    model = model_of()
    key = model.lists_key()
    assert model.lists_key() == key
    with torch.no_grad():
        model.item_table.weight.add_(1.0)  # items may grow and learn; their states are the index's own
    assert model.lists_key() == key
    model.coder.centres[1, 2, 3] += 1e-3
    assert model.lists_key() != key
