"""A run on labelled pairs: what is learnt, chosen and judged, and the lists of candidates that stand for a request."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.evaluation.candidates import (
    drawn_lists,
    evaluate_candidates,
    evaluate_two_stage,
    retrieved_lists,
)
from twotower.experiment import candidates as pairs
from twotower.experiment.candidates import chosen_by, judge_pairs, learn_pairs
from twotower.experiment.evaluate import judge_bundle
from twotower.experiment.labelled_pairs import pairs_of
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Evaluation, IndexSection, ModelSection
from twotower.experiment.train import train
from twotower.metrics.ranking import MISSED
from twotower.models.encode import inference, users_with_history
from twotower.models.registry import build_model
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
        if record.epoch == self.epochs:
            raise StopTraining


@pytest.mark.parametrize("negatives", ["fixed", "fresh"])
def test_a_stopped_run_resumes_to_the_same_numbers(clubs, tmp_path, negatives):
    run = run_of("fit", epochs=4, negatives=negatives)
    whole, records = learn_pairs(run, clubs, pairs_of(run, clubs), folder=tmp_path / "whole")
    learn_pairs(run, clubs, pairs_of(run, clubs), folder=tmp_path / "cut", callbacks=[StopAfter(2)])
    resumed, again = learn_pairs(run, clubs, pairs_of(run, clubs), folder=tmp_path / "cut", resume=True)
    assert [r.loss for r in records] == [r.loss for r in again]
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_every_model_learns_the_clubs(name, clubs):
    run = run_of(name)
    split = pairs_of(run, clubs)
    model, records = learn_pairs(run, clubs, split)
    judged = judge_pairs(model, clubs, split, ks=(3, 10), candidates=20)
    # A negative is of the user's own half with chance 6 / 21, where it cannot be told apart: AUC is 6/7 at best.
    assert judged.request.metrics["auc"] > 0.7
    assert max(record.metrics["auc"] for record in records) > 0.6
    users = judged.per_user()
    assert users["gauc"].mean().item() == pytest.approx(judged.pairs.metrics["gauc"])
    assert len(users["gauc"]) == len(users["recall@3"]) == 40


@pytest.mark.parametrize("name", ["cold", "dat", "fit", "int_tower", "rank_tower"])
def test_pre_rankers_train_on_pairs_by_default(name):
    run = default_run(name)
    assert (run.data.split, run.objective.loss, run.training.metric) == ("pre-ranking", "bce", "auc")


def test_the_kept_epoch_was_trained_as_it_is_served(clubs):
    run = run_of("fit", epochs=4)
    split = pairs_of(run, clubs)
    chosen = []

    class Watch:
        def started(self, *_): ...
        def stepped(self, *_): ...
        def finished(self): ...
        def epoch_done(self, record, model):
            chosen.append((record.epoch, model.selectable))

    model, _ = learn_pairs(run, clubs, split, callbacks=[Watch()])
    assert chosen == [(1, False), (2, True), (3, True), (4, True)]
    assert model.selectable


def test_what_picks_the_epoch():
    assert [chosen_by(metric) for metric in ("auc", "gauc", Training().metric)] == ["auc", "gauc", "auc"]


def test_a_metric_that_nothing_reads_is_not_refused(clubs):
    run = run_of("fit", epochs=1)
    run = replace(run, training=replace(run.training, metric="hr@10", evaluate_every=0))
    _, records = learn_pairs(run, clubs, pairs_of(run, clubs))
    assert len(records) == 1


def test_a_whole_run_writes_a_bundle_that_can_be_judged_again(clubs, tmp_path):
    trained = train(run_of("fit", epochs=3), dataset=clubs, to=tmp_path / "bundle")
    assert {"auc", "gauc", "log_loss", "recall@3", "ndcg@10"} <= set(trained.test.metrics)
    again, title = judge_bundle(tmp_path / "bundle")
    assert title == "fit on clubs"
    assert again.metrics == pytest.approx(trained.test.metrics, abs=1e-6)
    with pytest.raises(InputError, match="labelled pairs, whose validation"):
        judge_bundle(tmp_path / "bundle", split="validation")


def test_the_command_line_shows_both_kinds_of_figures(clubs, capsys):
    from twotower.cli.results import show_test

    run = run_of("two_tower", epochs=1)
    split = pairs_of(run, clubs)
    model, _ = learn_pairs(run, clubs, split)
    result = judge_pairs(model, clubs, split, ks=(3, 10)).request
    show_test(result, title="clubs", as_json=False)
    shown = capsys.readouterr().out
    assert f"test pairs: auc {result.metrics['auc']:.4f}, gauc" in shown
    assert "top 3" in shown


def test_drawn_lists_hold_the_test_item_among_unseen_ones(clubs):
    split = pairs_of(run_of("fit"), clubs)
    targets = split.test_targets()
    lists = drawn_lists(clubs, targets, 12)
    assert lists.shape == (40, 12)
    for user, row in zip(targets.users().tolist(), lists.tolist(), strict=True):
        met = clubs.log.items[clubs.log.offsets[user] : clubs.log.offsets[user + 1]].tolist()
        assert met[-1] in row
        assert not set(row) & set(met[:-1])
        assert len(set(row)) == 12
        assert min(row) >= 2
    assert torch.equal(lists, drawn_lists(clubs, targets, 12))
    assert not torch.equal(lists, drawn_lists(clubs, targets, 12, seed=1))
    whole = drawn_lists(clubs, targets, 2_000)
    assert (whole >= 0).sum(dim=1).tolist() == [22] * 40  # 30 items, eight of them met before the test
    with pytest.raises(InputError, match="fewer than the 1 relevant"):
        drawn_lists(clubs, targets, 0)


def test_drawn_lists_are_uniform(clubs):
    targets = pairs_of(run_of("fit"), clubs).test_targets()
    user = int(targets.users()[0])
    met = clubs.log.items[clubs.log.offsets[user] : clubs.log.offsets[user + 1]].tolist()
    counts = torch.zeros(32)
    for seed in range(400):
        counts[drawn_lists(clubs, targets, 8, seed=seed)[0]] += 1
    unseen = [item for item in range(2, 32) if item not in met]
    assert counts[unseen].sum() == 400 * 7
    assert (counts[unseen] / 400 - 7 / len(unseen)).abs().max() < 0.12


def test_ranks_in_lists_by_hand(clubs):
    model = build_model("fit", clubs.schema, SMALL["fit"])
    targets = pairs_of(run_of("fit"), clubs).test_targets()
    lists = drawn_lists(clubs, targets, 9)
    lists[3] = lists[3].where(lists[3] != int(targets.truth.items[3]), 32 - 1)  # its test item is no candidate
    lists[3, 1:] = -1
    result = evaluate_candidates(model, clubs, targets, lists, (1, 4))
    with inference(model):
        items = model.encode_items(clubs.all_items())
        for row, user in enumerate(targets.users().tolist()):
            users = users_with_history(clubs, targets.history, torch.tensor([user]), 50)
            scores = model.score(model.encode_users(users), items)[0].tolist()
            order = sorted((i for i in lists[row].tolist() if i >= 0), key=lambda i: (-scores[i], i))
            truth = int(targets.truth.items[row])
            rank = order.index(truth) if truth in order else MISSED
            assert result.per_user["recall@4"][row] == (rank < 4)
            assert result.per_user["hit_rate@1"][row] == (rank < 1)
    assert result.unreachable_truths == 1


def test_two_stages_as_a_whole(clubs):
    retriever, ranker = (build_model(name, clubs.schema, SMALL[name]) for name in ("two_tower", "fit"))
    targets = pairs_of(run_of("fit"), clubs).test_targets()
    whole = evaluate_two_stage(retriever, ranker, clubs, targets, candidates=11, ks=(2, 11))
    assert whole.stage_one.metrics["recall@11"] == whole.pair.metrics["recall@11"]
    assert whole.stage_one.unreachable_truths == whole.pair.unreachable_truths
    lists = retrieved_lists(retriever, clubs, targets, 11)
    again = evaluate_candidates(ranker, clubs, targets, lists, (2, 11))
    assert again.metrics == whole.pair.metrics
    for user, row in zip(targets.users().tolist(), lists.tolist(), strict=True):
        met = targets.history.items[targets.history.offsets[user] : targets.history.offsets[user + 1]].tolist()
        assert not set(row) & set(met)
    # A second stage that is the first one changes nothing.
    same = evaluate_two_stage(retriever, retriever, clubs, targets, candidates=11, ks=(2, 11))
    assert same.pair.metrics["ndcg@2"] == pytest.approx(same.stage_one.metrics["ndcg@2"])


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
    assert [record.metrics["auc"] for record in records] == [0.5, 0.6, 0.9, 0.8, 0.7]
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
    with pytest.raises(InputError, match=r"validation_share = 'half': a number in \[0, 1\) is wanted"):
        pairs_of(replace(run, data=replace(run.data, split_options={"validation_share": "half"})), clubs)
    with pytest.raises(InputError, match="model 'sasrec' trains on whole sequences, split 'pre-ranking' has rows"):
        pairs_of(replace(run, model=ModelSection("sasrec")), clubs)
    with pytest.raises(InputError, match="objective.loss = 'bce'"):
        learn_pairs(replace(run, objective=replace(run.objective, loss="full_softmax")), clubs, split)
    with pytest.raises(InputError, match="leave out training.geometry"):
        learn_pairs(replace(run, training=replace(run.training, geometry="warn")), clubs, split)
    for metric in ("hr@10", "log_loss"):  # the least log loss is the best
        with pytest.raises(InputError, match=f"training.metric '{metric}': split 'pre-ranking' picks the epoch by auc"):
            learn_pairs(replace(run, training=replace(run.training, metric=metric)), clubs, split)
    none_held = pairs_of(replace(run, data=replace(run.data, split_options={"validation_share": 0.0})), clubs)
    with pytest.raises(InputError, match="no row validates: raise validation_share"):
        learn_pairs(run, clubs, none_held)
    targets = split.test_targets()
    model, other = (build_model("popularity", data.schema) for data in (clubs, tiny_dataset))
    with pytest.raises(InputError, match="40 users are asked about"):
        evaluate_candidates(model, clubs, targets, torch.full((3, 4), 2))
    for retriever, ranker in ((model, other), (other, model)):
        with pytest.raises(InputError, match="the model knows 32 item rows, data set '.*' has 10: give the data"):
            evaluate_two_stage(retriever, ranker, tiny_dataset, targets)
    more = replace(clubs.schema, item_features=(Feature("brand", "categorical", 7), *clubs.schema.item_features))
    with pytest.raises(InputError, match="no item feature 'brand' as the model knows it: give the data that it was"):
        evaluate_candidates(build_model("popularity", more), clubs, targets, torch.full((40, 4), 2))
    with pytest.raises(InputError, match="unknown index 'exakt'.*'exact'"):
        train(replace(run, index=IndexSection("exakt")), dataset=clubs)  # before an hour of training, not after
    nobody = targets._replace(truth=targets.truth.select(targets.truth.items < 0))
    with pytest.raises(InputError, match="no user has an event to be found"):
        drawn_lists(clubs, nobody)
