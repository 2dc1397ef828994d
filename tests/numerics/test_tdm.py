"""TDM's score, loss, trees and beam search against loops in float64, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from stopping import StopAt

from twotower.core.errors import InputError
from twotower.core.records import Items, Users
from twotower.core.schema import Feature, Schema
from twotower.core.states import take
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.splitters import split_log
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import tdm
from twotower.experiment.run import ModelSection, Run
from twotower.index.tree_index import TreeIndex
from twotower.models.registry import build_model
from twotower.models.tdm import TDM
from twotower.ops.balanced_tree import levels_of, nodes_of, order_by_likeness
from twotower.training.config import Sampling
from twotower.training.sources import NegativeSource

ITEMS = 37
SCHEMA = Schema(60, ITEMS + 2)
IDS = torch.arange(2, ITEMS + 2)


def users_of(rows: int = 6, length: int = 7) -> Users:
    history = torch.randint(2, ITEMS + 2, (rows, length), generator=torch.Generator().manual_seed(3))
    history[0, 3:] = 0
    history[1:2] = 0
    return Users(torch.arange(rows) + 2, {}, history)


def model_of(schema: Schema = SCHEMA, **settings) -> TDM:
    torch.manual_seed(5)
    given = {"dim": 6, "hidden": [5, 4], "parts": 2, "history_length": 5, "rounds": 0} | settings
    model = build_model("tdm", schema, given)
    assert isinstance(model, TDM)
    return model.eval().double()


def slow_score(model: TDM, history: list[int], node: torch.Tensor) -> float:
    """One user and one node: parts of the latest items, each a weighted mean, and the network by its weights."""
    net, latest = model.scorer, [item for item in history if item][::-1][: model.history_length]
    each = math.ceil(model.history_length / net.parts)
    parts = []
    for part in range(net.parts):
        items = [model.item_table.weight[item] for item in latest[part * each : (part + 1) * each]]
        weights = [1.0 / max(1, len(items))] * len(items)
        if net.form == "attention" and items:
            likeness = [math.exp(float(item @ node) / math.sqrt(len(node))) for item in items]
            weights = [one / sum(likeness) for one in likeness]
        parts.append(sum((w * item for w, item in zip(weights, items, strict=True)), torch.zeros_like(node)))
    if net.form == "dot":
        return float(net.rest(torch.cat(parts)) @ node)
    hidden = net.of_node.weight @ node + net.of_node.bias
    for place, part in enumerate(parts):
        hidden = hidden + net.of_parts[place].T @ part + net.of_products.weight[:, place] * (part @ node)
    first, second = (layer for layer in net.rest[1] if isinstance(layer, torch.nn.Linear))
    return float(second(torch.relu(first(torch.relu(hidden)))))


@pytest.mark.parametrize("form", ["attention", "mlp", "dot"])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_score_reads_the_parts_of_the_latest_items_and_the_node(form, parts):
    model, users = model_of(scorer=form, parts=parts), users_of()
    with torch.no_grad():
        states, items = model.encode_users(users), model.encode_items(Items(IDS))
        scores = model.score(states, items)
        expected = [[slow_score(model, row, item) for item in items] for row in users.history.tolist()]
        torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(model.score_rows(states, items[:6]), scores[:, :6].diagonal())
        torch.testing.assert_close(model.score_rows(states, items.expand(6, -1, -1)), scores)
        torch.testing.assert_close(model.train().score(states, items), scores)


@pytest.mark.parametrize("points", [1, 2, 5, 8, 37, 100])
@pytest.mark.parametrize("branches", [2, 3, 8])
def test_every_node_of_a_level_holds_as_many_leaves_or_one_more(points, branches):
    order = torch.randperm(points, generator=torch.Generator().manual_seed(1))
    levels = levels_of(points, branches)
    last = nodes_of(order, branches, levels)
    assert int(last.bincount(minlength=branches**levels).max()) <= branches
    for level in range(1, levels + 1):
        above = last // branches ** (levels - level)
        counts = above.bincount(minlength=branches**level)
        assert len(counts) == branches**level
        assert int(counts.max() - counts.min()) <= 1
        assert above[order].tolist() == sorted(above.tolist()), "leaves next to each other share nodes"
    assert levels == 1 or branches**levels < points


def test_what_is_alike_stands_together():
    spots = torch.arange(30) % 3
    points = torch.eye(3)[spots] + 0.01 * torch.randn(30, 3)
    order = order_by_likeness(points, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(30))
    assert (spots[order].diff() != 0).sum() <= 3


def slow_loss(model: TDM, users: Users, ids: list[int], drawn: list[int], weights: list[float]) -> float:
    total = 0.0
    for row, item in enumerate(ids):
        history, leaf = users.history[row].tolist(), int(model.leaf_nodes[item])
        for level in range(1, model.levels + 1):
            first = sum(2**below for below in range(1, level))
            own = first + leaf // 2 ** (model.levels - level)
            score = slow_score(model, history, model.node_table[own])
            terms = [score]
            for node, weight in zip(drawn, weights, strict=True):
                if first <= node < first + 2**level and node != own:
                    terms.append(slow_score(model, history, model.node_table[node]) + weight)
            total += math.log(sum(math.exp(term) for term in terms)) - score
    return total / len(ids) / model.levels


def test_the_loss_is_a_softmax_a_level_over_the_nodes_that_were_drawn():
    model, users = model_of(negatives=3), users_of()
    ids = torch.tensor([2, 9, 38, 20, 14, 2])
    with torch.no_grad():
        state = torch.get_rng_state()
        drawn, _, weights, levels = model.draw(ids)
        torch.set_rng_state(state)
        loss = model.node_loss(model.encode_users(users), ids)
        expected = slow_loss(model, users, ids.tolist(), drawn.tolist(), weights.tolist())
    assert [int((levels == level).sum()) for level in range(model.levels)] == [2, 3, 3, 3, 3]
    assert sorted(drawn[:2].tolist()) == [0, 1], "a level with no more nodes than are drawn is taken whole"
    assert weights[2:5].tolist() == pytest.approx([math.log(4 / 3)] * 3)
    assert float(loss) == pytest.approx(expected)


def test_a_node_above_the_rows_own_item_never_counts_against_it(monkeypatch):
    model, users = model_of(), users_of(1)
    ids = torch.tensor([20])
    _, own, _, _ = model.draw(ids)
    only = own[0], own, torch.ones(model.levels, dtype=torch.float64), torch.arange(model.levels)
    monkeypatch.setattr(model, "draw", lambda _: only)
    with torch.no_grad():
        assert float(model.node_loss(model.encode_users(users), ids)) == 0.0
    assert len({*own[0].tolist()}) == model.levels


def test_an_item_without_a_place_has_no_loss_above_it():
    model, users = model_of(negatives=99), users_of(2)
    both = model.node_loss(model.encode_users(users), torch.tensor([9, 9])).detach()
    model.leaf_nodes[8] = -1
    one = model.node_loss(model.encode_users(users), torch.tensor([8, 9])).detach()
    alone = model.node_loss(take(model.encode_users(users), slice(1, 2)), torch.tensor([9])).detach()
    assert float(one) == pytest.approx(float(alone))
    assert float(one) != pytest.approx(float(both))


def index_of(model: TDM, beam: int) -> TreeIndex:
    index = TreeIndex(model, beam=beam)
    index.build(model.encode_items(Items(IDS)).detach(), IDS)
    return index


def slow_beam(model: TDM, history: list[int], k: int, beam: int, unwanted: set[int]) -> list[int]:
    """Loops down the tree: the best nodes of each level among those with a leaf that may come back."""
    leaf, b = model.leaf_nodes, model.branches
    free = [id for id in IDS.tolist() if id not in unwanted]
    width, nodes = max(k, beam), [0]
    for level in range(1, model.levels + 1):
        below = {int(leaf[id]) // b ** (model.levels - level) for id in free}
        nodes = [child for node in nodes for child in range(node * b, node * b + b) if child in below]
        states = model.node_states(level)
        nodes = sorted(nodes, key=lambda node: -slow_score(model, history, states[node]))[:width]
    ids = [id for id in free if int(leaf[id]) in nodes]
    return sorted(ids, key=lambda id: -slow_score(model, history, model.item_table.weight[id]))[:k]


@pytest.mark.parametrize(("branches", "beam", "k"), [(2, 3, 2), (2, 5, 5), (3, 4, 3), (8, 2, 4), (2, 1, 1)])
def test_the_beam_keeps_the_best_nodes_of_each_level(branches, beam, k):
    model, users = model_of(branches=branches), users_of()
    exclude = torch.tensor([[3, 3, -1], [5, 9, 99], [2, 4, 6], [7, 8, 9], [-1, -1, -1], [38, 2, 2]])
    allow = IDS[IDS % 5 > 0]
    with torch.no_grad():
        found = index_of(model, beam).search(model.encode_users(users), k, exclude, allow).ids.tolist()
        for user, history in enumerate(users.history.tolist()):
            unwanted = {*exclude[user].tolist(), *(id for id in IDS.tolist() if id % 5 == 0)}
            assert found[user] == slow_beam(model, history, k, beam, unwanted)


def test_a_small_beam_misses_what_a_whole_one_finds():
    model = model_of()
    with torch.no_grad():
        states = model.encode_users(users_of())
        few, all_ = (index_of(model, beam).search(states, 2).ids for beam in (2, 40))
    assert not few.equal(all_)


@pytest.mark.parametrize("form", ["attention", "mlp", "dot"])
def test_with_all_nodes_in_the_beam_it_answers_as_a_scan_does(form):
    model = model_of(scorer=form)
    exclude = torch.randint(2, 39, (6, 4), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        states = model.encode_users(users_of())
        scores = model.score(states, model.encode_items(Items(IDS)))
        scores.scatter_(1, exclude - 2, -torch.inf)
        scores[:, :4] = -torch.inf
        found = index_of(model, 64).search(states, 10, exclude, IDS[4:])
    best = scores.topk(10, dim=1)
    assert found.ids.equal(best.indices + 2)
    torch.testing.assert_close(found.scores, best.values)


def test_exclusions_and_filters_shorten_no_answer_however_small_the_beam():
    model = model_of()
    best = [id for id in IDS.tolist() if int(model.leaf_nodes[id]) < model.branches ** (model.levels - 1)]
    with torch.no_grad():
        states = model.encode_users(users_of())
        found = index_of(model, 1).search(states, 9, torch.tensor([best]).expand(6, -1), IDS[::2])
    left = set(IDS[::2].tolist()) - set(best)
    assert all(len(set(row) & left) == min(9, len(left)) for row in found.ids.tolist())


def test_a_new_item_is_a_leaf_below_the_nearest_node():
    model = model_of()
    index = index_of(model, 1)
    with torch.no_grad():
        near = model.node_states(model.levels)[11] + 0.01
        index.add(near[None], torch.tensor([500]))
        assert int(model.nodes_above(torch.tensor([500]), near[None])) == 11
        found = index.search(model.encode_users(users_of()), ITEMS + 1).ids
    assert all(sorted(row) == [*IDS.tolist(), 500] for row in found.tolist())


def test_a_new_tree_clusters_the_learnt_vectors_and_its_nodes_are_their_means():
    model = model_of(rounds=2, round_epochs=1.5)
    spots = torch.arange(ITEMS) % 4
    with torch.no_grad():
        model.item_table.weight[2:] = torch.eye(6)[spots].double() * 3 + 0.01 * torch.randn(ITEMS, 6).double()
    before = model.leaf_nodes.clone()
    for epochs in (0.0, 0.7, 1.4):
        model.set_progress(epochs)
    assert model.leaf_nodes.equal(before)
    model.set_progress(1.6)
    assert int(model.rounds_done) == 1
    assert not model.leaf_nodes.equal(before)
    level = model.levels - 1
    nodes = model.leaf_nodes // 2 ** (model.levels - level)
    for node in range(2**level):
        mean = model.item_table.weight[nodes == node].mean(0)
        torch.testing.assert_close(model.node_states(level)[node], mean)
    tree, table = model.leaf_nodes.clone(), model.node_table.detach().clone()
    model.set_progress(2.9)
    again = model_of(rounds=2, round_epochs=1.5)
    again.load_state_dict(model.state_dict())
    again.set_progress(2.0)  # a resumed training does not make the same tree twice
    assert again.leaf_nodes.equal(tree)
    assert again.node_table.equal(table)
    again.set_progress(9.0)
    assert int(again.rounds_done) == 2


def log_of(histories: list[list[int]]) -> Log:
    lengths = torch.tensor([0, 0, *map(len, histories)])
    items = torch.tensor([item for history in histories for item in history])
    return Log(torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), items)


def test_the_first_tree_is_by_popularity_or_by_category():
    log = log_of([[4, 4, 4, 9, 9, 3], [7, 7, 9, 9, 6, 5]])
    schema = Schema(4, 10, item_features=(Feature("brand", "categorical", 4),))
    popular = model_of(schema, first_tree="popularity")
    popular.start_from(log)
    assert popular.leaf_nodes[[9, 4, 7, 3, 5, 6, 2, 8]].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    brands = torch.tensor([0, 0, 2, 3, 2, 3, 2, 3, 2, 3])
    by_brand = model_of(schema, first_tree="category")
    by_brand.attach_items(Items(torch.arange(10), {"brand": brands}))
    by_brand.start_from(log)
    halves = by_brand.leaf_nodes // 2 ** (by_brand.levels - 1)
    assert halves[2:].tolist() == (brands[2:] - 2).tolist()


def test_the_first_tree_by_co_occurrence_puts_together_what_users_take_together():
    log = log_of([[*range(2 + club, 18, 2)] for club in (0, 1) for _ in range(6)])
    model = model_of(Schema(14, 18))
    model.start_from(log)
    halves = model.leaf_nodes[2:] // 2 ** (model.levels - 1)
    assert len({*halves[::2].tolist()}) == len({*halves[1::2].tolist()}) == 1
    assert halves[0] != halves[1]


def clubs(users: int = 160, items: int = 60, seed: int = 0) -> Dataset:
    """Users of four clubs, each with items of its own; some items are liked by all."""
    draw = torch.Generator().manual_seed(seed)
    histories = []
    for user in range(users):
        own = torch.arange(2 + user % 4, items + 2, 4)
        taken = own[torch.randperm(len(own), generator=draw)[:9]].tolist()
        histories.append([*taken, *torch.randint(2, 8, (2,), generator=draw).tolist(), int(own[user % len(own)])])
    return Dataset(Schema(users + 2, items + 2, has_times=False), log_of(histories), {}, {}, {"name": "clubs"})


def run_of(**model) -> Run:
    settings = ["training.batch_size=128", "training.epochs=4", "training.learning_rate=0.01"]
    given = {"dim": 16, "hidden": [16], "parts": 1, "round_epochs": 1.0, "negatives": 8} | model
    few = Sampling((NegativeSource("uniform", {"number": 20}),))
    return replace(tdm().with_settings(settings), model=ModelSection("tdm", given), sampling=few)


def test_stopped_and_resumed_it_has_the_same_weights_and_the_same_tree(tmp_path):
    dataset, run = clubs(), run_of(rounds=2)
    split = split_log(dataset.log, "leave-one-out")
    model, records = learn(run, dataset, split)
    assert int(model.rounds_done) >= 1
    steps = records[0].step
    for stop in (steps - 1, steps, 2 * steps + 1):
        folder = tmp_path / str(stop)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            learn(run, dataset, split, folder=folder, callbacks=[StopAt(stop)])
        resumed, again = learn(run, dataset, split, folder=folder, resume=True)
        assert all(value.equal(model.state_dict()[key]) for key, value in resumed.state_dict().items())
        assert [record.loss for record in again] == [record.loss for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["attention", "mlp", "dot"])
def test_it_learns_the_clubs_and_its_beam_finds_them(scorer):
    dataset, run = clubs(), run_of(scorer=scorer)
    split = split_log(dataset.log, "leave-one-out")
    found = {}
    for name, one in {"tdm": run, "popularity": Run(model=ModelSection("popularity"))}.items():
        model, _ = learn(one, dataset, split)
        found[name] = evaluate(model, dataset, split.test).metrics["recall@10"]
        if isinstance(model, TDM):
            with torch.no_grad():
                users = Users(torch.arange(2, 42), {}, split.test.history.items.view(-1, 11)[:40])
                states, items = model.encode_users(users), model.encode_items(dataset.items(torch.arange(2, 62)))
                index = TreeIndex(model, beam=10)
                index.build(items, torch.arange(2, 62))
                best = model.score(states, items).topk(10).indices + 2
                down = index.search(states, 10).ids
            kept = (down[:, :, None] == best[:, None]).any(2).float().mean()
            assert float(kept) > 0.7
    assert found["tdm"] > 1.5 * found["popularity"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "dots"}, "did you mean 'dot'"),
        ({"parts": 21}, "parts must be between 1 and history_length = 20"),
        ({"branches": 1}, "branches at least 2"),
        ({"negatives": 0}, "negatives and history_length must be at least 1"),
        ({"round_epochs": 0.0}, "round_epochs finite and above 0"),
        ({"first_tree": "catgory"}, "did you mean 'category'"),
        ({"first_tree": "category"}, "wants a categorical feature of items"),
        ({"hidden": []}, "hidden must hold at least one width"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_model("tdm", SCHEMA, settings)
