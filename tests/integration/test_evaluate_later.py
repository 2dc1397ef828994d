"""A bundle judged on the next week's log: what it does not know is a miss and is counted, new users are answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import twotower
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.next_log import later
from twotower.serving.bundle import Bundle
from twotower.serving.joined import join_data, join_logs
from twotower.serving.vocabulary import Vocabulary

Rows = list[tuple[str, str, int]]
DAY = 86_400


def frames(rows: Rows, **more: Any) -> Dataset:
    user, item, time = zip(*rows, strict=True)
    return Dataset.from_frames({"user": user, "item": item, "time": time}, unit="s", name="log", **more)


def first_week() -> Rows:
    return [(f"u{u}", f"i{(u + step) % 10}", 1_000_000 + step * DAY + u) for u in range(20) for step in range(6)]


def trained(to: Path, model: str = "item_cosine", **settings: Any) -> Path:
    twotower.train(model, frames(first_week()), to=to, **settings)
    return to


NEXT: Rows = [
    ("u3", "i9", 9_000_000),
    ("u3", "fresh", 9_000_001),
    ("new", "i1", 9_000_000),
    ("new", "i2", 9_000_001),
    ("new", "i3", 9_000_002),
    ("new", "i4", 9_000_003),
    ("once", "i5", 9_000_000),
    ("odd", "fresh", 9_000_000),
    ("odd", "other", 9_000_001),
]


def test_events_of_unknown_items_are_misses_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = trained(tmp_path / "bundle")
    result = twotower.evaluate(bundle, frames(NEXT), ks=(1, 10))
    assert result.num_items == 10
    assert (result.truths, result.unreachable_truths) == (4, 1)
    assert "3 of 9 new events are of 2 items that the bundle does not know" in caplog.text
    assert result.per_user["recall@10"].tolist() == [0.5, 1.0]  # i9 found and fresh missed; i3 and i4 found


def test_a_later_log_of_the_same_users_and_items_is_a_later_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = trained(tmp_path / "bundle")
    second = [(user, f"i{(int(item[1:]) + 6) % 10}", time + 30 * DAY) for user, item, time in first_week()]
    result = twotower.evaluate(bundle, frames(second), ks=(10,))
    assert result.truths == len(second), "all of its events are new, not each user's last one alone"
    assert "holds other events than" in caplog.text
    assert "is judged as a later log" in caplog.text
    caplog.clear()
    assert twotower.evaluate(bundle, frames(first_week()), ks=(10,)).truths == 20
    assert "later log" not in caplog.text


def test_new_users_are_answered_from_the_first_half_of_their_events(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.load(trained(tmp_path / "bundle"))
    asked = later(bundle, frames(NEXT))
    names = {name: int(row) for row, name in enumerate(["i1", "i2", "i3", "i4"])}
    row = {name: bundle.item_vocabulary.known([name])[name] for name in names}
    new = int(asked.targets.users()[-1])
    assert new >= bundle.schema.num_users
    assert asked.targets.history.seen(torch.tensor([new])).tolist() == [[row["i1"], row["i2"]]]
    assert asked.targets.truth.seen(torch.tensor([new])).tolist() == [[row["i3"], row["i4"]]]
    assert "1 of 4 users are new: answered from the first half of their events" in caplog.text
    assert "2 users have done nothing before that the bundle knows: they are left out" in caplog.text


@pytest.mark.parametrize("settings", [{"user_id": True}, {"user_id": False}])
def test_a_new_user_gets_what_the_service_answers_to_the_same_history(
    tmp_path: Path, settings: dict[str, bool]
) -> None:
    folder = trained(tmp_path / "bundle", "two_tower", epochs=1, dim=8, field_dim=8, hidden=[8], **settings)
    retriever = twotower.load(folder)
    asked = later(Bundle.load(folder), frames(NEXT))
    result = asked.judge((1, 2, 3, 4, 5, 6, 7, 8), mask_seen=True)
    answers = [answer.id for answer in retriever.recommend(history=["i1", "i2"], k=8)]
    for k in range(1, 9):
        assert result.per_user[f"recall@{k}"][-1] == len({"i3", "i4"} & set(answers[:k])) / 2


def test_known_users_keep_their_rows_and_events_whatever_the_new_numbering(tmp_path: Path) -> None:
    bundle = Bundle.load(trained(tmp_path / "bundle"))
    joined = join_data(bundle, frames([*NEXT, *first_week()[:3]]))
    before, after = bundle.dataset.log, joined.dataset.log
    assert joined.repeats == 3
    assert (joined.new_users, joined.new_items) == (3, 2)
    kept = after.select(~joined.fresh)
    assert torch.equal(kept.items, before.items)
    assert torch.equal(kept.offsets[: bundle.schema.num_users + 1], before.offsets)
    for user in after.users().unique().tolist():
        times = after.times[after.offsets[user] : after.offsets[user + 1]] if after.times is not None else None
        assert times is not None
        assert (times.diff() >= 0).all()


def test_newer_features_count_and_what_is_not_told_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = sorted({user for user, _, _ in first_week()})
    before = {"id": ids, "age": [20.0 + n for n in range(20)], "city": [f"city {n % 3}" for n in range(20)]}
    after = {"id": ["u3", "u4", "new"], "age": [70.0, None, 30.0], "city": [None, "city 9", "city 1"]}
    kinds = {"age": "numeric", "city": "categorical"}
    twotower.train("item_cosine", frames(first_week(), users=before, features=kinds), to=tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    newer = [*NEXT, ("u4", "i1", 9_000_000)]
    joined = join_data(bundle, frames(newer, users=after, features=kinds))
    old, new = bundle.dataset.user_features, joined.dataset.user_features
    row = {**bundle.user_vocabulary.known(["u3", "u4"]), "new": bundle.schema.num_users}
    vocabulary = Vocabulary(joined.dataset.folder / "vocabulary" / "users.parquet", "user")  # type: ignore[operator]
    assert vocabulary.known(["u3", "u4"]) == {name: row[name] for name in ("u3", "u4")}
    row["new"] = vocabulary.known(["new"])["new"]
    assert new["age"][[row["u3"], row["new"]]].tolist() == [70.0, 30.0]
    assert new["age"][row["u4"]] == old["age"][row["u4"]]
    assert new["city"][row["u3"]] == old["city"][row["u3"]]
    size = bundle.schema.user_features[1].size
    assert (int(new["city"][row["u4"]]), joined.dataset.schema.user_features[1].size) == (size, size + 1)
    value = {
        int(old["city"][bundle.user_vocabulary.known([name])[name]])
        for name in ids
        if before["city"][ids.index(name)] == "city 1"
    }
    assert {int(new["city"][row["new"]])} == value
    lacking = join_data(bundle, frames(newer))
    assert "has no user feature 'age': it stays as it was" in caplog.text
    assert torch.equal(lacking.dataset.user_features["age"][2 : len(old["age"])], old["age"][2:])


def test_labels_of_one_log_make_the_events_of_the_other_positives() -> None:
    old = Log(torch.tensor([0, 0, 0, 1]), torch.tensor([5]), torch.tensor([10]))
    new = Log(torch.tensor([0, 0, 0, 1]), torch.tensor([6]), torch.tensor([9]), torch.tensor([0.0]))
    both, fresh, _ = join_logs(old, new, 3)
    assert both.labels is not None
    assert both.labels.tolist() == [0.0, 1.0]
    assert fresh.tolist() == [True, False]


@pytest.mark.bad_input
def test_other_data_and_nothing_new_are_refused(tmp_path: Path) -> None:
    bundle = trained(tmp_path / "bundle")
    with pytest.raises(InputError, match="none of its 2 items is in the bundle"):
        twotower.evaluate(bundle, frames([("u1", "x", 1), ("u1", "y", 2), ("u2", "x", 3)]))
    with pytest.raises(InputError, match=r"all of its events are in .* already"):
        twotower.evaluate(bundle, frames(first_week()[:7]))
    with pytest.raises(InputError, match="has no validation part"):
        twotower.evaluate(bundle, frames(NEXT), split="validation")


@pytest.mark.bad_input
def test_the_same_numbers_with_other_titles_are_another_data_set(tmp_path: Path) -> None:
    rows = [(f"u{u}", str(1 + (u + step) % 9), 1_000_000 + step) for u in range(12) for step in range(5)]
    titles = {"id": [str(n) for n in range(1, 10)], "title": [f"film {n}" for n in range(1, 10)]}
    others = {"id": titles["id"], "title": [f"song {n}" for n in range(1, 10)]}
    twotower.train("popularity", frames(rows, items=titles), to=tmp_path / "bundle")
    with pytest.raises(InputError, match="item '1' is 'film 1' in the bundle and 'song 1' there"):
        twotower.evaluate(tmp_path / "bundle", frames([("u1", "9", 2_000_000), ("u2", "1", 2_000_000)], items=others))


def test_the_command_line_says_what_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from twotower.cli.main import main

    folder = trained(tmp_path / "bundle")
    user, item, time = zip(*NEXT, strict=True)
    Dataset.from_frames({"user": user, "item": item, "time": time}, unit="s", to=tmp_path / "next")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(folder), "--data", str(tmp_path / "next"), "--json"])
    assert stop.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["users"] == 2
    assert any("does not know" in notice for notice in said["notices"])


def test_bundles_are_compared_on_a_later_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = trained(tmp_path / "first"), trained(tmp_path / "second", "popularity")
    found = twotower.compare({"first": first, "second": second}, ["recall@10"], data=frames(NEXT))
    alone = [twotower.evaluate(bundle, frames(NEXT)).metrics["recall@10"] for bundle in (first, second)]
    assert [row.mean for row in found.rows] == alone
    assert found.users == 2, "u3 and new; 'once' and 'odd' cannot be asked"
    assert all(row.corrected is not None for row in found.rows if row.model != found.reference)


def test_a_model_that_is_judged_already_is_not_judged_on_other_data(tmp_path: Path) -> None:
    bundle = trained(tmp_path / "bundle")
    with pytest.raises(InputError, match="'old' is judged already"):
        twotower.compare({"old": twotower.evaluate(bundle), "new": bundle}, data=frames(NEXT))


def test_without_times_nothing_is_later_and_it_is_said_what_to_do(tmp_path: Path) -> None:
    columns = {"user": [f"u{row % 5}" for row in range(20)], "item": [f"i{row % 7}" for row in range(20)]}
    with pytest.raises(InputError, match="have no times, .*; prepare both logs with a time column"):
        twotower.evaluate(trained(tmp_path / "bundle"), Dataset.from_frames(columns))
