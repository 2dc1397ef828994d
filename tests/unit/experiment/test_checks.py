"""Every training ends with a line on the space and one on popularity; what is wrong is a warning."""

import logging
from dataclasses import replace

import pytest

import twotower
from twotower.data.splitters import split_log
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.checks import check_popularity, check_space
from twotower.models.registry import build_model


def test_a_trained_model_is_compared_with_popularity_and_its_space_is_looked_at(tiny_dataset, caplog):
    with caplog.at_level(logging.INFO):
        trained = twotower.train("two_tower", tiny_dataset, epochs=1)
    space, popularity = (check.text for check in trained.checks)
    assert space.startswith("item vectors: mean cosine ")
    assert " of 128 directions filled" in space
    assert popularity.startswith(f"test ndcg@10: {trained.test.metrics['ndcg@10']:.4f}")
    assert all(check.text in caplog.text for check in trained.checks)


def test_closed_forms_are_not_checked(tiny_dataset):
    assert twotower.train("ease", tiny_dataset).checks == []


@pytest.mark.parametrize("fine", [True, False])
def test_a_model_below_popularity_is_told_of(fine, tiny_dataset):
    split = split_log(tiny_dataset.log, "leave-one-out")
    model = build_model("popularity", tiny_dataset.schema)
    model.fit_log(split.known)
    best = evaluate(model, tiny_dataset, split.test, Protocol(ks=(3, 5)), train=split.known)
    share = 1.0 if fine else 0.9
    shown = replace(best, metrics={name: share * value for name, value in best.metrics.items()})
    check = check_popularity(shown, tiny_dataset, split, split.known, metric="ndcg@5", mask=True)
    assert check.fine == fine
    assert ("is below popularity" in check.text) != fine
    assert f"{best.metrics['ndcg@5']:.4f}" in check.text
    assert f"{shown.metrics['ndcg@5']:.4f}" in check.text


@pytest.mark.parametrize(("verdict", "fine"), [("healthy", True), ("doubtful", True), ("collapsed", False)])
def test_a_collapsed_space_is_told_of(verdict, fine):
    statistics = {"mean_cosine": 0.9998, "effective_dimensions": 64, "dimensions": 64}
    reasons = [{"level": "suspect", "sentence": "odd"}, {"level": "collapsed", "sentence": "few directions"}]
    found = {"statistics": statistics, "centred": {"direction_participation": 1.5}, "reasons": [] if fine else reasons}
    check = check_space({"verdict": verdict, **found})
    assert check.text.startswith("item vectors: mean cosine 1.00, about 1.5 of 64 directions filled")
    assert (check.fine, "they have collapsed (few directions);" in check.text) == (fine, not fine)
