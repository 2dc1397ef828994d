"""The whole evaluation against sorting one user at a time in Python, whatever the tiles."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.models.base import Model

KS = (1, 4, 30)
NUM_USERS, NUM_ITEMS = 31, 43


class Table(Model):
    """Scores written down: small whole numbers, so that ties abound and products are exact."""

    history_length = 3

    def __init__(self, schema: Schema, *, levels: int = 4, dim: int = 3) -> None:
        super().__init__()
        self.schema = schema
        generator = torch.Generator().manual_seed(levels)
        self.item_table = torch.randint(-levels, levels + 1, (schema.num_items, dim), generator=generator).float()
        self.item_table[0] = 0.0  # padding says nothing

    def encode_users(self, users):
        return self.item_table[users.history].sum(dim=1) + 1 + users.ids[:, None] % 3

    def encode_items(self, items):
        return self.item_table[items.ids]


def ragged(generator: torch.Generator, low: int, high: int, first_item: int = 2) -> Log:
    lengths = torch.randint(low, high, (NUM_USERS,), generator=generator)
    lengths[:2] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Log(offsets, torch.randint(first_item, NUM_ITEMS, (int(offsets[-1]),), generator=generator))


@pytest.fixture(params=[(0, 2), (0, 4), (0, 20)], ids=["one truth", "few truths", "many truths"])
def case(request):
    """History with repeats; truth with repeats, unknown items, and items that stand in the history."""
    generator = torch.Generator().manual_seed(request.param[1])
    history, truth = ragged(generator, 0, 9), ragged(generator, *request.param, first_item=1)
    schema = Schema(NUM_USERS, NUM_ITEMS, has_times=False)
    return Table(schema), Dataset(schema, history, {}, {}, {}), Targets(history, truth)


def part(log: Log, user: int) -> list[int]:
    return log.items[log.offsets[user] : log.offsets[user + 1]].tolist()


def slow_lists(model, targets, mask_seen, candidates) -> dict[int, list[int]]:
    lists = {}
    for user in range(NUM_USERS):
        if part(targets.truth, user):
            history = part(targets.history, user)
            mine = [sum(model.item_table[item][d].item() for item in history[-3:]) + 1 + user % 3 for d in range(3)]
            banned = set(history) if mask_seen else set()
            scored = []
            for item in candidates:
                if item not in banned:
                    scored.append(
                        (-sum(a * b for a, b in zip(mine, model.item_table[item].tolist(), strict=True)), item)
                    )
            lists[user] = [item for _, item in sorted(scored)]
    return lists


def slow_metrics(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    hits = [place for place, item in enumerate(ranked[:k], start=1) if item in relevant]
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(relevant)) + 1))
    return {
        f"recall@{k}": len(hits) / len(relevant),
        f"precision@{k}": len(hits) / k,
        f"hit_rate@{k}": float(bool(hits)),
        f"ndcg@{k}": sum(1 / math.log2(place + 1) for place in hits) / ideal,
        f"mrr@{k}": 1 / hits[0] if hits else 0.0,
        f"map@{k}": sum(n / place for n, place in enumerate(hits, start=1)) / len(relevant),
    }


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("candidates", [None, (40, 3, 5, 17, 8, 9, 33)])
def test_matches_sorting_one_user_at_a_time(case, mask_seen, candidates):
    model, dataset, targets = case
    result = evaluate(model, dataset, targets, Protocol(ks=KS, mask_seen=mask_seen, candidates=candidates))
    ranked_items = candidates or range(2, NUM_ITEMS)
    lists = slow_lists(model, targets, mask_seen, ranked_items)
    assert result.users.tolist() == list(lists)
    assert result.num_items == len(ranked_items)
    for row, user in enumerate(lists):
        for k in KS:
            for name, value in slow_metrics(lists[user], set(part(targets.truth, user)), k).items():
                assert result.per_user[name][row].item() == pytest.approx(value, rel=1e-12, abs=0), (user, name)
    for name, values in result.per_user.items():
        assert result.metrics[name] == pytest.approx(values.mean().item(), rel=1e-12)

    truths = {(user, item) for user in lists for item in part(targets.truth, user)}
    outside = {(user, item) for user, item in truths if item not in ranked_items}
    seen = {(user, item) for user, item in truths - outside if item in part(targets.history, user)}
    assert result.truths == len(truths)
    assert result.unreachable_truths == len(outside)
    assert result.seen_truths == (len(seen) if mask_seen else 0)


@pytest.mark.parametrize("with_lists", [True, False])
@pytest.mark.parametrize(("user_tile", "item_tile"), [(1, 1), (4, 7), (100, 5), (3, 100), (100, 41)])
def test_tiles_have_no_effect(case, user_tile, item_tile, with_lists):
    model, dataset, targets = case
    train = targets.history if with_lists else None
    whole = evaluate(model, dataset, targets, Protocol(ks=KS), train=train)
    cut = evaluate(model, dataset, targets, Protocol(ks=KS), train=train, user_tile=user_tile, item_tile=item_tile)
    assert cut.users.equal(whole.users)
    assert cut.metrics == whole.metrics
    assert cut.slices == whole.slices
    assert (cut.truths, cut.seen_truths) == (whole.truths, whole.seen_truths)
    for name, values in whole.per_user.items():
        assert cut.per_user[name].equal(values), name


def test_counting_and_lists_agree(case):
    model, dataset, targets = case
    plain = evaluate(model, dataset, targets, Protocol(ks=KS))
    lists = evaluate(model, dataset, targets, Protocol(ks=KS), train=targets.history)
    assert {name: lists.metrics[name] for name in plain.metrics} == plain.metrics


def test_renumbering_items_changes_nothing_but_ties(case):
    _, dataset, targets = case
    model = Table(dataset.schema, levels=10_000_000)  # no ties
    number = torch.cat([torch.tensor([0, 1]), 2 + torch.randperm(NUM_ITEMS - 2)])
    renamed = Table(dataset.schema, levels=10_000_000)
    renamed.item_table = torch.empty_like(model.item_table).index_copy_(0, number, model.item_table)

    def rename(log: Log) -> Log:
        return log._replace(items=number[log.items])

    before = evaluate(model, dataset, targets, Protocol(ks=KS))
    after = evaluate(renamed, dataset, Targets(rename(targets.history), rename(targets.truth)), Protocol(ks=KS))
    for name, values in before.per_user.items():
        torch.testing.assert_close(after.per_user[name], values, rtol=1e-12, atol=0)


def test_figures_beyond_accuracy_come_from_the_lists(case):
    model, dataset, targets = case
    result = evaluate(model, dataset, targets, Protocol(ks=(4, 30)), train=targets.history)
    lists = slow_lists(model, targets, True, range(2, NUM_ITEMS))
    popularity = [targets.history.items.tolist().count(item) for item in range(NUM_ITEMS)]
    for k in (4, 30):
        given = [item for ranked in lists.values() for item in ranked[:k]]
        assert result.metrics[f"coverage@{k}"] == pytest.approx(len(set(given)) / (NUM_ITEMS - 2))
        mean = sum(popularity[item] for item in given) / len(given)
        assert result.metrics[f"mean_popularity@{k}"] == pytest.approx(mean)


def test_where_all_have_seen_all_there_is_nothing_to_judge(case):
    model, dataset, targets = case
    asked = targets.truth.lengths > 0
    every = torch.arange(2, NUM_ITEMS).repeat(NUM_USERS - 2)
    offsets = ((torch.arange(NUM_USERS + 1) - 2).clamp(min=0)) * (NUM_ITEMS - 2)
    seen = Targets(Log(offsets, every), targets.truth)
    said = rf"all {int(asked.sum())} users have seen all {NUM_ITEMS - 2} items, so nothing is left to recommend"
    with pytest.raises(InputError, match=said):
        evaluate(model, dataset, seen, Protocol(ks=(4,)), train=seen.history)
    assert evaluate(model, dataset, seen, Protocol(ks=(4,), mask_seen=False), train=seen.history).num_items == 41


def test_slices_keep_only_their_truths(case):
    model, dataset, targets = case
    result = evaluate(model, dataset, targets, Protocol(ks=(4,)), train=targets.history)
    lists = slow_lists(model, targets, True, range(2, NUM_ITEMS))
    trained = set(targets.history.items.tolist())
    rules = {
        "cold_items": lambda user, item: item not in trained,
        "warm_items": lambda user, item: item in trained,
        "cold_users": lambda user, item: len(part(targets.history, user)) < 5,
        "warm_users": lambda user, item: len(part(targets.history, user)) >= 5,
    }
    for name, rule in rules.items():
        relevant = {user: {i for i in part(targets.truth, user) if rule(user, i)} for user in lists}
        rows = [slow_metrics(lists[user], items, 4) for user, items in relevant.items() if items]
        found = result.slices[name]
        assert found.users == len(rows)
        assert found.truths == sum(map(len, relevant.values()))
        if rows:
            assert found.metrics["ndcg@4"] == pytest.approx(sum(row["ndcg@4"] for row in rows) / len(rows))
        else:
            assert found.metrics == {}
