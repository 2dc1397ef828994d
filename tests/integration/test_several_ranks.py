"""Several processes train as one: the curve of one process at equal global batch, for all that claims it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rank_processes import on_ranks
from stopping import DieAt

from twotower.core.errors import InputError, SharedError
from twotower.core.records import Batch, Items, Users
from twotower.data.dataset import Dataset
from twotower.experiment.catalogue import split_of
from twotower.experiment.run import Data, ModelSection, Run
from twotower.experiment.train import train
from twotower.training.callbacks import Silent
from twotower.training.config import Objective, Training
from twotower.training.distributed import World
from twotower.training.replicas import average_gradients

pytestmark = pytest.mark.ranks
TOWER = ModelSection("two_tower", {"dim": 8, "field_dim": 4, "hidden": [8]})
HASHED = ModelSection("two_tower", TOWER.settings | {"table": "hashed", "table_buckets": 8})
SASREC = ModelSection("sasrec", {"dim": 8, "dropout": 0.0, "history_length": 6, "layers": 1})
TRAINING = Training(epochs=2, batch_size=56, learning_rate=0.01, optimizer="sgd", seed=3, device="cpu")

PAIRS: dict[str, Any] = {
    "data": Data(split="pre-ranking", split_options={"reading": "all", "validation_share": 0.2}),
    "training": replace(TRAINING, metric="auc", batch_size=16),
}


@pytest.fixture(scope="module")
def dataset(small_set) -> Dataset:
    return Dataset.load(small_set)


def a_run(loss: str = "full_softmax", model: ModelSection = TOWER, **parts: Any) -> Run:
    """Two epochs of a small model; ``parts`` are sampling settings in their short form, and sections by their names."""
    sections = {name: parts.pop(name) for name in ("training", "data") if name in parts}
    regularise = parts.pop("regularise", {})
    run = Run(model=model, objective=Objective(loss, regularise), **({"training": TRAINING} | sections))
    short = {"sources": ["in_batch"], "number": 12} | parts
    return Run.from_dict(run.to_dict() | {"sampling": short | {"sources": list(short["sources"])}})


def learnt(run: Run, dataset: Dataset) -> Callable[[World], Any]:
    """Train, and return the curve with its validations, the test, and the weights."""

    def work(world: World) -> Any:
        trained = train(run, dataset=dataset, world=world)
        curve = [{name: value for name, value in one.to_json().items() if name != "seconds"} for one in trained.records]
        return curve, trained.test.metrics, {name: w.numpy() for name, w in trained.model.state_dict().items()}

    return work


def assert_same(found: Any, expected: Any, rel: float = 2e-6) -> None:
    """Losses and weights to rounding; metrics but for a rank or two that rounding may turn around.

    Under a coarse ``rel`` losses alone are compared.
    """
    for one, other in zip(found[0], expected[0], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=rel)
        assert rel > 1e-5 or one == pytest.approx(other, abs=5e-3)
    if rel > 1e-5:
        return
    assert found[1] == pytest.approx(expected[1], rel=2e-3, abs=5e-3)
    for name, value in found[2].items():
        assert value == pytest.approx(expected[2][name], rel=1e-3, abs=2e-5, nan_ok=True), name


CLAIMS = {
    "in-batch": a_run("sampled_softmax"),
    "in-batch, encoded in parts": a_run("sampled_softmax", HASHED, training=replace(TRAINING, encode_rows=10)),
    "in-batch, sequences": a_run("sampled_softmax", SASREC, training=replace(TRAINING, batch_size=14)),
    "in-batch and a bank": a_run("sampled_softmax", sources=("in_batch", "memory_bank"), number=60),
    "hardest of in-batch and mined": a_run(
        "sampled_softmax", sources=("in_batch", "index_mined"), mine_ranks=(2, 12), mine_every=4, hard="hardest"
    ),
    "regularised": a_run("sampled_softmax", regularise={"uniformity": 0.3, "decorrelation": 0.2, "centring": 0.1}),
}
MORE = {
    "full softmax": a_run(),
    "full softmax, sequences": a_run(model=SASREC, training=replace(TRAINING, batch_size=14)),
    "uniform": a_run("sampled_softmax", sources=("uniform",)),
    "streaming frequency": a_run("sampled_softmax", frequency="streaming"),
    "clusters": a_run("sampled_softmax", batches="clustered"),
    "adam, clipped": a_run(training=replace(TRAINING, optimizer="adamw", clip_norm=0.1, schedule="cosine")),
    "bfloat16": a_run("sampled_softmax", training=replace(TRAINING, precision="bfloat16")),
    "popularity": a_run("sampled_softmax", sources=("popularity",)),
    "mixed": a_run("sampled_softmax", sources=("mixed",)),
    "in-batch and popularity": a_run("sampled_softmax", sources=("in_batch", "popularity")),
    "some of the batch": a_run("sampled_softmax", in_batch_number=20),
    "quotients": a_run(
        "sampled_softmax",
        ModelSection("two_tower", TOWER.settings | {"table": "quotient_remainder", "table_buckets": 8}),
    ),
    "positive corrected": a_run("sampled_softmax", correct_positive=True),
    "a bank that starts by drift": a_run(
        "sampled_softmax", sources=("in_batch", "memory_bank"), number=60, bank_drift=1.0, bank_rescale=True
    ),
    "radius": a_run("sampled_softmax", hard="radius"),
    "batch radius": a_run("sampled_softmax", hard="batch_radius"),
    "margin": a_run("sampled_softmax", hard="margin"),
    "below positive": a_run("sampled_softmax", hard="below_positive", sources=("uniform",)),
    "bce": a_run("bce", sources=("uniform",)),
    "gbce": a_run("gbce", sources=("uniform",)),
    "bpr": a_run("bpr"),
    "triplet": a_run("triplet"),
    "regularised full softmax": a_run(regularise={"uniformity": 0.3, "centring": 0.1}),
    "sequences, uniform": a_run("bce", SASREC, sources=("uniform",), training=replace(TRAINING, batch_size=14)),
    "last fit": a_run(training=replace(TRAINING, refit=True)),
    "pairs": a_run("bce", **PAIRS),
    "pairs, fit": a_run(
        "bce",
        ModelSection("fit", {"hidden": [8], "dim": 8, "batch_norm": False, "interaction": "deepfm", "meta_queries": 4}),
        **PAIRS,
    ),
    "pairs, cold": a_run("bce", ModelSection("cold", {"hidden": [8], "batch_norm": False}), **PAIRS),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_two_and_three_ranks_follow_the_curve_of_one(name, dataset, tmp_path):
    work = learnt(CLAIMS[name], dataset)
    expected = work(World())
    for size in (2, 3):
        told = on_ranks(size, tmp_path, work)
        for found in told:
            assert not isinstance(found, Exception), found
            assert_same(found, expected)
        assert all(found[0] == told[0][0] for found in told)  # among themselves to the bit


@pytest.mark.slow
@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.long), 3])
@pytest.mark.parametrize("name", MORE)
def test_the_rest_of_what_claims_it_follows_the_curve_of_one_too(name, size, dataset, tmp_path):
    work = learnt(MORE[name], dataset)
    expected = work(World())
    for found in on_ranks(size, tmp_path, work):
        assert not isinstance(found, Exception), found
        assert_same(found, expected, rel=1e-3 if name == "bfloat16" else 2e-6)


def test_ranks_without_a_row_of_the_last_batch_change_nothing(dataset, tmp_path):
    rows = split_of(a_run(), dataset).train.num_events
    for loss in ("full_softmax", "sampled_softmax"):
        work = learnt(a_run(loss, training=replace(TRAINING, batch_size=(rows - 1) // 4)), dataset)
        expected = work(World())
        for found in on_ranks(3, tmp_path, work):
            assert not isinstance(found, Exception), found
            assert_same(found, expected)


def test_what_several_ranks_cannot_do_alike_is_refused_before_training(dataset, tmp_path):
    first, second = on_ranks(2, tmp_path, learnt(a_run(model=ModelSection("ease", {})), dataset))
    assert isinstance(first, InputError)
    assert "computed at once" in str(first)
    assert isinstance(second, SharedError)


class Meetings(Silent):
    """Notes what ranks exchange in each step: the collective, what its tensor is, and whether it goes on by itself."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = [[]]

    def noted(self, name: str) -> None:
        collective = getattr(dist, name)

        def call(*given: Any, **named: Any) -> Any:
            tensor = next(part for part in reversed(given) if isinstance(part, torch.Tensor))
            kind = "whole" if tensor.dtype == torch.int64 else "real"
            self.steps[-1].append(f"{name} {kind} {tensor.ndim}-d{' under way' * bool(named.get('async_op'))}")
            return collective(*given, **named)

        setattr(dist, name, call)

    def stepped(self, step: int) -> None:
        self.steps.append([])


