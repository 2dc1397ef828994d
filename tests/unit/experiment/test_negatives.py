"""Every source, filter and batching by name in a run: trains, resumes to the bit, masks, refuses what cannot be."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stopping import StopAt

from twotower.core.errors import InputError
from twotower.core.records import Encoded
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows
from twotower.data.log import Log
from twotower.data.splitters import split_log
from twotower.experiment import sources
from twotower.experiment.build import build_batching, build_objective
from twotower.experiment.learn import learn, new_model
from twotower.experiment.mining import miner
from twotower.experiment.run import Run
from twotower.sampling.frequency import StreamingFrequency
from twotower.training.against_samples import AgainstSamples
from twotower.training.sources import NegativeSource

USERS, ITEMS = 26, 32

SETTINGS = [
    "model.dim=8",
    "model.field_dim=4",
    "model.hidden=[8]",
    "model.dropout=0.2",
    "objective.loss=sampled_softmax",
    "training.batch_size=16",
    "training.epochs=3",
    "training.learning_rate=0.02",
]
CLUSTERS = [
    "sampling.batches=clustered",
    "clusters.start_size=2",
    "clusters.double_every=2",
    "clusters.refresh_every=1",
    "clusters.min_clusters=3",
]
BANK = ["sampling.sources=['in_batch', 'memory_bank']", "sampling.sources.memory_bank.number=24"]
MINED = [
    "sampling.sources=['in_batch', 'index_mined']",
    "sampling.sources.index_mined.ranks=[1, 6]",
    "sampling.sources.index_mined.number=3",
    "sampling.sources.index_mined.every=5",
]

VARIANTS = {
    "in_batch": [],
    "in_batch_first": ["sampling.sources.in_batch.rows=8"],
    "positive_corrected": ["sampling.correct_positive=true"],
    "mixed": ["sampling.sources=[{name = 'mixed', number = 8}]"],
    "streaming": ["sampling.frequency=streaming"],
    "streaming_bank": [*BANK, "sampling.frequency=streaming"],
    "bank": BANK,
    "bank_rescaled": [*BANK, "sampling.sources.memory_bank.rescale=true"],
    "bank_later": [*BANK, "sampling.sources.memory_bank.start=7"],
    "bank_drift": [*BANK, "sampling.sources.memory_bank.drift=4.0"],
    "bank_first_rows": [*BANK, "sampling.in_batch_number=8"],
    "index_mined": MINED,
    "nominated": [*MINED, "index.kind=nominate"],
    "index_mined_later": [*MINED, "sampling.sources.index_mined.start=4"],
    "hardest": ["sampling.hard=hardest", "sampling.hard_number=3"],
    "radius": ["sampling.hard=radius"],
    "batch_radius": ["sampling.hard=batch_radius"],
    "margin": ["sampling.hard=margin"],
    "below_positive": ["sampling.hard=below_positive", "sampling.hard_margin=0.05"],
    "ngame": [*CLUSTERS, "sampling.hard=radius"],
    "ngame_published": [*CLUSTERS, "objective.loss=triplet", "model.temperature=1.0", "model.learn_temperature=false"],
    "cross_batch_ngame": [*CLUSTERS, *BANK, "sampling.hard=radius"],
    "everything": [
        *CLUSTERS,
        "sampling.sources=['mixed', 'memory_bank', 'index_mined']",
        "sampling.number=24",
        *MINED[1:],
        "sampling.hard=radius",
        "sampling.frequency=streaming",
    ],
}


def log_of(users: int = USERS, seed: int = 0) -> Log:
    """Four to nine events of each known user, items skewed, no item twice."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 10, (users,), generator=generator)
    lengths[:2] = 0
    weights = 1.0 / torch.arange(1, ITEMS - 1)
    items = [torch.multinomial(weights, int(length), generator=generator) + 2 for length in lengths if length]
    return Log(torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), torch.cat(items))


