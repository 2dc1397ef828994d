"""FIT's parts against the formulas, in Python floats, and its two ways of scoring against each other."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import PADDING, Batch, Users
from twotower.models.fit.model import FIT
from twotower.models.fit.states import FITItems, compact, whole_heads
from twotower.models.fit.tables import served_heads, user_tables
from twotower.models.fit.triton import compiled_scores, compiled_user_pass, packed_weights, scores_of_one_user
from twotower.models.fit.units import UNITS
from twotower.towers.interaction.base import InteractionUnit
from twotower.towers.interaction.dice import Dice
from twotower.towers.interaction.dien import DIEN
from twotower.towers.interaction.din import DIN
from twotower.towers.interaction.meta_query import MetaQueries, parameter_free_attention
from twotower.towers.interaction.target_attention import TargetAttention


def random_state(model):
    """Non-trivial running averages and slopes, so that a test of evaluation mode sees them."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_()
        if isinstance(module, Dice):
            module.alpha.data.normal_()
    return model


def make_model(dataset, **settings):
    options = {"field_dim": 4, "hidden": (11, 9), "dim": 6, "user_heads": 3, "meta_queries": 5, "scorer_dim": 4}
    model = FIT(dataset.schema, **(options | settings)).double()
    model.attach_items(double_items(dataset))
    return random_state(model)


def double_items(dataset):
    items = dataset.all_items()
    return items._replace(features={k: v.double() if v.is_floating_point() else v for k, v in items.features.items()})


def make_batch(dataset):
    """Rows with a full, a partly padded and an empty history."""
    history = torch.tensor([[2, 3, 4, 9], [5, 6, 0, 0], [0, 0, 0, 0], [7, 7, 8, 0]])
    ids = torch.tensor([2, 3, 1, 4])
    users = dataset.users(ids, history)
    users = users._replace(features={k: v.double() if v.is_floating_point() else v for k, v in users.features.items()})
    every = double_items(dataset)
    chosen = torch.tensor([6, 2, 9, 6])
    items = every._replace(ids=chosen, features={k: v[chosen] for k, v in every.features.items()})
    return Batch(users, items, torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64))


# The meta query module


def slow_attention(meta):
    n, d = len(meta), len(meta[0])
    gram = [[sum(meta[i][c] * meta[j][c] for c in range(d)) for j in range(n)] for i in range(n)]
    energy = sum(gram[i][i] for i in range(n))
    return [[min(n, d) * sum(gram[i][j] * meta[j][c] for j in range(n)) / energy for c in range(d)] for i in range(n)]


def slow_weights(item, queries, temperature):
    logits = [sum(a * b for a, b in zip(item, query, strict=True)) / temperature for query in queries]
    top = max(logits)
    raised = [math.exp(logit - top) for logit in logits]
    return [value / sum(raised) for value in raised]


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (3, 5), (7, 4), (5, 5)])
def test_parameter_free_attention(count, dim):
    meta = torch.randn(count, dim, dtype=torch.float64)
    expected = torch.tensor(slow_attention(meta.tolist()), dtype=torch.float64)
    torch.testing.assert_close(parameter_free_attention(meta), expected, rtol=1e-12, atol=1e-13)


def test_attention_is_equation_5_up_to_one_number():
    meta = torch.randn(6, 4, dtype=torch.float64)
    printed = meta @ meta.T @ meta
    ratio = parameter_free_attention(meta) / printed
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))


def test_attention_grows_with_its_input_and_not_its_cube():
    meta = torch.randn(6, 4)
    for scale in (1e-6, 1e-3, 1e3, 1e9):
        torch.testing.assert_close(parameter_free_attention(scale * meta), scale * parameter_free_attention(meta))
    assert torch.equal(parameter_free_attention(torch.zeros(3, 2)), torch.zeros(3, 2))


def test_attention_leaves_an_orthogonal_matrix_alone():
    orthogonal = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    torch.testing.assert_close(parameter_free_attention(3.0 * orthogonal), 3.0 * orthogonal)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.001])