MESSAGE, GRADIENTS = "all_gather whole 1-d under way", "all_reduce real 1-d"
PAIRED, STATES, BACK = "all_gather whole 2-d", "all_gather real 2-d", "all_reduce real 2-d"


@pytest.mark.parametrize(
    ("run", "met"),
    [
        (a_run(), [MESSAGE, GRADIENTS]),
        (a_run(model=SASREC, training=replace(TRAINING, batch_size=14)), [MESSAGE, GRADIENTS]),
        (CLAIMS["in-batch"], [MESSAGE, PAIRED, STATES, BACK, GRADIENTS]),
        (CLAIMS["in-batch, sequences"], [MESSAGE, PAIRED, STATES, BACK, GRADIENTS]),
        (CLAIMS["in-batch and a bank"], [MESSAGE, PAIRED, STATES, STATES, BACK, GRADIENTS]),
    ],
)
def test_a_step_says_one_thing_through_the_host_and_gathers_only_what_is_looked_at(run, met, dataset, tmp_path):
    def work(world: World) -> list[list[str]]:
        meetings = Meetings()
        for name in ("all_gather", "all_reduce", "broadcast"):
            meetings.noted(name)
        train(run, dataset=dataset, world=world, callbacks=[meetings])
        return meetings.steps

    for found in on_ranks(2, tmp_path, work):
        assert not isinstance(found, Exception), found
        assert found[1] == met
        assert found[2] == met


