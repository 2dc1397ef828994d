"""Why an item was recommended: shares against sums and against the model asked again; neighbours of sums."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.models.base import ClosedForm, Model, SumsOverHistory
from twotower.models.encode import encode_known_items
from twotower.models.registry import build_model
from twotower.serving.contents import Contents, write_bundle
from twotower.serving.retriever import Retriever

SUMS = ["item_cosine", "ease", "item_lists"]
ALL = [f"i{row}" for row in range(2, 10)]


@pytest.fixture
def fitted(titled_dataset: Dataset, tmp_path: Path) -> Callable[[str], Retriever]:
    """A retriever of a closed form that has learnt the small log."""

    def made(name: str) -> Retriever:
        model = build_model(name, titled_dataset.schema, {})
        assert isinstance(model, ClosedForm)
        model.fit_log(titled_dataset.log)
        contents = Contents(
            model=model,
            model_name=name,
            model_parameters={},
            dataset=titled_dataset,
            items=encode_known_items(model, titled_dataset),
            histories=titled_dataset.log,
        )
        write_bundle(tmp_path / name, contents)
        return twotower.load(tmp_path / name)

    return made


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("user", ["u4", "u5", "u6"])
def test_shares_of_a_sum_add_up_to_the_score(name: str, user: str, fitted: Callable[[str], Retriever]) -> None:
    retriever = fitted(name)
    scores = {answer.id: answer.score for answer in retriever.recommend(user, k=8, include_seen=True)}
    assert len(set(scores.values())) > 1
    seen = {record.id for record in retriever.seen(user)}
    for why in retriever.explain(user, ALL):
        assert why.exact
        assert why.score == pytest.approx(scores[why.id], abs=1e-6)
        assert sum(cause.share for cause in why.causes) == pytest.approx(scores[why.id], abs=1e-5)
        assert {cause.id for cause in why.causes} <= seen
        assert [cause.share for cause in why.causes] == sorted((c.share for c in why.causes), reverse=True)


def test_the_shares_of_item_cosine_are_its_cosines(fitted: Callable[[str], Retriever]) -> None:
    """i4 and i6 have one user in common; i4 has two users and so has i6."""
    retriever = fitted("item_cosine")
    (why,) = retriever.explain(history=["i6", "i3"], items=["i4"])
    shares = {cause.id: cause.share for cause in why.causes}
    users = {"i3": {2, 4, 6}, "i4": {2, 5}, "i6": {2, 6}}
    for id in ("i3", "i6"):
        both = len(users["i4"] & users[id])
        assert shares[id] == pytest.approx(both / (len(users["i4"]) * len(users[id])) ** 0.5, abs=1e-6)
    assert next(cause for cause in why.causes if cause.id == "i3").columns["title"] == "Brazil"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("two_tower", {"dim": 5, "field_dim": 3, "hidden": [4]}), ("sasrec", {"dim": 4, "heads": 1})],
)
def test_other_models_are_asked_again_without_each_item(
    name: str, parameters: dict[str, object], write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path
) -> None:
    write(tmp_path / "bundle", titled_dataset, name, parameters=parameters)
    retriever = twotower.load(tmp_path / "bundle")

    def score(*history: str) -> float:
        return retriever.rank(history=history, candidates=["i9"])[0].score

    (why,) = retriever.explain(history=["i3", "i8", "i3", "i5"], items=["i9"])
    assert not why.exact
    whole = score("i3", "i8", "i3", "i5")
    assert why.score == pytest.approx(whole, abs=1e-6)
    assert {cause.id: cause.share for cause in why.causes} == {
        "i3": pytest.approx(whole - score("i8", "i5"), abs=1e-5),
        "i8": pytest.approx(whole - score("i3", "i3", "i5"), abs=1e-5),
        "i5": pytest.approx(whole - score("i3", "i8", "i3"), abs=1e-5),
    }


def test_a_known_user_with_what_came_since_is_explained_by_both(fitted: Callable[[str], Retriever]) -> None:
    """Of the items of u4, i8 alone has no user in common with i7."""
    retriever = fitted("item_cosine")
    (stored,), (both,) = retriever.explain("u4", ["i7"]), retriever.explain("u4", ["i7"], history=["i5"])
    assert {cause.id for cause in stored.causes} == {"i3", "i2", "i9"}
    assert {cause.id for cause in both.causes} == {"i3", "i2", "i9", "i5"}


def test_a_model_that_reads_no_history_has_no_causes(fitted: Callable[[str], Retriever]) -> None:
    (why,) = fitted("popularity").explain("u4", ["i7"])
    assert why.causes == []


def test_items_to_explain_are_known_and_named(bundle_folder: Path) -> None:
    retriever = twotower.load(bundle_folder)
    with pytest.raises(InputError, match="name those to explain"):
        retriever.explain("u4", [])
    with pytest.raises(InputError, match="unknown item 'i77'"):
        retriever.explain("u4", ["i77"])


@pytest.mark.parametrize("name", SUMS)
def test_similar_items_of_a_sum_are_those_that_one_adds_most_to(name: str, fitted: Callable[[str], Retriever]) -> None:
    retriever = fitted(name)
    model = retriever.bundle.model
    assert isinstance(model, SumsOverHistory)
    row = model.contributions(torch.tensor([4]), torch.arange(2, 10))[0].tolist()
    expected = {id: share for id, share in zip(ALL, row, strict=True) if share > 0 and id != "i4"}
    answers = retriever.similar("i4", k=7)
    assert {answer.id: answer.score for answer in answers} == pytest.approx(expected, abs=1e-6)
    assert [answer.score for answer in answers] == sorted(expected.values(), reverse=True)
    assert answers[0].columns["title"]


def test_the_command_line_says_why(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recommend", str(bundle_folder), "--user", "u3", "-k", "2", "--why"]
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    told = json.loads(capsys.readouterr().out)["items"]
    for item, why in zip(told, twotower.load(bundle_folder).explain("u3", [i["id"] for i in told]), strict=True):
        assert item["why"] == {"exact": False, "causes": [{"id": c.id, "share": c.share} for c in why.causes]}
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    assert "because of" in capsys.readouterr().out