@pytest.mark.parametrize("self_attention", [True, False])
def test_soft_query_and_index(temperature, self_attention):
    meta = MetaQueries(count=5, dim=3, self_attention=self_attention).double()
    items = torch.randn(7, 3, dtype=torch.float64)
    rows = meta.meta.tolist()
    queries = slow_attention(rows) if self_attention else rows
    for item, soft, index in zip(
        items.tolist(), meta.soft(items, temperature).tolist(), meta.index(items).tolist(), strict=True
    ):
        weights = slow_weights(item, queries, temperature)
        expected = [sum(w * q[c] for w, q in zip(weights, queries, strict=True)) for c in range(3)]
        assert soft == pytest.approx(expected, rel=1e-10)
        assert index == weights.index(max(weights))


def test_imbalance_and_queries_in_use():
    meta = MetaQueries(count=3, dim=2, self_attention=False).double()
    items = torch.randn(5, 2, dtype=torch.float64)
    shares, choices = [0.0] * 3, [0.0] * 3
    for item in items.tolist():
        logits = [sum(a * b for a, b in zip(item, query, strict=True)) for query in meta.meta.tolist()]
        total = sum(math.exp(x) for x in logits)
        shares = [s + math.exp(x) / total / 5 for s, x in zip(shares, logits, strict=True)]
        choices[logits.index(max(logits))] += 1 / 5
    entropy = -sum(s * math.log(s) for s in shares)
    assert meta.imbalance(items).item() == pytest.approx(math.log(3) - entropy, rel=1e-12)
    used = math.exp(-sum(s * math.log(s) for s in choices if s))
    assert meta.in_use(items).item() == pytest.approx(used, rel=1e-6)
    assert meta.imbalance(torch.zeros(4, 2, dtype=torch.float64)).item() == pytest.approx(0.0, abs=1e-12)