@pytest.mark.parametrize("owner", [0, 1])
def test_a_weight_without_a_gradient_on_one_rank_takes_that_of_the_others(owner, tmp_path):
    def work(world: World) -> list[Any]:
        model = torch.nn.ParameterList([torch.ones(3), torch.ones(2), torch.ones(1)])
        rows = world.share(torch.arange(5))
        mine = Batch(Users(rows, {}, rows[:, None]), Items(rows))
        number = world.tell(mine, stop=world.rank == owner)
        loss = (model[0] * float(rows.sum())).sum()
        if world.rank == owner:
            loss = loss + model[1].sum() * 10.0
        loss.backward()
        mean = average_gradients(world, model, loss)
        told = [None if one.grad is None else one.grad.tolist() for one in model]
        return [number, float(mean), told, world.stops(False), world.any(world.rank == owner), world.any(False)]

    first, second = on_ranks(2, tmp_path, work)
    assert (first[0], second[0]) == (2, 3)
    for found in (first, second):
        assert found[1] == pytest.approx((3 * (0 + 1 + 2 + 3 + 4) + 20) / 5)
        assert found[2] == [pytest.approx([2.0] * 3), pytest.approx([2.0] * 2), None]
        assert found[3:] == [True, True, False]


def test_rows_that_do_not_give_one_pair_each_are_refused_where_ranks_count_by_arithmetic(tmp_path):
    def work(world: World) -> Any:
        rows = world.share(torch.arange(6)).repeat(2)
        batch = Batch(Users(rows, {}, rows[:, None]), Items(rows))
        world.tell(batch, stop=False)
        return world.whole(batch)

    for found in on_ranks(2, tmp_path, work):
        assert isinstance(found, InputError)
        assert str(found) == "a batch of 3 rows has 6 pairs, and must have one a row"


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 3)])
def test_a_run_goes_on_from_its_checkpoint_on_any_number_of_ranks(before, after, dataset, tmp_path):
    run = a_run(
        "sampled_softmax",
        sources=("in_batch", "memory_bank", "uniform"),
        number=40,
        training=replace(TRAINING, epochs=3, batch_size=30, optimizer="adamw", checkpoint_seconds=0.0),
    )

    def stopped(world: World) -> None:
        train(run, dataset=dataset, world=world, to=tmp_path / "b", callbacks=[DieAt(10)])

    def resumed(world: World) -> Any:
        trained = train(run, dataset=dataset, world=world, to=tmp_path / "b", resume=True)
        return (
            [one.to_json() for one in trained.records],
            trained.test.metrics,
            {n: w.numpy() for n, w in trained.model.state_dict().items()},
        )

    for found in on_ranks(before, tmp_path, stopped):
        assert isinstance(found, ZeroDivisionError)
    expected = learnt(run, dataset)(World())
    again = on_ranks(after, tmp_path, resumed)
    for found in again:
        assert not isinstance(found, Exception), found
        assert [one.pop("seconds") >= 0 for one in found[0]]
        assert_same(found, expected)
    if before == after:
        exact = on_ranks(2, tmp_path, learnt(run, dataset))[0]
        assert again[0][0] == exact[0]
        for name, value in again[0][2].items():
            assert (value == exact[2][name]).all(), name
