"""Runs whose tables are sharded: the curve of one process, its checkpoints and its bundle, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from rank_processes import on_ranks
from stopping import DieAt

from twotower.core.errors import InputError, SharedError
from twotower.data.dataset import Dataset
from twotower.experiment.catalogue import split_of
from twotower.experiment.run import Data, ModelSection, Run
from twotower.experiment.train import train
from twotower.models import sequential
from twotower.models.encode import encode_known_items
from twotower.serving.bundle import Bundle
from twotower.towers import shared_table
from twotower.towers.sharded_table import ShardedTable
from twotower.towers.sparse_table import SparseTable
from twotower.towers.tables import build_table
from twotower.training.checkpoint import load_checkpoint
from twotower.training.config import Objective, Training
from twotower.training.distributed import World

pytestmark = pytest.mark.ranks
SHARDED = {"table": "sharded"}
TOWER = ModelSection("two_tower", {"dim": 8, "field_dim": 4, "hidden": [8]} | SHARDED)
THREE = ModelSection("two_tower", TOWER.settings | {"user_id": True, "history_table": True, "pooling": "both"})
SEQUENCES = {"dim": 8, "dropout": 0.0, "history_length": 6} | SHARDED
SASREC = ModelSection("sasrec", SEQUENCES | {"layers": 1})
TRAINING = Training(epochs=2, batch_size=56, learning_rate=0.01, optimizer="sgd", row_rate=0.1, seed=3, device="cpu")
WINDOWS = replace(TRAINING, batch_size=14)


@pytest.fixture(scope="module")
def dataset(small_set) -> Dataset:
    return Dataset.load(small_set)


def a_run(model: ModelSection = TOWER, loss: str = "sampled_softmax", **parts: Any) -> Run:
    """Two epochs of a small model; ``parts`` are sampling settings in their short form, and sections by their names."""
    sections = {name: parts.pop(name) for name in ("training", "data") if name in parts}
    usual = {"training": TRAINING if model.name == "two_tower" else WINDOWS}
    run = Run(model=model, objective=Objective(loss), **(usual | sections))
    short = {"sources": ["in_batch"], "number": 12} | parts
    return Run.from_dict(run.to_dict() | {"sampling": short | {"sources": list(short["sources"])}})


def learnt(run: Run, dataset: Dataset, **options: Any) -> Callable[[World], Any]:
    """Train, and return the curve with its validations, the test, and the weights."""

    def work(world: World) -> Any:
        trained = train(run, dataset=dataset, world=world, **options)
        curve = [{name: value for name, value in one.to_json().items() if name != "seconds"} for one in trained.records]
        return curve, trained.test.metrics, {name: w.numpy() for name, w in trained.model.state_dict().items()}

    return work


def assert_same(told: list[Any], expected: Any) -> None:
    """Losses, metrics and weights are those of one process to rounding; rank 0 has all rows, others their own."""
    for rank, found in enumerate(told):
        assert not isinstance(found, Exception), found
        for one, other in zip(found[0], expected[0], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=2e-6)
            assert one == pytest.approx(other, abs=5e-3)
        assert found[1] == pytest.approx(expected[1], rel=2e-3, abs=5e-3)
        assert found[2].keys() == expected[2].keys()
        for name, value in found[2].items():
            whole = expected[2][name]
            if rank and name.endswith(".shard"):
                whole = whole[rank :: len(told)]
            assert value == pytest.approx(whole, rel=1e-3, abs=2e-5, nan_ok=True), name


CLAIMS = {
    "in-batch": a_run(),
    "three tables, drawn negatives": a_run(THREE, sources=("uniform",)),
    "in-batch, sequences": a_run(SASREC),
}
MORE = {
    "full softmax": a_run(loss="full_softmax"),
    "full softmax, sequences": a_run(SASREC, "full_softmax"),
    "mined": a_run(sources=("in_batch", "index_mined"), mine_ranks=(2, 12), mine_every=4, hard="hardest"),
    "a bank": a_run(sources=("in_batch", "memory_bank"), number=60),
    "mixed": a_run(sources=("mixed",)),
    "clusters": a_run(batches="clustered"),
    "sequences, drawn": a_run(SASREC, "bce", sources=("uniform",), number=1),  # a rank may have that item encoded
    "another encoder": a_run(ModelSection("gru4rec", SEQUENCES)),
    "first embeddings of the log": a_run(
        ModelSection("two_tower", {"dim": 8, "field_dim": 8, "hidden": [], "init": "cooccurrence"} | SHARDED)
    ),
    "last fit": a_run(training=replace(TRAINING, refit=True)),
    "adam, state in bfloat16": a_run(training=replace(TRAINING, optimizer="adamw", schedule="cosine")),
    "pairs": a_run(
        loss="bce",
        data=Data(split="pre-ranking", split_options={"reading": "all", "validation_share": 0.2}),
        training=replace(TRAINING, metric="auc", batch_size=16),
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_sharded_table_follows_the_curve_of_one_process(name, dataset, tmp_path):
    work = learnt(CLAIMS[name], dataset)
    expected = work(World())
    for size in (2, 3):
        assert_same(on_ranks(size, tmp_path, work), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_whatever_is_drawn_and_lost_a_sharded_table_follows_the_curve_of_one_process(name, dataset, tmp_path):
    work = learnt(MORE[name], dataset)
    assert_same(on_ranks(3, tmp_path, work), work(World()))


def test_alone_the_rows_are_a_sparse_table(dataset):
    trained = train(a_run(), dataset=dataset, world=World())
    assert type(trained.model.item_table) is SparseTable
    assert trained.model.item_table.shard.shape == (dataset.schema.num_items, 4)


def test_ranks_without_a_row_of_the_last_batch_look_up_all_the_same(dataset, tmp_path):
    rows = split_of(a_run(), dataset).train.num_events
    work = learnt(a_run(training=replace(TRAINING, batch_size=(rows - 1) // 4)), dataset)
    assert_same(on_ranks(3, tmp_path, work), work(World()))


def test_ranks_with_more_groups_of_like_length_than_others_look_up_as_often(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(sequential, "CPU_GROUP", 4)  # of 14 windows on three ranks one has a group, the others two
    work = learnt(a_run(SASREC, training=replace(WINDOWS, epochs=1)), dataset)
    assert_same(on_ranks(3, tmp_path, work), work(World()))


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 3)])
def test_a_sharded_run_goes_on_from_its_checkpoint_on_any_number_of_ranks(before, after, dataset, tmp_path):
    # The first epoch is the best one, so that kept weights of before come back in the end.
    training = replace(TRAINING, epochs=3, batch_size=30, optimizer="adamw", checkpoint_seconds=0.0)
    run = a_run(THREE, training=replace(training, learning_rate=0.03, seed=5))
    expected = learnt(run, dataset)(World())
    first, *later = [one["ndcg@10"] for one in expected[0]]
    assert first > max(later)
    to = tmp_path / "b"
    for found in on_ranks(before, tmp_path, learnt(run, dataset, to=to, callbacks=[DieAt(20)])):
        assert isinstance(found, ZeroDivisionError), found
    state = load_checkpoint(tmp_path / "b.run" / "train.safetensors")
    assert state["progress"]["step"] == 19
    assert state["best"]["item_table.shard"].shape == (dataset.schema.num_items, 4)
    assert state["optimizer"]["rows"]["history_table"]["squares"].shape == (dataset.schema.num_items,)
    again = on_ranks(after, tmp_path, learnt(run, dataset, to=to, resume=True))
    assert_same(again, expected)
    if before == after:
        exact = on_ranks(after, tmp_path, learnt(run, dataset))
        assert again[0][0] == exact[0][0]
        assert all((value == exact[0][2][name]).all() for name, value in again[0][2].items())


def test_the_bundle_of_ranks_holds_the_whole_table_and_serves_as_any_other(dataset, tmp_path):
    to = tmp_path / "bundle"
    told = on_ranks(2, tmp_path, learnt(a_run(), dataset, to=to))
    assert not isinstance(told[0], Exception), told[0]
    bundle = Bundle.load(to)
    table = bundle.model.item_table
    assert type(table) is SparseTable
    assert (table.shard.numpy() == told[0][2]["item_table.shard"]).all()
    assert (table.shard[1::2].numpy() == told[1][2]["item_table.shard"]).all()
    again = encode_known_items(bundle.model, dataset).states
    torch.testing.assert_close(again, bundle.item_states, rtol=1e-5, atol=1e-6)
    here = on_ranks(2, tmp_path, lambda world: type(Bundle.load(to).model.item_table).__name__)
    assert here == ["SparseTable"] * 2  # ranks that judge it have all rows each


def test_rows_come_to_rank_0_by_blocks_of_any_type(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_table, "BLOCK", 30)  # two rows of three numbers at a time

    def work(world: World) -> Any:
        table = ShardedTable(23, 3, seed=1)
        squares = (table.own_ids() * 2).bfloat16()
        found = shared_table.all_rows(table, table.shard), shared_table.all_rows(table, squares)
        return [part.float().numpy() for part in found], shared_table.own_rows(table, torch.arange(23)).tolist()

    whole = ShardedTable(23, 3, seed=1).shard
    first, second, third = on_ranks(3, tmp_path, work)
    assert (first[0][0] == whole.numpy()).all()
    assert first[0][1].tolist() == list(range(0, 46, 2))
    assert [part.shape for part in second[0]] == [(0, 3), (0,)]
    assert third[1] == [2, 5, 8, 11, 14, 17, 20]


REFUSED = {
    "training.encode_rows looks rows up more often on one rank": a_run(training=replace(TRAINING, encode_rows=10)),
    "sampling.hard = 'radius' looks rows up more often": a_run(hard="radius"),
    "training.clip_norm reaches weights alone": a_run(training=replace(TRAINING, clip_norm=1.0)),
    "training.weight_decay reaches weights alone": a_run(training=replace(TRAINING, weight_decay=0.1)),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_not_done_to_shared_rows_is_refused_before_training(said, dataset, tmp_path):
    first, second = on_ranks(2, tmp_path, learnt(REFUSED[said], dataset))
    assert isinstance(first, InputError)
    assert said in str(first)
    assert isinstance(second, InputError | SharedError)


def test_a_table_of_fewer_rows_than_ranks_is_refused(tmp_path):
    told = on_ranks(3, tmp_path, lambda world: build_table("sharded", 2, 4))
    assert ["a table of 2 rows cannot be shared out over 3 ranks" in str(one) for one in told] == [True] * 3
