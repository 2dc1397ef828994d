"""Several processes evaluate as one: the figures of one process, one report, and one line where a rank fails."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import Ended
from rank_processes import as_torchrun_does as on_ranks

import twotower.cli.evaluate
import twotower.cli.results  # noqa: F401 - what ranks read, read once
import twotower.evaluation.run as evaluation
import twotower.experiment.evaluate as judging
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.split import Targets
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.catalogue import split_of
from twotower.experiment.run import Data, Evaluation, ModelSection, Run
from twotower.experiment.train import train
from twotower.serving.bundle import Bundle
from twotower.training.config import Objective, Training
from twotower.training.distributed import World

pytestmark = pytest.mark.ranks
MODELS: dict[str, dict[str, Any]] = {
    "two_tower": {"dim": 8, "field_dim": 4, "hidden": [8]},
    "sasrec": {"dim": 8, "history_length": 6, "layers": 1},
    "ease": {},
    "popularity": {},
}
PAIRS = Data(split="pre-ranking", split_options={"reading": "all"})


@pytest.fixture(scope="module")
def data(small_set) -> Path:
    return small_set


def bundle(prepared: Path, to: Path, name: str = "two_tower", **parts: Any) -> Path:
    short = Training(epochs=1, batch_size=50, seed=3, device="cpu", evaluate_every=0)
    run = Run(
        model=ModelSection(name, MODELS.get(name, {})), training=short, evaluation=Evaluation(ks=(5, 10)), **parts
    )
    to.parent.mkdir(exist_ok=True)

    def work(rank: int) -> None:  # in a process of its own, as what training loads here could not be forked well
        train(run, dataset=Dataset.load(prepared), to=to)

    (made,) = on_ranks(1, to.parent, work)
    assert made.value is None, made
    return to


@pytest.fixture(scope="module")
def kept(data, tmp_path_factory) -> Path:
    return bundle(data, tmp_path_factory.mktemp("kept") / "b")


def plain(result: Result) -> dict[str, Any]:
    """All that a result holds, as plain values."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    values |= result.details()
    values["per_user"] = {name: one.tolist() for name, one in result.per_user.items()}
    return values | {"users": result.users.tolist()}


def errors(told: list[Ended]) -> list[str]:
    return [line for one in told for line in one.stderr.splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_two_and_three_ranks_give_each_figure_of_one_process(name, data, tmp_path):
    folder = bundle(data, tmp_path / "b", name)
    (alone,) = on_ranks(1, tmp_path, lambda _: plain(judging.judge_served(folder).result))
    expected = alone.value
    assert len(expected["users"]) > 20
    assert any(part["users"] for part in expected["slices"].values())
    asked: list[int] = []

    def work(rank: int) -> Any:
        known = evaluation.users_with_history
        evaluation.users_with_history = lambda data, log, ids, most: (
            asked.append(len(ids)),
            known(data, log, ids, most),
        )[1]
        return plain(judging.judge_served(folder, world=World.current()).result), sum(asked)

    for size in (2, 3):
        told = on_ranks(size, tmp_path, work)
        assert sum(found.value[1] for found in told) == len(expected["users"])
        for found in told:
            assert found.value[0] == expected, found
            assert 0 < found.value[1] <= len(expected["users"]) // size + size


def first_users(dataset: Dataset, number: int) -> Targets:
    """The test of a few users."""
    targets = split_of(Run(model=ModelSection("two_tower", {})), dataset).test
    asked = targets.truth.lengths.nonzero()[:number, 0]
    return Targets(targets.history, targets.truth.select(torch.isin(targets.truth.users(), asked)))


def test_ranks_beyond_the_number_of_users_have_nothing_to_do_and_know_all(kept, data, tmp_path):
    dataset = Dataset.load(data)
    model, targets = Bundle.load(kept).model, first_users(dataset, 2)

    def work(rank: int) -> Any:
        done: list[tuple[int, int]] = []
        found = evaluate(model, dataset, targets, processes=World.current(), progress=lambda *at: done.append(at))
        return plain(found), done

    told = on_ranks(3, tmp_path, work)
    assert [one.value[1] for one in told] == [[(1, 1)], [(1, 1)], []]
    (alone,) = on_ranks(1, tmp_path, work)
    expected, done = alone.value
    assert (len(expected["users"]), done) == (2, [(2, 2)])
    assert all(one.value[0] == expected for one in told)


def test_scores_that_are_no_numbers_on_one_rank_are_refused_by_all(kept, data, tmp_path):
    dataset = Dataset.load(data)
    model, targets = Bundle.load(kept).model, first_users(dataset, 9)
    whole = model.encode_users

    def work(rank: int) -> Any:
        model.encode_users = lambda users: whole(users) * (float("nan") if rank == 1 else 1.0)
        return evaluate(model, dataset, targets, processes=World.current())

    for found in on_ranks(2, tmp_path, work):
        assert isinstance(found.value, InputError)
        assert "scores hold NaN" in str(found.value)


def test_one_report_is_printed_and_it_is_that_of_one_process(kept, tmp_path):
    words = ["evaluate", str(kept), "--json", "-k", "3,7"]
    (alone,) = on_ranks(1, tmp_path, lambda _: main(words))
    first, second = on_ranks(2, tmp_path, lambda _: main(words))
    assert (first.status, second.status) == (0, 0), first.stderr
    assert json.loads(first.stdout) == json.loads(alone.stdout)
    assert (second.stdout, second.stderr) == ("", "")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data", "nowhere"], "rank 1: "),
        (["-k", "a"], "rank 1: -k a: write list lengths"),
        (["-k", "3"], "rank 1 has another set of options than rank 0"),
    ],
)
def test_a_rank_that_fails_or_was_not_started_alike_ends_all_with_one_line(more, said, kept, tmp_path):
    words = ["evaluate", str(kept), "--json"]
    told = on_ranks(2, tmp_path, lambda rank: main([*words, *(more if rank else [])]))
    assert [one.status for one in told] == [2, 2]
    (line,) = errors(told)
    assert line.startswith(f"error: {said}")
    assert not any(one.stdout for one in told)