def dataset_of(log: Log) -> Dataset:
    return Dataset(Schema(len(log.offsets) - 1, ITEMS, (), (), has_times=False), log, {}, {}, {"name": "small"})


@pytest.fixture
def dataset() -> Dataset:
    return dataset_of(log_of())


def run_of(*settings: str) -> Run:
    return Run().with_settings([*SETTINGS, *settings])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_stopped_anywhere_and_resumed_gives_the_same_weights_to_the_bit(name, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "DRIFT_EVERY", 3)
    run = run_of(*VARIANTS[name])
    assert Run.from_dict(tomllib.loads(run.to_toml())) == run
    split = split_log(dataset.log, "leave-one-out")
    model, records = learn(run, dataset, split)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    steps = records[-1].step
    assert all(record.loss < float("inf") for record in records)
    stops = (steps // 2 - 2, steps // 2 + 1)
    for stop in (1, *stops) if name in ("in_batch", "everything") else stops:
        folder = tmp_path / str(stop)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            learn(run, dataset, split, folder=folder, callbacks=[StopAt(stop)])
        resumed, again = learn(run, dataset, split, folder=folder, resume=True)
        assert all(torch.equal(value, expected[key]) for key, value in resumed.state_dict().items())
        assert [record.loss for record in again] == [record.loss for record in records]


class Watched:
    """A loss that notes what it is given."""

    def __init__(self, loss) -> None:
        self.loss, self.masks, self.candidates = loss, [], []

    def __call__(self, positive, negative, log_q, mask):
        self.masks.append(mask.clone())
        return self.loss(positive, negative, log_q, mask)


def test_cross_batch_ngame_masks_known_positives_in_the_batch_and_in_the_bank(dataset):
    run = run_of(*VARIANTS["cross_batch_ngame"])
    model = new_model(run, dataset)
    rows = EventRows(dataset, dataset.log, history_length=4, item_features=True)
    objective = build_objective(run, dataset, dataset.log, model)
    assert isinstance(objective, AgainstSamples)
    objective.loss = watched = Watched(objective.loss)
    batching = build_batching(run, dataset, dataset.log, rows, model)
    taken = [
        set(dataset.log.items[first:last].tolist())
        for first, last in zip(dataset.log.offsets[:-1].tolist(), dataset.log.offsets[1:].tolist(), strict=True)
    ]
    counted = from_bank = 0
    for epoch in range(2):
        for batch_rows in batching.batches(epoch, model):
            batch = rows.cut(batch_rows)
            candidates = objective.sampler.sample(batch)
            objective(model, batch)
            mask = watched.masks[-1]
            for row, user in enumerate(batch.users.ids.tolist()):
                kept = candidates.ids[mask[row]].tolist()
                assert not taken[user] & set(kept)
                counted += len(kept)
                from_bank += int(mask[row, candidates.in_batch :].sum())
    assert counted > from_bank > 0


@pytest.mark.parametrize("rule", ["radius", "batch_radius"])
def test_the_radius_is_that_of_the_distances(dataset, rule):
    """To the farthest of all the user's positives, or of those that stand among the candidates."""
    run = run_of(*BANK, f"sampling.hard={rule}", "model.score=dot")
    model = new_model(run, dataset).eval()
    rows = EventRows(dataset, dataset.log, history_length=4, item_features=True)
    objective = build_objective(run, dataset, dataset.log, model)
    objective.loss = watched = Watched(objective.loss)
    for drawn in torch.randperm(len(rows))[:32].split(16):
        batch = rows.cut(drawn)
        candidates = objective.sampler.sample(batch)
        encoded: Encoded = model(batch)
        held = encoded.items if candidates.states is None else torch.cat([encoded.items, candidates.states.clone()])
        objective(model, batch)
    found = watched.masks[-1]
    vectors, larger = model.encode_items(dataset.all_items()).detach(), 0
    for row, user in enumerate(batch.users.ids.tolist()):
        known = set(dataset.log.items[dataset.log.offsets[user] : dataset.log.offsets[user + 1]].tolist())
        distance = (held - encoded.users[row]).square().sum(1).tolist()
        there = max(d for d, item in zip(distance, candidates.ids.tolist(), strict=True) if item in known)
        everywhere = max((vectors[list(known)] - encoded.users[row].detach()).square().sum(1).tolist())
        larger += everywhere > there + 1e-6
        radius = everywhere if rule == "radius" else there
        for place, item in enumerate(candidates.ids.tolist()):
            if abs(distance[place] - radius) > 1e-6:
                assert bool(found[row, place]) == (item not in known and distance[place] < radius)
    assert found.any()
    assert larger, "the two rules could not be told apart"


def test_the_positive_s_log_q_is_that_of_its_own_column(dataset):
    run = run_of("sampling.correct_positive=true")
    model = new_model(run, dataset).eval()
    batch = EventRows(dataset, dataset.log, history_length=4, item_features=True).cut(torch.arange(16))
    objective = build_objective(run, dataset, dataset.log, model)
    loss = objective(model, batch).item()
    encoded, scale = model(batch), model.logit_scale()
    counts = dataset.log.items.bincount(minlength=ITEMS).double()
    log_q = (15 * counts[batch.items.ids] / counts.sum()).log()
    logits = (encoded.users @ encoded.items.T * scale).double() - log_q
    total = 0.0
    for row, user in enumerate(batch.users.ids.tolist()):
        known = dataset.log.items[dataset.log.offsets[user] : dataset.log.offsets[user + 1]].tolist()
        others = [logits[row, j].item() for j in range(16) if batch.items.ids[j].item() not in known]
        own = logits[row, row].item()
        total += torch.tensor([own, *others]).logsumexp(0).item() - own
    assert loss == pytest.approx(total / 16, rel=1e-5)


def test_bank_and_batch_share_one_streaming_estimate(dataset):
    run = run_of(*BANK, "sampling.frequency=streaming")
    objective = build_objective(run, dataset, dataset.log, new_model(run, dataset))
    in_batch, bank = objective.sampler.sources
    assert isinstance(in_batch.frequency, StreamingFrequency)
    assert in_batch.frequency is bank.frequency


def test_mined_items_are_the_best_ones_without_known_positives(dataset):
    run = run_of(*MINED)
    model = new_model(run, dataset)
    from twotower.index.exact import ExactIndex
    from twotower.models.encode import inference, users_with_history

    users = torch.arange(2, USERS)
    found = miner(model, dataset, dataset.log, ExactIndex, tile=7)(users, 5)
    with inference(model):
        vectors = model.encode_users(users_with_history(dataset, dataset.log, users, model.history_length))
        scores = vectors @ model.encode_items(dataset.all_items()).T
    for row, user in enumerate(users.tolist()):
        known = set(dataset.log.items[dataset.log.offsets[user] : dataset.log.offsets[user + 1]].tolist())
        order = [item for item in scores[row].argsort(descending=True).tolist() if item >= 2 and item not in known]
        assert found.ids[row].tolist() == order[:5]


def test_rows_that_are_not_positives_are_not_trained_as_if_they_were(dataset):
    labels = torch.ones(dataset.log.num_events)
    labels[::3] = 0.0
    labelled = dataset.with_log(dataset.log._replace(labels=labels))
    run = run_of("training.evaluate_every=0", "training.epochs=1")
    split = split_log(labelled.log, "leave-one-out")
    model, _ = learn(run, labelled, split)
    alone, _ = learn(run, labelled, split._replace(train=split.train.positives()))
    assert all(torch.equal(value, alone.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sampling.sources=['in_batch', 'memory_bank']", "sampling.number=9"], "9 places are fewer than the 16 rows"),
        (["sampling.sources=['uniform']", "sampling.number=31"], "31 asked of 30 items"),
        (["sampling.sources=['mixed']", "sampling.number=31"], "31 asked of 30 items"),
        (["sampling.sources=['popularity']", "sampling.number=30"], "leaves out items without training events"),
        ([*CLUSTERS, "clusters.start_size=17"], "17 users of a cluster are more than the 16 rows of a batch"),
        ([*CLUSTERS, "clusters.min_clusters=99"], "users give no 99 clusters"),
        ([*CLUSTERS, "sampling.sources=['uniform']", "sampling.number=4"], "take in_batch or mixed"),
        ([*CLUSTERS, "objective.loss=full_softmax"], "take in_batch or mixed"),
        (["sampling.hard=radius", "objective.loss=full_softmax"], "narrows sampled negatives"),
        (["sampling.sources.in_batch.rows=17"], "sampling.sources.in_batch.rows: 17 of the 16 rows"),
        (["sampling.sources=['uniform']", "sampling.number=4", "sampling.frequency=streaming"], "learns from in_batch"),
        (["sampling.sources=['memory_bank']", "sampling.number=16"], "a memory bank starts empty"),
        (["sampling.sources=['in_batch', 'index_mined']"], "rank 99 of 30 items"),
        ([*MINED, "sampling.sources.index_mined.number=9"], "9 asked of the ranks 1 to 6"),
        (["sampling.correct_positive=true", "objective.loss=bpr"], "correct_positive needs"),
        (["sampling.correct_positive=true", "sampling.sources.in_batch.rows=4"], "correct_positive needs"),
        ([*MINED, "index.kind=exat"], "did you mean 'exact'"),
        ([*MINED, "sampling.sources.index_mined.ranks=[5]"], "must be a first and a last rank"),
        ([*MINED, "sampling.sources.index_mined.ranks=[5, 3]"], "must be a first and a last rank"),
        ([*MINED, "sampling.sources.index_mined.every=0"], "sampling.sources.index_mined.every must be at least 1"),
        (["sampling.sources=[{name = 'uniform', number = 0}]"], "ask for 1 to 30"),
        (["sampling.sources=[{name = 'popularity', number = 0}]"], "ask for 1 to "),
        ([*MINED, "sampling.sources.index_mined.number=0"], "at least 1"),
        ([*BANK, "sampling.bank_start=5", "sampling.bank_drift=1"], "set one of them"),
    ],
)
def test_what_cannot_work_is_refused_before_training(settings, message, dataset):
    with pytest.raises(InputError) as error:
        learn(run_of(*settings), dataset, split_log(dataset.log, "leave-one-out"), callbacks=[StopAt(1)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.hard=radias", "unknown sampling.hard 'radias'; did you mean 'radius'?"),
        ("sampling.batches=cluster", "unknown sampling.batches 'cluster'; did you mean 'clustered'?"),
        ("sampling.frequency=stream", "unknown sampling.frequency 'stream'; did you mean 'streaming'?"),
        ("sampling.bank_drift=-1", "sampling.bank_drift must be a number of at least 0"),
        ("sampling.hard_number=0", "sampling.hard_number must be at least 1"),
        ("clusters.refresh_every=0", "clusters.refresh_every must be at least 1"),
        ("clusters.refresh=3", "unknown key 'clusters.refresh'; did you mean 'clusters.refresh_every'?"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(InputError) as error:
        Run().with_settings([setting])
    assert message in str(error.value)


@pytest.mark.bad_input
def test_contradictions_are_refused():
    with pytest.raises(InputError, match="needs sampling.correct"):
        Run().with_settings(["sampling.correct=false", "sampling.correct_positive=true"])


@pytest.mark.bad_input
def test_one_user_only_is_refused():
    alone = dataset_of(Log(torch.tensor([0, 0, 0, 8]), torch.arange(2, 10)))
    with pytest.raises(InputError, match="1 users give no 3 clusters"):
        learn(run_of(*CLUSTERS), alone, split_log(alone.log, "leave-one-out"))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bank", "item states hold NaN or inf; lower the learning rate"),
        ("ngame", "vectors hold NaN or inf"),
        ("index_mined", "item vectors hold NaN or inf; lower training.learning_rate"),
        ("in_batch", "the loss is nan; lower training.learning_rate"),
    ],
)
def test_nan_in_states_stops_at_the_step(name, message, dataset, monkeypatch):
    from twotower.experiment import learn as module

    def broken(run, dataset):
        model = new_model(run, dataset)
        with torch.no_grad():
            model.item_mlp[0].weight[0, 0] = float("nan")
            model.user_mlp[0].weight[0, 0] = float("nan")
        return model

    monkeypatch.setattr(module, "new_model", broken)
    run = run_of(*VARIANTS[name], "training.evaluate_every=0")
    with pytest.raises(InputError, match=message):
        learn(run, dataset, split_log(dataset.log, "leave-one-out"))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["sampling.sources=['in_batch', 'index_mined']"], "index_mined needs one vector"),
        (["sampling.hard=radius"], "'radius' needs one vector"),
        (["sampling.hard=batch_radius"], "'batch_radius' needs one vector"),
        (["sampling.batches=clustered"], "'clustered' needs one vector"),
        ([*BANK, "sampling.bank_drift=1"], "memory_bank.drift needs one vector"),
    ],
)
def test_models_without_vectors_are_refused(settings, what, dataset):
    run = run_of(*settings)
    model = new_model(run, dataset)
    model.inner_product = model.has_vectors = False
    rows = EventRows(dataset, dataset.log, history_length=4, item_features=True)
    with pytest.raises(InputError, match=what):
        build_objective(run, dataset, dataset.log, model)
        build_batching(run, dataset, dataset.log, rows, model)


