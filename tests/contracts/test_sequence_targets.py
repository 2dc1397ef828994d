"""Training that asks for a drawn few of the places of each window, in place of all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.splitters import leave_one_out
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.run import ModelSection
from twotower.models.registry import build_model
from twotower.models.sequence_model import SequenceModel
from twotower.ops.drawn import drawn_of_each
from twotower.training.config import Objective, Sampling
from twotower.training.sources import NegativeSource

NAMES = ("sasrec", "gru4rec", "diffurec", "t2diff")
LENGTHS = (6, 2, 1)


def made(name: str, targets: int) -> SequenceModel:
    torch.manual_seed(0)
    model = build_model(name, Schema(14, 11), {"dim": 8, "history_length": 6, "dropout": 0.0, "targets": targets})
    assert isinstance(model, SequenceModel)
    return model.train()


@pytest.fixture
def batch() -> Batch:
    history = torch.tensor([[3, 4, 5, 6, 7, 8], [6, 7, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
    targets = torch.tensor([[4, 5, 6, 7, 8, 9], [7, 8, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0]])
    return Batch(Users(torch.tensor([2, 3, 4]), {}, history), Items(targets))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("targets", [1, 3])
def test_a_step_asks_for_so_many_places_of_each_window_and_their_states_are_those_of_all(name, targets, batch):
    torch.manual_seed(7)
    whole = made(name, 0)(batch)
    state_of = {
        (row, item): state
        for row, item, state in zip(whole.user_rows.tolist(), whole.item_ids.tolist(), whole.users, strict=True)
    }
    model = made(name, targets)
    torch.manual_seed(7)
    found = model(batch)
    asked = list(zip(found.user_rows.tolist(), found.item_ids.tolist(), strict=True))
    assert Counter(row for row, _ in asked) == {row: min(length, targets) for row, length in enumerate(LENGTHS)}
    assert len(set(asked)) == len(asked)
    if name == "diffurec":  # what its states are made of is drawn
        return
    for pair, state in zip(asked, found.users, strict=True):
        torch.testing.assert_close(state, state_of[pair])


def test_the_diffusion_learns_from_all_places_and_a_model_that_is_not_training_asks_for_all(batch):
    model, plain = made("t2diff", 1), made("t2diff", 0)
    torch.testing.assert_close(model(batch).losses, plain(batch).losses)
    model.eval()
    assert len(model(batch).item_ids) == sum(LENGTHS)


def test_places_are_drawn_evenly_and_anew_and_no_group_is_left_out():
    groups = torch.tensor([0] * 5 + [3] * 2 + [8])
    counts = torch.zeros(len(groups))
    torch.manual_seed(0)
    for _ in range(2_000):
        kept = drawn_of_each(groups, 2)
        assert kept.tolist() == sorted(kept.tolist())
        counts[kept] += 1
    assert counts[5:].tolist() == [2_000.0] * 3
    assert counts[:5].tolist() == pytest.approx([800.0] * 5, abs=100.0)
    assert drawn_of_each(groups[:0], 2).tolist() == []


@pytest.fixture
def walks(tmp_path) -> Dataset:
    """Twelve users who walk round nine items, each from another start."""
    steps = torch.tensor([[2 + (start + step) % 9 for step in range(7)] for start in range(12)])
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), torch.full((12,), 7).cumsum(0)])
    return Dataset(Schema(14, 11, has_times=False), Log(offsets, steps.flatten()), {}, {}, {"name": "walks"}, tmp_path)


def test_a_run_learns_from_drawn_places_and_refuses_negatives_of_the_batch(walks):
    run = default_run("sasrec")
    run = replace(
        run,
        model=ModelSection("sasrec", {"dim": 8, "history_length": 6, "targets": 1}),
        training=replace(run.training, epochs=4, batch_size=4, learning_rate=0.01, evaluate_every=0, patience=0),
    )
    split = leave_one_out(walks.log)
    losses = [record.loss for record in learn(run, walks, split)[1]]
    assert losses[-1] < losses[0]
    uniform = Sampling((NegativeSource("uniform", {"number": 4}),))
    sampled = replace(run, objective=Objective("sampled_softmax"), sampling=uniform)
    assert learn(sampled, walks, split)[1][0].loss > 0
    with pytest.raises(InputError, match="draws its training rows itself"):
        learn(replace(sampled, sampling=Sampling((NegativeSource("in_batch"),))), walks, split)


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        ("bert4rec", 1, "targets = 1 has no effect on BERT4Rec, which hides places by a share"),
        ("sasrec", -1, "targets"),
        ("t2diff", -1, "targets"),
    ],
)
def test_targets_of_no_use_are_refused_in_one_line(name, targets, message):
    with pytest.raises(InputError, match=message) as refused:
        build_model(name, Schema(14, 11), {"targets": targets})
    assert "\n" not in str(refused.value)
