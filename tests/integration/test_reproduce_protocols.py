"""Protocols of FIT's further tables: one pair a user with users split, exposures as negatives, starts as printed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.run import Run
from twotower.models.registry import build_model
from twotower.reproduce import fit_exposures, fit_query_start, fit_users
from twotower.reproduce.study import seeded
from twotower.towers.interaction.meta_query import MetaQueries

USERS, EVENTS = 80, 12


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Users with twelve events each, hour by hour, two in five unclicked but never the first; items have a category."""
    generator = torch.Generator().manual_seed(4)
    items = torch.cat([2 + torch.randperm(40, generator=generator)[:EVENTS] for _ in range(USERS)])
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), EVENTS * torch.arange(1, USERS + 1)])
    times = fit_exposures.SINCE + 3600 * (torch.arange(EVENTS).repeat(USERS) - 3)
    labels = (torch.rand(EVENTS * USERS, generator=generator) < 0.6).float()
    labels[::EVENTS] = 1.0
    features = {"kind": torch.randint(2, 5, (42,), generator=generator)}
    schema = Schema(USERS + 2, 42, (), (Feature("kind", "categorical", 5),))
    return Dataset(schema, Log(offsets, items, times, labels), {}, features, {"name": "tiny"})


def tiny(run: Run) -> Run:
    small = {"two_tower": {"dim": 8, "hidden": [8], "field_dim": 4}, "popularity": {}}
    other = {"field_dim": 4, "hidden": [8], "dim": 8, "meta_queries": min(4, run.model.settings.get("meta_queries", 4))}
    settings = {**run.model.settings, **small.get(run.model.name, other)}
    training = replace(run.training, epochs=2, batch_size=64, device="cpu")
    return replace(run, model=replace(run.model, settings=settings), training=training)


def test_a_user_is_one_pair_of_one_part_alone(dataset):
    split = fit_users.user_pairs(dataset, negatives="uniform", history_length=5, seed=1)
    parts = [part.users.view(-1, 2) for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [58, 14, 8]  # 10 % test, 20 % of the others validate
    assert torch.cat(parts)[:, 0].sort().values.tolist() == list(range(2, USERS + 2))
    positives = dataset.log.positives()
    for part in (split.train, split.validation, split.test):
        items = part.items.view(-1, 2)
        assert torch.equal(items[:, 0], positives.items[positives.offsets[part.users[::2] + 1] - 1])
        for user, negative in zip(part.users[::2].tolist(), items[:, 1].tolist(), strict=True):
            met = dataset.log.items[dataset.log.offsets[user] : dataset.log.offsets[user + 1]]
            assert negative not in met.tolist()
    other = fit_users.user_pairs(dataset, negatives="uniform", history_length=5, seed=2)
    assert other.test.users.tolist() != split.test.users.tolist()


def test_popular_negatives_come_by_number_of_events_and_were_never_met(dataset):
    """Item 2 has half of all events of users who do not ask: it is drawn far more often than the others."""
    many = torch.full((2000,), 2)
    log = dataset.log
    offsets = torch.cat([log.offsets, log.offsets[-1:] + len(many)])
    loud = Log(offsets, torch.cat([log.items, many]))
    schema = replace(dataset.schema, num_users=dataset.schema.num_users + 1)
    crowd = replace(dataset, schema=schema, log=loud)
    split = fit_users.user_pairs(crowd, negatives="popular", history_length=5, seed=1)
    rows = torch.cat([split.train.items.view(-1, 2), split.test.items.view(-1, 2)])
    users = torch.cat([split.train.users[::2], split.test.users[::2]]).tolist()
    knows = [2 in loud.items[loud.offsets[u] : loud.offsets[u + 1]].tolist() for u in users]
    drawn = (rows[:, 1] == 2).tolist()
    assert not any(was for was, known in zip(drawn, knows, strict=True) if known)
    others = [was for was, known in zip(drawn, knows, strict=True) if not known]
    assert sum(others) > 0.5 * len(others)


@pytest.mark.bad_input
def test_too_few_users_cannot_be_split(dataset):
    few = dataset.with_log(Log(dataset.log.offsets.clamp(max=5 * EVENTS), dataset.log.items[: 5 * EVENTS]))
    with pytest.raises(InputError, match="5 users with two positives are too few to split"):
        fit_users.user_pairs(few, negatives="uniform", history_length=5, seed=1)


def test_exposures_are_rows_with_their_own_labels_and_clicks_before_them(dataset):
    split = fit_exposures.exposure_pairs(dataset, history_length=3)
    log = dataset.log
    parts = (split.train, split.validation, split.test)
    assert sum(len(part) for part in parts) == USERS * (EVENTS - 3)  # the first three hours are history alone
    for part in parts:
        batch = part.cut(torch.arange(len(part)))
        for row in range(0, len(part), 37):
            user, item = int(part.users[row]), int(part.items[row])
            mine = slice(int(log.offsets[user]), int(log.offsets[user + 1]))
            at = log.items[mine].tolist().index(item)
            assert float(part.labels[row]) == float(log.labels[mine][at])
            clicked = [
                i for i, y in zip(log.items[mine][:at].tolist(), log.labels[mine][:at].tolist(), strict=True) if y
            ]
            assert [i for i in batch.users.history[row].tolist() if i] == clicked[-3:]


def test_exposures_are_parted_by_time(dataset):
    split = fit_exposures.exposure_pairs(dataset, history_length=3)
    log = dataset.log

    def hours(part):
        return {
            int(log.times[log.offsets[u] : log.offsets[u + 1]][log.items[log.offsets[u] : log.offsets[u + 1]] == i])
            for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)
        }

    assert max(hours(split.train)) < min(hours(split.validation))
    assert max(hours(split.validation)) < min(hours(split.test))
    learnt = split.learnt()
    assert learnt.num_events == int(split.train.labels.sum())
    assert torch.equal(learnt.users(), split.train.users[split.train.labels >= 0.5])