def test_vectors_that_are_scored_otherwise_may_be_clustered_and_watched(dataset):
    run = run_of("sampling.batches=clustered", *BANK, "sampling.bank_drift=1.0")
    model = new_model(run, dataset)
    model.inner_product = False
    rows = EventRows(dataset, dataset.log, history_length=4, item_features=True)
    assert build_objective(run, dataset, dataset.log, model) is not None
    assert build_batching(run, dataset, dataset.log, rows, model) is not None


PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "choose-negatives.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


SMALL = {
    "mixed": {"number": 24},
    "memory_bank": {"number": 24, "start": 3},
    "index_mined": {"ranks": [1, 9], "start": 3, "every": 4},
}
"""What a catalogue of 30 items can give."""


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_run_of_the_page_trains(number, dataset):
    run = Run.from_dict(tomllib.loads(BLOCKS[number]))
    small = tuple(NegativeSource(one.name, one.settings | SMALL.get(one.name, {})) for one in run.sampling.sources)
    run = replace(
        run,
        model=replace(run.model, settings={**run.model.settings, "dim": 8, "hidden": [8]}),
        sampling=replace(run.sampling, sources=small),
        clusters=replace(run.clusters, min_clusters=3),
        training=replace(run.training, batch_size=16, epochs=4),
    )
    _, records = learn(run, dataset, split_log(dataset.log, "leave-one-out"))
    assert len(records) == 4
    assert records[-1].loss < records[0].loss or run.sampling.hard != "none" or len(run.sampling.sources) > 1


@pytest.mark.parametrize("name", ["bank", "index_mined", "cross_batch_ngame"])
def test_causal_models_take_them_too(name, dataset, tmp_path):
    """A row is a user's window: clusters are of rows, and every position has its candidates."""
    settings = ["model.name=sasrec", "model.dim=8", "model.history_length=6", "objective.loss=sampled_softmax"]
    more = ["training.batch_size=8", "training.epochs=4", *VARIANTS[name]]
    if "bank" in name or "cross" in name:
        more.append("sampling.sources.memory_bank.number=64")
    run = Run().with_settings([*settings, *more])
    split = split_log(dataset.log, "leave-one-out")
    model, _ = learn(run, dataset, split)
    with pytest.raises(KeyboardInterrupt):
        learn(run, dataset, split, folder=tmp_path, callbacks=[StopAt(7)])
    resumed, _ = learn(run, dataset, split, folder=tmp_path, resume=True)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in resumed.state_dict().items())
