"""A run on labelled pairs: what is learnt, chosen and judged, and the lists of candidates that stand for a request."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.evaluation.candidates import (
    drawn_lists,
    evaluate_candidates,
    evaluate_two_stage,
)
from twotower.models.build import build_model
from twotower.recipes import pairs
from twotower.recipes.named import default_run
from twotower.recipes.pairs import learn_pairs, pairs_of
from twotower.recipes.run import Evaluation, ModelSection
from twotower.training.callbacks import Silent, StopTraining
from twotower.training.config import Training

SMALL = {
    "two_tower": {"dim": 6, "field_dim": 4, "hidden": (8,)},
    "fit": {"dim": 8, "field_dim": 4, "hidden": (12, 8), "meta_queries": 4},
    "dat": {"dim": 6, "field_dim": 4, "hidden": (8,)},
    "cold": {"field_dim": 4, "hidden": (8, 6)},
    "int_tower": {"dim": 8, "item_heads": 2, "user_heads": 2, "field_dim": 4, "hidden": (8, 6)},
    "rank_tower": {"dim": 8, "item_heads": 2, "user_heads": 2, "field_dim": 4, "hidden": (8, 6)},
}


@pytest.fixture(scope="module")
def clubs():
    """Forty users who meet items of their own half of 30 items alone: the half of a history tells its future."""
    generator = torch.Generator().manual_seed(5)
    lists = [2 + 15 * (user % 2) + torch.randperm(15, generator=generator)[:9] for user in range(40)]
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), 9 * torch.arange(1, 41)])
    return Dataset(Schema(42, 32), Log(offsets, torch.cat(lists)), {}, {}, {"name": "clubs"})


def run_of(name, epochs=25, **data):
    run = default_run("fit")
    return replace(
        run,
        model=ModelSection(name, dict(SMALL[name])),
        data=replace(run.data, split_options={"reading": "all", **data}),
        training=Training(epochs=epochs, batch_size=128, learning_rate=0.01, metric="auc"),
        evaluation=Evaluation(ks=(3, 10)),
    )


class StopAfter(Silent):
    """Asks to stop when so many epochs are done."""

    def __init__(self, epochs):
        self.epochs = epochs

    def epoch_done(self, record, model):
        if record["epoch"] == self.epochs:
            raise StopTraining


@pytest.mark.parametrize("negatives", ["fixed", "fresh"])
def test_a_refit_learns_from_all_rows_before_the_test(negatives, clubs, monkeypatch):
    """The last model is one that saw training and validation rows for as many epochs as were best."""
    run = run_of("fit", epochs=5, negatives=negatives)
    split = pairs_of(run, clubs)
    assert sorted(split.known.ends.tolist()) == sorted([*split.train.ends.tolist(), *split.validation.ends.tolist()])
    assert not set(split.known.ends.tolist()) & set(split.test.ends.tolist())
    assert split.known.fresh is split.train.fresh
    assert (split.known.fresh is None) == (negatives == "fixed")
    assert split.validation.fresh is None
    best, judged = 3, iter([0.5, 0.6, 0.9, 0.8, 0.7])
    monkeypatch.setattr(pairs, "evaluate_rows", lambda *_, **__: SimpleNamespace(metrics={"auc": next(judged)}))
    refitted, records = learn_pairs(replace(run, training=replace(run.training, refit=True)), clubs, split)
    assert [record["auc"] for record in records] == [0.5, 0.6, 0.9, 0.8, 0.7]
    plain = replace(run, training=replace(run.training, epochs=best, evaluate_every=0))
    again, _ = learn_pairs(plain, clubs, split._replace(train=split.known))
    for name, value in again.state_dict().items():
        assert torch.equal(value, refitted.state_dict()[name]), name


@pytest.mark.bad_input
def test_bad_pair_runs(clubs, tiny_dataset):
    run = run_of("fit", epochs=1)
    with pytest.raises(InputError, match=r"split_options.raeding.*reading, validation"):
        pairs_of(replace(run, data=replace(run.data, split_options={"raeding": "all"})), clubs)
    split = pairs_of(run, clubs)
    with pytest.raises(InputError, match="objective.loss = 'bce'"):
        learn_pairs(replace(run, objective=replace(run.objective, loss="full_softmax")), clubs, split)
    with pytest.raises(InputError, match="leave out training.geometry"):
        learn_pairs(replace(run, training=replace(run.training, geometry="warn")), clubs, split)
    none_held = pairs_of(replace(run, data=replace(run.data, split_options={"validation_share": 0.0})), clubs)
    with pytest.raises(InputError, match="no row validates: raise validation_share"):
        learn_pairs(run, clubs, none_held)
    targets = split.test_targets()
    model, other = (build_model("popularity", data.schema) for data in (clubs, tiny_dataset))
    with pytest.raises(InputError, match="40 users are asked about"):
        evaluate_candidates(model, clubs, targets, torch.full((3, 4), 2))
    with pytest.raises(InputError, match="32 item rows and the pre-ranker 10"):
        evaluate_two_stage(model, other, clubs, targets)
    nobody = targets._replace(truth=targets.truth.select(targets.truth.items < 0))
    with pytest.raises(InputError, match="no user has an event to be found"):
        drawn_lists(clubs, nobody)
