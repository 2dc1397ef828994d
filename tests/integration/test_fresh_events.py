"""A known user with what came since the bundle was written: the stored history goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.models.base import Model
from twotower.serving.asking import answered_by, asker_of
from twotower.serving.retriever import Answer, Retriever

SEEN = {"u3": ["i7"], "u4": ["i3", "i8", "i2", "i9"]}


@pytest.fixture
def retriever(bundle_folder: Path) -> Retriever:
    return twotower.load(bundle_folder)


def with_events(log: Log, user: int, items: list[int]) -> Log:
    """The log after these items of one user, all at the time of its latest event."""
    end = int(log.offsets[user + 1])
    offsets = log.offsets + len(items) * (torch.arange(len(log.offsets)) > user)
    assert log.times is not None
    now = log.times.max().expand(len(items))
    return Log(
        offsets,
        torch.cat([log.items[:end], torch.tensor(items), log.items[end:]]),
        torch.cat([log.times[:end], now, log.times[end:]]),
    )


def found(answers: list[Answer]) -> dict[str, Any]:
    return {answer.id: pytest.approx(answer.score, abs=1e-6) for answer in answers}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("two_tower", {"dim": 5, "field_dim": 3, "hidden": [4]}),
        ("two_tower", {"dim": 5, "field_dim": 3, "hidden": [4], "history_length": 2}),
        ("sasrec", {"dim": 4, "heads": 1}),
        ("ease", {}),
    ],
)
@pytest.mark.parametrize("user", [3, 4])
def test_fresh_events_answer_as_if_the_bundle_had_stored_them(
    user: int,
    name: str,
    parameters: dict[str, Any],
    write: Callable[..., Model],
    titled_dataset: Dataset,
    tmp_path: Path,
) -> None:
    write(tmp_path / "old", titled_dataset, name, parameters=parameters)
    later = with_events(titled_dataset.log, user, [5, 6])
    write(tmp_path / "new", titled_dataset, name, parameters=parameters, histories=later)
    old, new = twotower.load(tmp_path / "old"), twotower.load(tmp_path / "new")
    stored = new.recommend(f"u{user}", k=8, include_seen=True)
    assert found(old.recommend(f"u{user}", history=["i5", "i6"], k=8, include_seen=True)) == found(stored)
    without_seen = {answer.id for answer in old.recommend(f"u{user}", history=["i5", "i6"], k=8)}
    assert without_seen == {f"i{row}" for row in range(2, 10)} - {*SEEN[f"u{user}"], "i5", "i6"}


def test_a_log_without_a_clock_takes_them_too(
    write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path
) -> None:
    clockless = replace(titled_dataset, log=titled_dataset.log._replace(times=None))
    write(tmp_path / "bundle", clockless)
    users = asker_of(twotower.load(tmp_path / "bundle").bundle, "u4", ["i5"]).users
    assert users.history.tolist() == [[3, 8, 2, 9, 5]]
    assert users.history_times is None


def test_no_fresh_event_is_the_user_alone(retriever: Retriever) -> None:
    assert retriever.recommend("u4", history=[], k=3) == retriever.recommend("u4", k=3)
    assert answered_by(retriever.bundle, "u4", []) == "user"


def test_retired_items_among_them_are_left_aside(retriever: Retriever, caplog: pytest.LogCaptureFixture) -> None:
    assert retriever.recommend("u4", history=["gone", "i5"]) == retriever.recommend("u4", history=["i5"])
    assert "1 of 2 items are unknown here and left aside: 'gone'" in caplog.text
    assert found(retriever.recommend("u4", history=["gone"])) == found(retriever.recommend("u4"))


def test_an_unknown_user_is_answered_by_the_history(retriever: Retriever, caplog: pytest.LogCaptureFixture) -> None:
    assert retriever.recommend("newcomer", history=["i5"]) == retriever.recommend(history=["i5"])
    assert "user 'newcomer' is unknown here" in caplog.text
    assert answered_by(retriever.bundle, "newcomer", ["i5"]) == "history"
    with pytest.raises(InputError, match="unknown user 'newcomer'"):
        retriever.recommend("newcomer", history=[])
    with pytest.raises(InputError, match="unknown item 'gone'"):
        retriever.recommend("newcomer", history=["gone"])


def test_stored_features_win_over_given_ones_with_a_notice(
    retriever: Retriever, caplog: pytest.LogCaptureFixture
) -> None:
    answers = retriever.recommend("u4", history=["i5"], features={"age": 75})
    assert answers == retriever.recommend("u4", history=["i5"])
    assert "stored features are read" in caplog.text


def test_the_command_line_takes_both(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recommend", str(bundle_folder), "--user", "u4", "--history", "i5,gone", "-k", "3"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--json"])
    assert stop.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["query"] == {"user": "u4", "history": ["i5", "gone"], "k": 3}
    expected = twotower.load(bundle_folder).recommend("u4", history=["i5"], k=3)
    assert [item["id"] for item in told["items"]] == [answer.id for answer in expected]
    assert "'gone'" in told["notices"][0]
    with pytest.raises(SystemExit):
        main(words)
    shown = capsys.readouterr().out
    assert shown.index("Duel") < shown.index("Heat"), "what came since stands above what is stored"
