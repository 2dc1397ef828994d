"""Held-out events teach nothing: a log whose held-out items are other ones gives the same weights, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows, SequenceRows
from twotower.data.log import Log
from twotower.data.pairs import pre_ranking_pairs
from twotower.experiment import build, learn, sources
from twotower.experiment.candidates import learn_pairs
from twotower.experiment.catalogue import split_of
from twotower.experiment.context import BuildContext
from twotower.experiment.labelled_pairs import PAIRS, pairs_of
from twotower.experiment.mining import miner
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Data, ModelSection, Run
from twotower.experiment.sources import SAMPLERS
from twotower.models.base import ClosedForm
from twotower.models.registry import MODELS, model_class
from twotower.sampling.counts import ItemCounts
from twotower.training.clustered import ClusterSchedule
from twotower.training.config import Objective, Sampling
from twotower.training.sources import NegativeSource

USERS, ITEMS, EVENTS = 14, 24, 8
"""Known users and items, and events of each user, all of different items."""


def held_out(run: Run) -> int:
    """A user's last events that the run may not learn from: without a last fit, not even those that validate.

    Of pairs, the last event alone is tested; validation rows lie among the others, as `PairSplit.leaks` says.
    """
    return 1 if run.training.refit or run.data.split == PAIRS else 2


def log_of(items: Tensor, *, labelled: bool = False) -> Log:
    """One row of ``items`` a known user; with labels, some events that all splits train on are negatives."""
    offsets = torch.cat([torch.zeros(2, dtype=torch.int64), EVENTS * torch.arange(USERS + 1)])
    times = 1_000_000_000 + 60 * torch.arange(items.numel())
    labels = None
    if labelled:
        disliked = torch.zeros(items.shape)
        disliked[::2, 1], disliked[1::3, 3] = 1.0, 1.0
        labels = 1.0 - disliked.flatten()
    return Log(offsets, items.flatten(), times, labels)


def drawn() -> Tensor:
    """Each item stands in some user's first events, so that held-out events name no item of their own."""
    generator = torch.Generator().manual_seed(5)
    items = torch.stack([torch.randperm(ITEMS, generator=generator)[:EVENTS] for _ in range(USERS)]) + 2
    assert len(items[:, : EVENTS - 2].unique()) == ITEMS
    return items


def poisoned(items: Tensor, last: int) -> Tensor:
    """The same log, but each of the last events is of an item that its user never met."""
    items = items.clone()
    for row in items:
        unmet = [item for item in range(2, ITEMS + 2) if item not in row.tolist()]
        row[EVENTS - last :] = torch.tensor(unmet[-last:])
    return items


def dataset_of(log: Log) -> Dataset:
    """The log with a feature of a kind that each model reads."""
    schema = Schema(
        USERS + 2,
        ITEMS + 2,
        item_features=(Feature("brand", "categorical", 5), Feature("title", "text", 12, width=4)),
    )
    generator = torch.Generator().manual_seed(7)
    features = {
        "brand": torch.randint(1, 5, (ITEMS + 2,), generator=generator),
        "title": torch.randint(2, 12, (ITEMS + 2, 4), generator=generator),
    }
    return Dataset(schema, log, {}, features, {"name": "tiny"})


def weights(run: Run, log: Log) -> dict[str, Tensor]:
    """All that the run's model holds once it has learnt from the log."""
    dataset = dataset_of(log)
    if run.data.split == PAIRS:
        model, _ = learn_pairs(run, dataset, pairs_of(run, dataset))
    else:
        model, _ = learn.learn(run, dataset, split_of(run, dataset))
    return model.state_dict()


def differing(run: Run, *, labelled: bool = False) -> list[str]:
    """Names of weights that change with the held-out events."""
    items = drawn()
    poison = poisoned(items, held_out(run))
    one, other = (weights(run, log_of(which, labelled=labelled)) for which in (items, poison))
    assert one.keys() == other.keys()
    return [name for name, part in one.items() if not part.equal(other[name])]


def short(run: Run, **training: Any) -> Run:
    """Two epochs without validation, with no more negatives than there are items."""
    wanted = {"epochs": 2, "batch_size": 16, "evaluate_every": 0, "patience": 0, "device": "cpu", "seed": 3}
    few = tuple(replace(one, settings=SMALL.get(one.name, one.settings)) for one in run.sampling.sources)
    return replace(
        run, training=replace(run.training, **(wanted | training)), sampling=replace(run.sampling, sources=few)
    )


SMALL: dict[str, dict[str, Any]] = {
    "index_mined": {"ranks": [0, 5], "number": 3, "every": 4},
    **{name: {"number": 16} for name in ("uniform", "popularity", "mixed", "memory_bank")},
}