def test_the_balance_spreads_items_that_have_much_in_common():
    torch.manual_seed(0)
    items = torch.tensor([3.0, 0.0, 0.0, 0.0]) + torch.randn(300, 4)
    meta = MetaQueries(count=8, dim=4)
    before = float(meta.in_use(items))
    optimizer = torch.optim.Adam(meta.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        meta.imbalance(items).backward()
        optimizer.step()
    assert before < 4.0
    assert float(meta.in_use(items)) > before + 1.5


def test_the_balance_is_part_of_the_loss_in_training_alone(tiny_dataset):
    model = make_model(tiny_dataset, query_balance=0.5)
    batch = make_batch(tiny_dataset)
    fields = model._item_fields(batch.items)
    expected = 0.5 * model.meta.imbalance(fields)
    torch.testing.assert_close(model.train()(batch).losses["query_balance"], expected)
    assert model.eval()(batch).losses == {}
    assert make_model(tiny_dataset).train()(batch).losses == {}


@pytest.mark.bad_input
def test_a_negative_balance_is_refused(tiny_dataset):
    with pytest.raises(InputError, match="query_balance must be at least 0"):
        make_model(tiny_dataset, query_balance=-0.1)


def test_soft_query_becomes_the_hard_one():
    meta = MetaQueries(count=6, dim=4).double()
    items = torch.randn(50, 4, dtype=torch.float64)
    hard = meta.hard()[meta.index(items)]
    gaps = [(meta.soft(items, temperature) - hard).norm().item() for temperature in (1.0, 0.1, 0.01, 1e-6)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6


def test_logits_at_the_start_are_moderate(tiny_dataset):
    """The first soft query must mix many hard ones, or only one of them learns."""
    model = FIT(tiny_dataset.schema, meta_queries=8)
    model.attach_items(tiny_dataset.all_items())
    fields = model.item_fields.of_ids(torch.arange(2, 10))
    assert (fields @ model.meta.hard().T).abs().max() < 10


def test_temperature_falls_over_one_epoch(tiny_dataset):
    model = make_model(tiny_dataset)
    for epochs, expected in [(0.0, 1.0), (0.25, 0.75), (0.9995, 0.001), (1.0, 0.001), (7.5, 0.001)]:
        model.set_progress(epochs)
        assert model.query_temperature.item() == pytest.approx(expected)
        assert model.selectable == (expected == 0.001)
    soft = make_model(tiny_dataset, query_training="soft")
    soft.set_progress(5.0)
    assert soft.query_temperature.item() == 1.0
    assert soft.selectable


# The interaction units


def slow_dice(x, mean, variance, alpha):
    share = 1 / (1 + math.exp(-(x - mean) / math.sqrt(variance + 1e-8)))
    return share * x + (1 - share) * alpha * x


def test_dice_in_training_and_after():
    dice = Dice(3).double()
    dice.alpha.data = torch.tensor([0.0, 0.5, -1.0], dtype=torch.float64)
    inputs = torch.randn(9, 3, dtype=torch.float64) * 2 + 1
    out = dice(inputs)
    for channel in range(3):
        column = inputs[:, channel].tolist()
        mean = sum(column) / 9
        variance = sum((x - mean) ** 2 for x in column) / 9
        expected = [slow_dice(x, mean, variance, dice.alpha[channel].item()) for x in column]
        assert out[:, channel].tolist() == pytest.approx(expected, rel=1e-12)
    dice.eval()
    mean, variance = dice.norm.running_mean, dice.norm.running_var
    expected = slow_dice(inputs[0, 1].item(), mean[1].item(), variance[1].item(), 0.5)
    assert dice(inputs)[0, 1].item() == pytest.approx(expected, rel=1e-12)
    assert torch.isfinite(dice.train()(inputs[:1])).all()


def slow_din(unit, query, history):
    def layer(weight, bias, values):
        return [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)]

    pooled = [0.0] * len(query)
    for item in history:
        joined = [*item, *query, *(a * b for a, b in zip(item, query, strict=True))]
        first = torch.cat([unit.key_part.weight, unit.query_part.weight, unit.product_part.weight], 1).tolist()
        hidden = layer(first, unit.key_part.bias.tolist(), joined)
        for activation, linear in zip(unit.activations, unit.layers, strict=True):
            mean, variance = activation.norm.running_mean.tolist(), activation.norm.running_var.tolist()
            hidden = [
                slow_dice(*numbers) for numbers in zip(hidden, mean, variance, activation.alpha.tolist(), strict=True)
            ]
            hidden = layer(linear.weight.tolist(), linear.bias.tolist(), hidden)
        pooled = [total + hidden[0] * number for total, number in zip(pooled, item, strict=True)]
    return pooled


def slow_target_attention(unit, query, history):
    if not history:
        return [0.0] * len(query)
    q = (unit.query_map.weight @ torch.tensor(query, dtype=torch.float64)).tolist()
    keys = [(unit.key_map.weight @ torch.tensor(item, dtype=torch.float64)).tolist() for item in history]
    weights = slow_weights(q, keys, math.sqrt(len(query)))
    return [sum(w * item[c] for w, item in zip(weights, history, strict=True)) for c in range(len(query))]


@pytest.mark.parametrize(("kind", "slow"), [(DIN, slow_din), (TargetAttention, slow_target_attention)])
def test_weighted_pooling(kind, slow):
    unit = random_state(kind(3).double()).eval()
    queries = torch.randn(4, 3, dtype=torch.float64)
    history = torch.randn(4, 5, 3, dtype=torch.float64)
    lengths = [5, 2, 0, 1]
    present = torch.arange(5) < torch.tensor(lengths)[:, None]
    out = unit(queries, history, present)
    for row, length in enumerate(lengths):
        expected = slow(unit, queries[row].tolist(), history[row, :length].tolist())
        assert out[row].tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def slow_dien(unit, query, history):
    """The two recurrences, one step and one gate at a time."""
    weight_in, weight_state = unit.interests.weight_ih_l0, unit.interests.weight_hh_l0
    bias_in, bias_state = unit.interests.bias_ih_l0, unit.interests.bias_hh_l0
    state, states = torch.zeros(unit.width, dtype=torch.float64), []
    for item in torch.tensor(history, dtype=torch.float64).view(-1, unit.width):
        r_in, z_in, n_in = (weight_in @ item + bias_in).split(unit.width)
        r_state, z_state, n_state = (weight_state @ state + bias_state).split(unit.width)
        update, reset = torch.sigmoid(z_in + z_state), torch.sigmoid(r_in + r_state)
        state = (1 - update) * torch.tanh(n_in + reset * n_state) + update * state
        states.append(state)
    answer = torch.zeros(unit.width, dtype=torch.float64)
    if not states:
        return answer.tolist()
    mapped = (unit.attention.weight @ torch.tensor(query, dtype=torch.float64)).tolist()
    for weight, state in zip(slow_weights(mapped, [s.tolist() for s in states], 1.0), states, strict=True):
        u_in, r_in, n_in = unit.from_input(state).split(unit.width)
        u_state, r_state, n_state = unit.from_state(answer).split(unit.width)
        update = weight * torch.sigmoid(u_in + u_state)
        new = torch.tanh(n_in + torch.sigmoid(r_in + r_state) * n_state)
        answer = (1 - update) * answer + update * new
    return answer.tolist()


def test_evolving_interest():
    unit = DIEN(3).double()
    queries, history = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 4, 3, dtype=torch.float64)
    lengths = [4, 2, 0]
    out = unit(queries, history, torch.arange(4) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        expected = slow_dien(unit, queries[row].tolist(), history[row, :length].tolist())
        assert out[row].tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_deepfm_products():
    unit = UNITS["deepfm"](6, fields=2).double()
    query, history = torch.randn(1, 6, dtype=torch.float64), torch.randn(1, 2, 6, dtype=torch.float64)
    out = unit(query, history, torch.ones(1, 2, dtype=torch.bool))[0]
    fields = [*query[0].split(3), *history[0].mean(0).split(3)]
    expected = sum(fields[a] * fields[b] for a in range(4) for b in range(a))
    torch.testing.assert_close(out[:3], expected)
    assert out.shape == (unit.width,)


@pytest.mark.parametrize("name", UNITS)
def test_shared_queries_equal_one_by_one(name):
    unit = random_state(UNITS[name](4, fields=2) if name == "deepfm" else UNITS[name](4)).double().eval()
    queries, history = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    present = torch.tensor([[True, True, False, False, False], [False] * 5])
    shared = unit.shared(queries, history, present)
    for place, query in enumerate(queries):
        torch.testing.assert_close(shared[:, place], unit(query.expand(2, 4), history, present))
    torch.testing.assert_close(InteractionUnit.shared(unit, queries, history, present), shared)


def test_padding_moves_neither_statistics_nor_gradients():
    unit = DIN(3).double()
    other = DIN(3).double()
    other.load_state_dict(unit.state_dict())
    queries, history = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    present = torch.tensor([[True, True, True, False], [True, False, False, False]])
    unit(queries, history, present).sum().backward()
    other(queries, history.masked_fill(~present[:, :, None], 7.0), present).sum().backward()
    for (name, left), (_, right) in zip(unit.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, msg=name)
    torch.testing.assert_close(unit.activations[0].norm.running_var, other.activations[0].norm.running_var)


# The model


@pytest.mark.parametrize("interaction", UNITS)
@pytest.mark.parametrize("self_attention", [True, False])
def test_stored_states_score_as_the_direct_path(tiny_dataset, interaction, self_attention):
    model = make_model(tiny_dataset, interaction=interaction, self_attention=self_attention).eval()
    batch = make_batch(tiny_dataset)
    direct = model.score_pairs(batch)
    users, items = model.encode_users(batch.users), model.encode_items(batch.items)
    everything = model.score(users, items)
    torch.testing.assert_close(everything.diagonal(), direct)
    torch.testing.assert_close(model.score_rows(users, items), direct)
    by_row = type(items)(*(part.expand(4, *part.shape) for part in items))
    torch.testing.assert_close(model.score_rows(users, by_row), everything)


@pytest.mark.parametrize("settings", [*({"interaction": name} for name in UNITS), {"meta_queries": 0}], ids=str)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_tables_change_nothing(tiny_dataset, settings, batch_norm):
    model = make_model(tiny_dataset, **settings, batch_norm=batch_norm).eval()
    batch = make_batch(tiny_dataset)
    # Few enough history items, so that the plain path is taken: a row at a time.
    rows = [
        Users(u[None], {k: v[r : r + 1] for k, v in batch.users.features.items()}, batch.users.history[r : r + 1])
        for r, u in enumerate(batch.users.ids)
    ]
    plain = torch.cat([model.encode_users(row) for row in rows])
    torch.testing.assert_close(served_heads(model, user_tables(model), batch.users), plain)
    model.prepare_serving()
    torch.testing.assert_close(model.encode_users(batch.users), plain)


@pytest.mark.parametrize("queries", [0, 5])
def test_tables_serve_requests_alone(tiny_dataset, queries):
    """Pairs are scored by the weights of now, with their gradients; and a request may bring no user."""
    model = make_model(tiny_dataset, meta_queries=queries, scorer="sum_max").eval()  # LSS may start with no gradient
    batch = make_batch(tiny_dataset)
    model.prepare_serving()
    model.score_pairs(batch).sum().backward()
    assert model.user_stack.linears[0].weight.grad.abs().sum() > 0
    before = model.score_pairs(batch)
    with torch.no_grad():
        model.user_stack.linears[0].bias.add_(1.0)
    assert (model.score_pairs(batch) - before).abs().max() > 1e-4
    none = {name: column[:0] for name, column in batch.users.features.items()}
    nobody = Users(batch.users.ids[:0], none, batch.users.history[:0])
    assert model.encode_users(nobody).shape == (0, max(queries, 1), *model.encode_users(batch.users).shape[2:])


def test_training_meets_serving_when_the_temperature_is_low(tiny_dataset):
    """The soft query at 0.001 and the hard one give one score; at 1 they do not."""
    model = make_model(tiny_dataset, batch_norm=False, interaction="target_attention")
    batch = make_batch(tiny_dataset)
    hard = model.eval().score_pairs(batch)
    model.train()
    model.set_progress(1.0)
    torch.testing.assert_close(model.score_pairs(batch), hard, rtol=1e-4, atol=1e-5)
    model.set_progress(0.0)
    assert (model.score_pairs(batch) - hard).abs().max() > 1e-4


def test_a_row_does_not_hang_on_its_batch(tiny_dataset):
    model = make_model(tiny_dataset).eval()
    batch = make_batch(tiny_dataset)
    together = model.score_pairs(batch)
    for row in range(4):
        part = slice(row, row + 1)
        alone = Batch(
            Users(
                batch.users.ids[part], {k: v[part] for k, v in batch.users.features.items()}, batch.users.history[part]
            ),
            batch.items._replace(
                ids=batch.items.ids[part], features={k: v[part] for k, v in batch.items.features.items()}
            ),
        )
        torch.testing.assert_close(model.score_pairs(alone)[0], together[row])


def test_wider_padding_changes_nothing(tiny_dataset):
    model = make_model(tiny_dataset).eval()
    batch = make_batch(tiny_dataset)
    wider = batch.users._replace(history=torch.nn.functional.pad(batch.users.history, (0, 6)))
    torch.testing.assert_close(model.encode_users(wider), model.encode_users(batch.users))
    torch.testing.assert_close(model.score_pairs(batch._replace(users=wider)), model.score_pairs(batch))


@pytest.mark.parametrize("interaction", ["din", "target_attention", "deepfm"])
def test_a_history_without_places_is_an_empty_one(tiny_dataset, interaction):
    model = make_model(tiny_dataset, interaction=interaction).eval()
    batch = make_batch(tiny_dataset)
    padded, none = (
        batch._replace(users=batch.users._replace(history=torch.zeros(len(batch.users.ids), length, dtype=torch.int64)))
        for length in (3, 0)
    )
    torch.testing.assert_close(model.score_pairs(none), model.score_pairs(padded))


@pytest.mark.parametrize("interaction", ["din", "target_attention"])
def test_only_items_that_are_there_are_read_and_nothing_is_lost(tiny_dataset, interaction):
    """Training gathers the items that are there; the unit read with the padded history gives the same."""
    model = make_model(tiny_dataset, interaction=interaction).double().eval()
    batch = make_batch(tiny_dataset)
    history = batch.users.history
    query = torch.randn(len(history), model.item_fields.width, dtype=torch.float64)
    expected = model.unit(query, model.item_fields.of_history(history), history != PADDING)
    torch.testing.assert_close(model._interest(model.unit, query, history), expected)


def test_every_parameter_of_the_soft_path_learns(tiny_dataset):
    model = make_model(tiny_dataset)
    batch = make_batch(tiny_dataset)
    torch.nn.functional.binary_cross_entropy_with_logits(
        model.score_pairs(batch) * model.logit_scale(), batch.labels
    ).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []
    assert (model.meta.meta.grad.abs().sum(1) > 0).all()  # at temperature 1 every hard query learns at once


def test_scores_written_for_the_compiler(tiny_dataset):
    model = make_model(tiny_dataset, user_heads=3, item_heads=2).eval()
    users = model.encode_users(make_batch(tiny_dataset).users)[:1]
    items = model.encode_items(double_items(tiny_dataset))
    lss = model.scorer.reduction
    ids = torch.arange(len(items.heads))
    plain = scores_of_one_user(
        users[0], ids, items.query_index, items.heads, None, packed_weights(lss), len(lss.rows.bias)
    )
    torch.testing.assert_close(plain, model.score(users, items)[0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_what_compile_scoring_does_on_a_gpu(tiny_dataset, monkeypatch, backend):
    """The graphs that are traced give the same numbers; kernels made of them too, which takes a C++ compiler long."""
    if backend != "inductor":
        whole = torch.compile
        monkeypatch.setattr(torch, "compile", lambda function, options=None: whole(function, backend=backend))
    model = make_model(tiny_dataset).eval()
    batch = make_batch(tiny_dataset)
    users, items = model.encode_users(batch.users), compact(model.encode_items(double_items(tiny_dataset)), "int8")
    ids, scores = torch.tensor([5, 2, 9, 7]), compiled_scores(model.scorer)
    with torch.inference_mode():
        found = scores(users[0], ids, items.query_index, items.heads, items.step)
        torch.testing.assert_close(found, model.score(users[:1], items)[0, ids])
    model.prepare_serving()
    model._ready = model._ready._replace(user_pass=compiled_user_pass())
    features = {name: values[:1] for name, values in batch.users.features.items()}
    alone = batch.users._replace(ids=batch.users.ids[:1], features=features, history=batch.users.history[:1])
    with torch.inference_mode():
        torch.testing.assert_close(model.encode_users(alone), users[:1])
        torch.testing.assert_close(model.encode_users(batch.users), users)
    model.train()
    assert model.prepared.user_pass is None


def test_gradients_pass_through_user_states_of_evaluation_mode(tiny_dataset):
    """Of many users at once the quick form is taken; it must not cost the gradient."""
    model = make_model(tiny_dataset).eval()
    users = make_batch(tiny_dataset).users
    assert users.history.numel() >= tiny_dataset.schema.num_items
    states = model.encode_users(users)
    states.square().sum(dim=-1)[..., 0].sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(model.encode_users(users), states)
    assert model.user_stack.linears[1].weight.grad is not None


def test_int8_heads_are_counted_in_the_step_that_is_read_back():
    """So small a step is no number of float16: the one that is kept is a third larger, and counts must be of that."""
    heads = torch.linspace(-1.0, 1.0, 24).view(1, 4, 6) * 127 * 9e-8
    small = compact(FITItems(torch.zeros(1, dtype=torch.uint8), heads), "int8")
    step = float(small.step[0])
    assert step > 1.2 * 9e-8
    assert float((whole_heads(small, torch.float32) - heads).abs().max()) <= 0.501 * step
