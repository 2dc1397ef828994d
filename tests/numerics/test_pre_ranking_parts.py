"""FIT's baselines whole: their scores and losses from their weights, in Python floats."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Feature, Schema
from twotower.models.prerank.cold import COLD
from twotower.models.prerank.dat import DAT
from twotower.models.prerank.int_tower import IntTower
from twotower.models.prerank.rank_tower import RankTower
from twotower.towers.fields import ItemFields

SCHEMA = Schema(
    7, 10, user_features=(Feature("city", "categorical", 4),), item_features=(Feature("brand", "categorical", 5),)
)
BRANDS = [0, 1, 2, 3, 4, 1, 2, 3, 4, 1]
CITIES = [3, 1, 2, 2, 1, 3]
HISTORIES = [[2, 3, 4], [5, 0, 0], [0, 0, 0], [7, 8, 0], [9, 9, 2], [6, 4, 0]]
CANDIDATES = [6, 2, 9, 6, 5, 3]
LABELS = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
HEADED = {"dim": 6, "item_heads": 2, "user_heads": 3, "hidden": (8, 7), "field_dim": 4}
SMALL = {
    DAT: {"dim": 5, "hidden": (8,), "field_dim": 4},
    IntTower: HEADED,
    RankTower: HEADED | {"coarse_negatives": 2, "temperature": 0.5},
    COLD: {"hidden": (8,), "field_dim": 4},
}


def make(kind, **more):
    model = kind(SCHEMA, **(SMALL[kind] | more)).double()
    model.attach_items(Items(torch.arange(10), {"brand": torch.tensor(BRANDS)}))
    return model


@pytest.fixture
def batch():
    users = Users(torch.arange(1, 7), {"city": torch.tensor(CITIES)}, torch.tensor(HISTORIES))
    items = Items(torch.tensor(CANDIDATES), {"brand": torch.tensor([BRANDS[item] for item in CANDIDATES])})
    return Batch(users, items, torch.tensor(LABELS, dtype=torch.float64))


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def unit(values):
    return [value / math.sqrt(dot(values, values)) for value in values]


def softmax(values):
    raised = [math.exp(value) for value in values]
    return [value / sum(raised) for value in raised]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


class ByHand:
    """The models' parts in Python floats, from a state_dict."""

    def __init__(self, model):
        self.of = {name: value.tolist() for name, value in model.state_dict().items()}

    def linear(self, name, values):
        weight = self.of[f"{name}.weight"]
        bias = self.of.get(f"{name}.bias", [0.0] * len(weight))
        return [dot(row, values) + b for row, b in zip(weight, bias, strict=True)]

    def item_fields(self, item):
        return [self.of["item_fields.ids.weight"][item], self.of["item_fields.features.layers.0.weight"][BRANDS[item]]]

    def user_fields(self, city, history):
        there = [self.item_fields(item) for item in history if item]
        pooled = [[sum(i[f][c] for i in there) / max(1, len(there)) for c in range(4)] for f in range(2)]
        return [self.of["user_fields.features.layers.0.weight"][city], *pooled]

    def light_se(self, name, fields):
        weights = softmax(self.linear(f"{name}.linear", [sum(field) / len(field) for field in fields]))
        return [[x + w * x for x in field] for w, field in zip(weights, fields, strict=True)]

    def layers(self, name, fields):
        outputs, values = [], [x for field in fields for x in field]
        for place in range(2):
            norm = [
                self.of[f"{name}.norms.{place}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            ]
            values = self.linear(f"{name}.linears.{place}", values)
            values = [
                max(0.0, (x - m) / math.sqrt(v + 1e-5) * w + b) for x, m, v, w, b in zip(values, *norm, strict=True)
            ]
            outputs.append(values)
        return outputs

    def heads(self, name, values):
        flat = self.linear(f"{name}.linear", values)
        return [unit(flat[start : start + 3]) for start in range(0, len(flat), 3)]

    def gated_heads(self, name, values, count):
        gates = [sigmoid(x) for x in self.linear(f"{name}.gate", values)]
        gated = [[x * gates[len(values) * h + c] for c, x in enumerate(values)] for h in range(count)]
        return [self.linear(f"{name}.maps.{h}", row) for h, row in enumerate(gated)]

    def attended(self, name, own, other):
        out = []
        for z in own:
            query = self.linear(f"{name}.query", z)
            weights = softmax([dot(query, self.linear(f"{name}.key", o)) / math.sqrt(3) for o in other])
            values = [self.linear(f"{name}.value", o) for o in other]
            a = [dot(weights, column) for column in zip(*values, strict=True)]
            gates = zip(self.linear(f"{name}.gate_own", z), self.linear(f"{name}.gate_other", a), strict=True)
            out.append([x + sigmoid(g + h) * y for x, y, (g, h) in zip(z, a, gates, strict=True)])
        return out

    def int_tower(self, city, history, item):
        layers = self.layers("user_stack", self.light_se("user_se", self.user_fields(city, history)))
        users = [head for place, layer in enumerate(layers) for head in self.heads(f"user_heads.{place}", layer)]
        output = self.layers("item_stack", self.light_se("item_se", self.item_fields(item)))[-1]
        return sum(max(dot(u, v) for v in self.heads("item_heads", output)) for u in users)

    def rank_tower(self, city, history, item):
        users = self.gated_heads("user_heads", self.layers("user_stack", self.user_fields(city, history))[-1], 3)
        items = self.gated_heads("item_heads", self.layers("item_stack", self.item_fields(item))[-1], 2)
        users, items = self.attended("user_attention", users, items), self.attended("item_attention", items, users)
        return sum(max(dot(unit(u), unit(v)) for v in items) for u in users)


def move_norms(model):
    for name, value in model.state_dict().items():
        if ".norms." in name and value.is_floating_point():
            value.copy_(0.5 + torch.rand_like(value))


@pytest.mark.parametrize(("kind", "by_hand"), [(IntTower, ByHand.int_tower), (RankTower, ByHand.rank_tower)])
def test_whole_scores(kind, by_hand, batch):
    model = make(kind).eval()
    move_norms(model)
    hand = ByHand(model)
    expected = [
        [by_hand(hand, city, past, i) for i in CANDIDATES] for city, past in zip(CITIES, HISTORIES, strict=True)
    ]
    users, items = model.encode_users(batch.users), model.encode_items(batch.items)
    torch.testing.assert_close(model.score(users, items), torch.tensor(expected, dtype=torch.float64))
    encoded = model(batch)
    own = [row[i] for i, row in enumerate(expected)]
    assert model.score_rows(encoded.users, encoded.items).tolist() == pytest.approx(own, rel=1e-9)


@pytest.mark.parametrize("candidates", [CANDIDATES, [6, 2, 6, 9, 5, 3]], ids=["apart", "one item two rows on"])
def test_coarse_loss_of_rank_tower_is_over_positives(batch, candidates):
    """A further row of the same item is no negative of the row before it, while the row itself meets it no more."""
    model = make(RankTower, coarse_weight=0.3).eval()
    move_norms(model)
    items = Items(torch.tensor(candidates), {"brand": torch.tensor([BRANDS[item] for item in candidates])})
    hand, total = ByHand(model), 0.0
    for i, label in enumerate(LABELS):
        if label:
            others = [candidates[(i + shift) % 6] for shift in (1, 2)]
            met = [candidates[i], *(item for item in others if item != candidates[i])]
            logits = [hand.rank_tower(CITIES[i], HISTORIES[i], item) / 0.5 for item in met]
            total -= math.log(softmax(logits)[0])
    model.training = True  # the model's own flag alone: its norms stay as they are served
    found = model(batch._replace(items=items)).losses["coarse"].item()
    assert found == pytest.approx(0.3 * total / sum(LABELS), rel=1e-9)


def covariance(rows):
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    centred = [[x - m for x, m in zip(row, mean, strict=True)] for row in rows]
    return [[dot(a, b) / (len(rows) - 1) for b in zip(*centred, strict=True)] for a in zip(*centred, strict=True)]


def test_category_alignment_is_among_the_losses_of_dat(batch):
    """Brands are 2, 2, 1, 2, 1, 3: the second is the major one, the third stands alone."""
    encoded = make(DAT, category_weight=0.7)(batch)
    vectors = encoded.items.tolist()
    major, minor = covariance([vectors[i] for i in (0, 1, 3)]), covariance([vectors[i] for i in (2, 4)])
    distance = sum((a - b) ** 2 for p, q in zip(major, minor, strict=True) for a, b in zip(p, q, strict=True))
    assert encoded.losses["category_alignment"].item() == pytest.approx(0.7 * distance / 25, rel=1e-9)


def test_cold_keeps_the_fields_that_weigh_most(batch):
    model = make(COLD).eval()
    with torch.no_grad():
        model.excitation.weight.zero_()
        model.excitation.bias.copy_(torch.tensor([0.1, -2.0, 1.5, 0.7, -0.3, 3.0, -1.0]))
    assert model.select_fields(batch, 3) == ["history.brand", "item.id", "cross.id"]
    assert model.kept.tolist() == [0, 0, 1, 1, 0, 1, 0]
    assert model.select_fields(batch, 1) == ["cross.id"]


@pytest.mark.parametrize(
    "history",
    [[[2, 3, 7]], [[4, 4, 6, 0, 0]], [[0, 0]], [[2, 3, 4], [5, 0, 0], [0, 0, 0]], HISTORIES],
    ids=["one-user", "one-user-padded", "nothing", "several", "as-many-places-as-items"],
)
def test_pooled_history_is_a_mean(history):
    fields = ItemFields(SCHEMA, dim=3).double()
    fields.attach(Items(torch.arange(10), {"brand": torch.tensor(BRANDS)}))
    ids, brands = fields.ids.weight.tolist(), fields.features.layers[0].weight.tolist()
    for found, row in zip(fields.pooled_history(torch.tensor(history)).tolist(), history, strict=True):
        there = [item for item in row if item]
        for field, table in enumerate(([ids[item] for item in there], [brands[BRANDS[item]] for item in there])):
            mean = [sum(column) / len(there) for column in zip(*table, strict=True)] if there else [0.0] * 3
            assert found[field] == pytest.approx(mean, rel=1e-12)