def two_tower(loss: str = "sampled_softmax", sources: tuple[str, ...] = ("in_batch",), **more: Any) -> Run:
    """A small two-tower against samples."""
    clusters = ClusterSchedule(start_size=2, refresh_every=1, min_clusters=2)
    sampling = Sampling(tuple(NegativeSource(name, SMALL.get(name, {})) for name in sources), **more)
    model = ModelSection("two_tower", {"dim": 4, "field_dim": 3, "hidden": [5], "history_length": 4, "user_id": True})
    return short(Run(model=model, objective=Objective(loss), sampling=sampling, clusters=clusters))


SETTINGS: dict[str, dict[str, Any]] = {
    "fit": {"meta_queries": 4},
    "ease": {"lambda_": 50.0},  # else validation chooses
    "sparse_ease": {"lambda_": 50.0},
    # Small, but with histories that hold all events of a user.
    "sparcode": {"codebook": 4, "dim": 8},
    "sparcode_twin": {"dim": 8},
    "all_to_all": {"dim": 8, "history_length": EVENTS},
    "int_tower": {"dim": 16, "hidden": [6, 5], "user_heads": 4, "item_heads": 2},
    "rank_tower": {"dim": 12, "hidden": [6, 5]},
    "cold": {"hidden": [6, 5]},
    "tdm": {"dim": 8},
}
SOURCES = {name: ("in_batch", name) if name == "memory_bank" else (name,) for name in SAMPLERS}


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_no_model_learns_from_held_out_events(name, refit):
    run = default_run(name)
    run = replace(run, model=replace(run.model, settings=run.model.settings | SETTINGS.get(name, {})))
    if issubclass(model_class(name), ClosedForm):
        run = replace(run, training=replace(run.training, refit=refit))
    elif refit:
        run = short(run, refit=True, evaluate_every=1)
    else:
        run = short(run)
    if refit and run.data.split == PAIRS:
        run = replace(run, data=Data(split=PAIRS, split_options={"reading": "all", "validation_share": 0.3}))
    assert not differing(run)


@pytest.mark.parametrize("options", [{"reading": "last"}, {"validation": "time"}, {"negatives": "fresh"}], ids=str)
def test_pairs_do_not_tell_what_is_tested(options):
    run = short(default_run("cold"), refit=True, evaluate_every=1)
    options = {"validation_share": 0.3, **options}
    assert not differing(replace(run, data=Data(split=PAIRS, split_options=options)))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("refit", [False, True])
def test_no_source_of_negatives_knows_held_out_events(source, refit):
    assert not differing(short(two_tower(sources=SOURCES[source]), refit=refit, evaluate_every=int(refit)))


@pytest.mark.parametrize("loss", [*build.LOSSES])
def test_no_loss_knows_held_out_events(loss):
    sources = ("in_batch", "uniform", "index_mined")
    run = two_tower(loss, sources).with_settings(["sampling.number=8", "sampling.in_batch_number=8"])
    assert not differing(run)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_labelled_logs_keep_their_secrets_too(loss):
    assert not differing(two_tower(loss, ("in_batch", "popularity")), labelled=True)


@pytest.mark.parametrize("hard", build.FILTERS)
def test_no_filter_of_hard_candidates_knows_held_out_events(hard):
    assert not differing(two_tower(sources=("in_batch", "uniform"), hard=hard, hard_number=3))


@pytest.mark.parametrize(
    "settings",
    [
        {"batches": "clustered"},
        {"batches": "clustered", "hard": "radius", "sources": ("in_batch", "memory_bank")},
        {"correct_positive": True},
        {"correct": False},
        {"frequency": "streaming", "sources": ("mixed",)},
    ],
    ids=str,
)
def test_no_setting_of_sampling_knows_held_out_events(settings):
    assert not differing(two_tower(**settings))


def test_a_bank_that_waits_for_drift_and_rescales_knows_no_held_out_events():
    bank = NegativeSource("memory_bank", {"number": 16, "drift": 1e9, "rescale": True})
    run = two_tower()
    assert not differing(replace(run, sampling=replace(run.sampling, sources=(NegativeSource("in_batch"), bank))))