@pytest.mark.bad_input
def test_exposures_need_times_and_labels(dataset):
    bare = dataset.with_log(dataset.log._replace(labels=None))
    with pytest.raises(InputError, match="exposures need times and labels"):
        fit_exposures.exposure_pairs(bare, history_length=3)


@pytest.mark.parametrize("table", [*fit_users.TABLES, *fit_exposures.TABLES], ids=lambda table: table.name)
def test_rows_of_these_protocols_come_out(table, dataset):
    for name in ("two_tower", "fit", "popularity"):
        run = table.variants(dataset.name)[name][-1]
        measured = table.measure(seeded(tiny(run), 1), dataset)
        assert 0.0 <= measured.metrics["auc"] <= 1.0
        assert bool(measured.curves) == (name != "popularity")
        assert ("users" in measured.per_user) == (table.name != "fit-exposures")


def test_equation_5_as_printed_is_no_scaled_attention():
    queries = MetaQueries(count=4, dim=6, scaled=False)
    expected = queries.meta @ queries.meta.T @ queries.meta
    torch.testing.assert_close(queries.hard(), expected)
    assert not torch.allclose(MetaQueries(count=4, dim=6).hard(), expected)


def test_item_vectors_start_with_the_deviation_that_is_asked_for(dataset):
    rows = fit_query_start.query_starts("tiny")
    found = {
        name: build_model("fit", Schema(10, 900, (), ()), rows[name][0].model.settings)
        .item_fields.ids.weight[2:]
        .detach()
        .std()
        for name in ("fit", "items_from_n01")
    }
    assert float(found["fit"]) == pytest.approx(0.25, rel=0.05)
    assert float(found["items_from_n01"]) == pytest.approx(1.0, rel=0.05)


def test_int_tower_with_a_small_start_begins_at_logits_near_zero(dataset):
    from twotower.reproduce.fit import as_printed

    largest = {}
    for name in ("int_tower", "int_tower_small_start"):
        torch.manual_seed(1)
        model = build_model("int_tower", dataset.schema, as_printed("tiny")[name][0].model.settings)
        model.attach_items(dataset.all_items())
        batch = fit_users.user_pairs(dataset, negatives="uniform", history_length=50, seed=1).train.cut(
            torch.arange(40)
        )
        largest[name] = float(model.score_pairs(batch).detach().abs().max())
    assert largest["int_tower_small_start"] < 0.01
    assert largest["int_tower"] > 5.0
    shifted = build_model(
        "int_tower", dataset.schema, as_printed("tiny")["int_tower_small_start"][0].model.settings
    ).eval()
    shifted.attach_items(dataset.all_items())
    before = shifted.score_pairs(batch)
    with torch.no_grad():
        shifted.bias += 2.0
    torch.testing.assert_close(shifted.score_pairs(batch), before + 2.0)