def test_ranks_with_another_bundle_than_the_first_are_refused(kept, data, tmp_path):
    other = bundle(data, tmp_path / "other", "popularity")
    told = on_ranks(2, tmp_path, lambda rank: main(["evaluate", str(other if rank else kept)]))
    assert [one.status for one in told] == [2, 2]
    assert errors(told) == ["error: rank 1 has another bundle than rank 0: start all ranks alike"]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_dies_ends_the_others_with_one_line(killed, kept, tmp_path, monkeypatch):
    known = judging.check_judged_alike

    def die(world: World, *given: Any) -> None:
        known(world, *given)
        if world.rank == killed:
            os._exit(9)

    monkeypatch.setattr(judging, "check_judged_alike", die)
    told = on_ranks(3, tmp_path, lambda _: main(["evaluate", str(kept), "--wait", "20"]))
    assert [one.status for rank, one in enumerate(told) if rank != killed] == [1, 1]
    (line,) = errors(told)
    assert line == (
        "error: a rank of the evaluation is gone; all ranks end; nothing was changed: start the same command again"
    )


def test_a_rank_that_never_comes_ends_the_others_in_the_time_that_was_given(kept, tmp_path):
    def work(rank: int) -> None:
        if rank == 0:
            main(["evaluate", str(kept), "--wait", "1"])

    told = on_ranks(2, tmp_path, work)
    assert told[0].status == 1
    (line,) = [line for line in errors(told) if line.startswith("error:")]  # torch adds a warning of its own
    assert line.startswith("error: a rank of the evaluation did not answer in time; all ranks end")


def test_pairs_of_two_bundles_and_labelled_pairs_are_judged_in_one_process(kept, data, tmp_path):
    told = on_ranks(2, tmp_path, lambda _: main(["evaluate", str(kept), "--then", str(kept)]))
    assert [one.status for one in told] == [2, 2]
    assert errors(told) == ["error: --then judges a pair in one process: start it without torchrun"]
    labelled = bundle(data, tmp_path / "pairs", data=PAIRS, objective=Objective("bce"))
    told = on_ranks(2, tmp_path, lambda _: main(["evaluate", str(labelled)]))
    assert [one.status for one in told] == [2, 2]
    (line,) = errors(told)
    assert line == "error: a run on split 'pre-ranking' is judged in one process: start it without torchrun"