class TestThePoisonIsSeen:
    """Each fault, planted here for the length of a test, changes the weights."""

    def test_log_q_that_counts_held_out_events(self, monkeypatch):
        counts = property(lambda self: ItemCounts(self.dataset.log.positives().items, self.num_items))
        monkeypatch.setattr(BuildContext, "counts", counts)
        assert differing(two_tower())
        assert differing(two_tower(sources=("popularity",)))

    def test_a_mask_of_positives_that_knows_the_test(self, monkeypatch):
        right = learn.build_objective
        monkeypatch.setattr(
            learn,
            "build_objective",
            lambda run, dataset, log, model, parts, world: right(run, dataset, dataset.log, model, parts, world=world),
        )
        assert differing(two_tower(correct=False))
        assert differing(two_tower(sources=("uniform",)))

    def test_mining_that_leaves_out_test_items(self, monkeypatch):
        monkeypatch.setattr(
            sources, "miner", lambda model, dataset, log, index: miner(model, dataset, dataset.log, index)
        )
        assert differing(two_tower(sources=("index_mined",)))

    @pytest.mark.parametrize("name", [name for name in MODELS if name != "random"])
    def test_models_that_learn_from_the_whole_log(self, name):
        items = drawn()
        run = short(default_run(name))
        run = replace(run, model=replace(run.model, settings=run.model.settings | SETTINGS.get(name, {})))
        found = []
        for which in (items, poisoned(items, 1)):
            dataset = dataset_of(log_of(which))
            if run.data.split == PAIRS:
                split = pairs_of(run, dataset)
                model, _ = learn_pairs(run, dataset, split._replace(train=split.test))
            else:
                model, _ = learn.learn(run, dataset, split_of(run, dataset)._replace(train=dataset.log))
            found.append(model.state_dict())
        assert any(not part.equal(found[1][key]) for key, part in found[0].items())


def before(log: Log, user: int, length: int) -> list[list[int]]:
    """For each event of the user: the positives before it, the latest ``length``, oldest first."""
    start, end = int(log.offsets[user]), int(log.offsets[user + 1])
    liked = [log.labels is None or log.labels[event] >= 0.5 for event in range(log.num_events)]
    return [[int(log.items[e]) for e in range(start, at) if liked[e]][-length:] for at in range(start, end)]


@pytest.mark.parametrize("length", [3, 20])
@pytest.mark.parametrize("labelled", [False, True])
class TestARowReadsWhatCameBeforeIt:
    """Never its own item or a later one: this the poison does not see, since all of it is training."""

    def test_rows_of_events(self, labelled, length):
        log = log_of(drawn(), labelled=labelled)
        rows = EventRows(dataset_of(log), log, history_length=length, item_features=False)
        batch = rows.cut(torch.arange(len(rows)))
        expected = [history for user in range(2, USERS + 2) for history in before(log, user, length)]
        assert [[item for item in row if item] for row in batch.users.history.tolist()] == expected
        assert not (batch.users.history == batch.items.ids[:, None]).any()
        times = dict(zip(zip(log.users().tolist(), log.items.tolist(), strict=True), log.times.tolist(), strict=True))
        for user, history, at in zip(
            batch.users.ids.tolist(), batch.users.history.tolist(), batch.users.history_times.tolist(), strict=True
        ):
            assert [times[user, item] for item in history if item] == [time for time in at if time]

    def test_rows_of_sequences(self, labelled, length):
        log = log_of(drawn(), labelled=labelled)
        rows = SequenceRows(dataset_of(log), log, history_length=length, item_features=False)
        batch = rows.cut(torch.arange(len(rows)))
        liked = log.positives()
        for user, history, wanted in zip(
            batch.users.ids.tolist(), batch.users.history.tolist(), batch.items.ids.tolist(), strict=True
        ):
            items = liked.items[liked.offsets[user] : liked.offsets[user + 1]].tolist()
            assert [item for item in history if item] == items[:-1][-length:]
            assert [item for item in wanted if item] == items[1:][-length:]
            assert all(items.index(b) == items.index(a) + 1 for a, b in zip(history, wanted, strict=True) if a)

    def test_rows_of_pairs(self, labelled, length):
        log = log_of(drawn(), labelled=labelled)
        split = pre_ranking_pairs(dataset_of(log), reading="all", history_length=length, validation_share=0.3)
        liked = log.positives()
        for rows in (split.train, split.validation, split.test, split.known):
            batch = rows.cut(torch.arange(len(rows)))
            met = batch.labels == 1
            for user, item, history in zip(
                batch.users.ids[met].tolist(),
                batch.items.ids[met].tolist(),
                batch.users.history[met].tolist(),
                strict=True,
            ):
                items = liked.items[liked.offsets[user] : liked.offsets[user + 1]].tolist()
                assert [other for other in history if other] == items[: items.index(item)][-length:]
            assert not (batch.users.history == batch.items.ids[:, None]).any()
