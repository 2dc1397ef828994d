"""The losses and blocks of FIT's baselines against the formulas, in Python floats."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.core.records import Batch
from twotower.models.prerank.cold import COLD
from twotower.models.prerank.dat import DAT, category_alignment, mimic_loss
from twotower.models.prerank.int_tower import IntTower, contrastive_loss
from twotower.models.prerank.rank_tower import RankTower, likeness_of_heads
from twotower.towers.gated_heads import GatedHeads
from twotower.towers.interaction.gated_cross_attention import GatedCrossAttention
from twotower.towers.light_se import LightSE


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def linear(layer, values):
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [dot(row, values) + b for row, b in zip(layer.weight.tolist(), bias, strict=True)]


def softmax(values):
    raised = [math.exp(value) for value in values]
    return [value / sum(raised) for value in raised]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


@pytest.fixture
def batch(tiny_dataset):
    items = tiny_dataset.items(torch.tensor([6, 2, 9, 6]))
    users = tiny_dataset.users(torch.tensor([2, 3, 1, 4]), torch.tensor([[2, 3, 4], [5, 0, 0], [0, 0, 0], [7, 8, 0]]))
    return Batch(users, items, torch.tensor([1.0, 0.0, 1.0, 1.0]))


# Light-SE and IntTower


def test_light_se():
    block = LightSE(3).double()
    fields = draw(4, 3, 5)
    for row, out in zip(fields.tolist(), block(fields), strict=True):
        weights = softmax(linear(block.linear, [sum(field) / 5 for field in row]))
        expected = [[x + w * x for x in field] for w, field in zip(weights, row, strict=True)]
        torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))


def slow_contrastive(users, items, ids, labels, temperature):
    def cosine(u, v):
        return dot(u, v) / math.sqrt(dot(u, u) * dot(v, v))

    total = positives = 0.0
    for i, user in enumerate(users):
        if not labels[i]:
            continue
        rest = sum(
            math.exp(cosine(user, item) / temperature) for j, item in enumerate(items) if j == i or ids[j] != ids[i]
        )
        total += math.log(rest) - cosine(user, items[i]) / temperature
        positives += 1
    return total / positives


@pytest.mark.parametrize("labels", [[1.0, 0.0, 1.0, 1.0, 0.0], [1.0] * 5])
def test_contrastive_loss(labels):
    users, items, ids = draw(5, 3), draw(5, 3), torch.tensor([4, 2, 4, 3, 2])
    found = contrastive_loss(users, items, ids, torch.tensor(labels, dtype=torch.float64), 0.3)
    expected = slow_contrastive(users.tolist(), items.tolist(), ids.tolist(), labels, 0.3)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    if all(labels):
        torch.testing.assert_close(contrastive_loss(users, items, ids, None, 0.3), found)


def test_int_tower_scores_every_layer(tiny_dataset, batch):
    model = IntTower(tiny_dataset.schema, dim=6, item_heads=2, user_heads=3, hidden=(8, 7), field_dim=4).eval()
    model.attach_items(tiny_dataset.all_items())
    users, items = model.encode_users(batch.users), model.encode_items(batch.items)
    assert users.shape == (4, 2 * 3, 3)
    per_layer = [
        [max(dot(z, v) for v in item.tolist()) for z in user.tolist()] for user, item in zip(users, items, strict=True)
    ]
    found = model.score_pairs(batch).tolist()
    assert found == pytest.approx([sum(bests) for bests in per_layer], rel=1e-5)
    first_layer_alone = [sum(bests[:3]) for bests in per_layer]
    assert found != pytest.approx(first_layer_alone, rel=1e-3)


def test_contrastive_term_enters_the_loss_and_changes_gradients(tiny_dataset, batch):
    """Public code computes it and leaves it out, with the label 0 or 1 as its target index."""
    model = IntTower(tiny_dataset.schema, dim=4, item_heads=2, user_heads=2, hidden=(8, 8), field_dim=4)
    model.attach_items(tiny_dataset.all_items())
    encoded = model(batch)
    assert set(encoded.losses) == {"contrastive"}
    encoded.losses["contrastive"].backward()
    moved = [p for p in model.item_stack.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert moved
    assert model.item_fields.ids.weight.grad.abs().sum() > 0
    assert model.eval()(batch).losses == {}


# DAT


def test_mimic_loss():
    augmented, other, labels = draw(4, 3), draw(4, 3), torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    expected = sum(
        sum((a - b) ** 2 for a, b in zip(augmented[i].tolist(), other[i].tolist(), strict=True)) for i in (0, 2)
    )
    assert mimic_loss(augmented, other, labels).item() == pytest.approx(expected / 2, rel=1e-12)
    assert mimic_loss(augmented, other, torch.zeros(4, dtype=torch.float64)).item() == 0.0


def test_augmented_vectors_are_parameters_that_the_mimic_loss_trains(tiny_dataset, batch):
    """Trap T2: public code draws them anew at each pass, so that nothing can be learnt."""
    model = DAT(tiny_dataset.schema, dim=6, hidden=(8,), field_dim=4)
    model.attach_items(tiny_dataset.all_items())
    names = dict(model.named_parameters())
    assert {"user_augmented.weight", "item_augmented.weight"} <= set(names)
    model.eval()
    torch.testing.assert_close(model.encode_users(batch.users), model.encode_users(batch.users), rtol=0, atol=0)
    model.train()(batch).losses["mimic"].backward()
    for table, ids, positive in (
        (model.user_augmented, batch.users.ids, [2, 1, 4]),
        (model.item_augmented, batch.items.ids, [6, 9]),
    ):
        moved = table.weight.grad.abs().sum(1).nonzero()[:, 0].tolist()
        assert moved == sorted(positive)  # positives alone: not user 3, not item 2
        assert set(moved) <= set(ids.tolist())
    others = [name for name, p in names.items() if p.grad is not None and "augmented" not in name]
    assert others == []  # the other tower's output is held still


def test_augmented_vectors_come_to_mimic(tiny_dataset, batch):
    model = DAT(tiny_dataset.schema, dim=6, hidden=(8,), field_dim=4, batch_norm=False)
    model.attach_items(tiny_dataset.all_items())
    optimizer = torch.optim.Adam([model.user_augmented.weight, model.item_augmented.weight], lr=0.02)
    first = model(batch).losses["mimic"].item()
    for _ in range(150):
        optimizer.zero_grad()
        model(batch).losses["mimic"].backward()
        optimizer.step()
    assert model(batch).losses["mimic"].item() < 0.05 * first


def slow_alignment(vectors, categories):
    dim = len(vectors[0])

    def covariance(rows):
        mean = [sum(row[c] for row in rows) / len(rows) for c in range(dim)]
        return [
            [sum((r[a] - mean[a]) * (r[b] - mean[b]) for r in rows) / (len(rows) - 1) for b in range(dim)]
            for a in range(dim)
        ]

    groups = {}
    for row, name in zip(vectors, categories, strict=True):
        groups.setdefault(name, []).append(row)
    usable = {name: rows for name, rows in groups.items() if name != 0 and len(rows) > 1}
    major = max(usable, key=lambda name: len(usable[name]))
    target = covariance(usable[major])
    return (
        sum(
            (target[a][b] - covariance(rows)[a][b]) ** 2
            for name, rows in usable.items()
            if name != major
            for a in range(dim)
            for b in range(dim)
        )
        / dim**2
    )


def test_category_alignment():
    vectors = draw(12, 3)
    categories = [3, 3, 2, 2, 2, 2, 5, 0, 0, 0, 0, 0]  # 5 stands alone, 0 is padding
    found = category_alignment(vectors, torch.tensor(categories)).item()
    assert found == pytest.approx(slow_alignment(vectors.tolist(), categories), rel=1e-12)
    assert category_alignment(vectors, torch.ones(12, dtype=torch.int64)).item() == 0.0
    assert category_alignment(vectors[:2], torch.tensor([2, 3])).item() == 0.0


# COLD


def test_cold_weighs_fields(tiny_dataset, batch):
    model = COLD(tiny_dataset.schema, field_dim=2, hidden=(5,), batch_norm=False).double().eval()
    users, items = draw(1, model.num_user_fields, 2), draw(1, model.item_fields.count, 2)
    history = users[0, -model.item_fields.count :]
    fields = [*users[0].tolist(), *items[0].tolist(), *(history * items[0]).tolist()]
    flat = [x for field in fields for x in field]
    gates = [sigmoid(value) for value in linear(model.excitation, flat)]
    weighted = [x * gate for gate, field in zip(gates, fields, strict=True) for x in field]
    hidden = [max(0.0, value) for value in linear(model.stack.linears[0], weighted)]
    assert model.score(users, items).item() == pytest.approx(linear(model.projection, hidden)[0], rel=1e-12)


# RankTower


def test_likeness_of_heads():
    heads = draw(3, 4, 5)
    total = 0.0
    for row in heads.tolist():
        for a in range(4):
            for b in range(4):
                if a != b:
                    total += dot(row[a], row[b]) ** 2 / (dot(row[a], row[a]) * dot(row[b], row[b]))
    assert likeness_of_heads(heads).item() == pytest.approx(total / (3 * 4 * 3), rel=1e-12)
    assert likeness_of_heads(heads[:, :1]).item() == 0.0
    assert likeness_of_heads(torch.eye(4, dtype=torch.float64)[None]).item() == pytest.approx(0.0)


def test_gated_cross_attention():
    block = GatedCrossAttention(3).double()
    own, other = draw(2, 3), draw(4, 3)
    out = block(own[None], other[None])[0]
    for z, found in zip(own.tolist(), out.tolist(), strict=True):
        query = linear(block.query, z)
        weights = softmax([dot(query, linear(block.key, o)) / math.sqrt(3) for o in other.tolist()])
        values = [linear(block.value, o) for o in other.tolist()]
        attended = [sum(w * v[c] for w, v in zip(weights, values, strict=True)) for c in range(3)]
        gate = [
            sigmoid(a + b) for a, b in zip(linear(block.gate_own, z), linear(block.gate_other, attended), strict=True)
        ]
        assert found == pytest.approx([a + g * b for a, g, b in zip(z, gate, attended, strict=True)], rel=1e-10)


def test_gated_heads():
    block = GatedHeads(3, heads=2, dim=4).double()
    inputs = draw(5, 3)
    for x, found in zip(inputs.tolist(), block(inputs).tolist(), strict=True):
        gates = [sigmoid(value) for value in linear(block.gate, x)]
        for head in range(2):
            gated = [a * g for a, g in zip(x, gates[3 * head : 3 * head + 3], strict=True)]
            assert found[head] == pytest.approx(linear(block.maps[head], gated), rel=1e-10)


def test_rank_tower_brings_its_objectives(tiny_dataset, batch):
    model = RankTower(tiny_dataset.schema, dim=6, item_heads=2, user_heads=2, hidden=(8, 8), field_dim=4)
    model.attach_items(tiny_dataset.all_items())
    losses = model(batch).losses
    assert set(losses) == {"diversity", "coarse"}
    sum(losses.values()).backward()
    assert model.user_attention.gate_own.weight.grad.abs().sum() > 0
    assert model.item_heads.gate.weight.grad.abs().sum() > 0


def test_coarse_ranking_masks_the_same_item(tiny_dataset, batch):
    """Rows 0 and 3 hold one item: with only those two there is no negative, so nothing to lose."""
    model = RankTower(
        tiny_dataset.schema, dim=6, item_heads=2, user_heads=2, hidden=(8,), field_dim=4, coarse_negatives=1
    )
    model.attach_items(tiny_dataset.all_items())
    rows = torch.tensor([0, 3])
    same = Batch(
        tiny_dataset.users(batch.users.ids[rows], batch.users.history[rows]),
        tiny_dataset.items(batch.items.ids[rows]),
        torch.ones(2),
    )
    assert model(same).losses["coarse"].item() == pytest.approx(0.0, abs=1e-6)
    other = same._replace(items=tiny_dataset.items(torch.tensor([6, 2])))
    assert model(other).losses["coarse"].item() > 0.01
