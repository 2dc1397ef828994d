"""A refresh takes in what is new, keeps what was known, and writes only what is not worse than the bundle before."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.models.names import KNOWN
from twotower.serving.bundle import Bundle
from twotower.serving.manifest import read_manifest, verify_files

Rows = list[tuple[str, str, int]]
DAY = 86_400
SMALL: dict[str, Any] = {"dim": 8, "field_dim": 8, "hidden": [16], "epochs": 2, "batch_size": 32}


def walks(users: range, items: range, start: int, *, steps: int = 8) -> Rows:
    """Users who go from item to item; the next one is easy to guess."""
    draw, rows = random.Random(users.start), []
    for user in users:
        at = draw.randrange(len(items))
        for step in range(steps):
            at = (at + draw.choice([1, 1, 2])) % len(items)
            rows.append((f"u{user}", f"i{items[at]}", start + step * DAY + draw.randrange(DAY)))
    return rows


def frames(rows: Rows, *, to: Path | None = None, title: str | None = None) -> Dataset:
    """A data set of the rows; one that nobody wants in a folder is prepared once for all tests."""
    return prepared(tuple(rows), to, title) if to is None else prepared.__wrapped__(tuple(rows), to, title)


@functools.cache
def prepared(rows: tuple[tuple[str, str, int], ...], to: Path | None, title: str | None) -> Dataset:
    user, item, time = zip(*rows, strict=True)
    names = sorted(set(item))
    table = {"id": names, "color": [f"c{int(n[1:]) // 10}" for n in names], "title": [f"film {n}" for n in names]}
    events = {"user": user, "item": item, "time": time}
    kinds = {"color": "categorical", "title": title}
    return Dataset.from_frames(events, items=table, features=kinds, unit="s", name="log", to=to)


def first_week() -> Rows:
    return walks(range(40), range(30), 1_000_000)


def second_week() -> Rows:
    """Users 20 to 49 on items 5 to 34: some left, some are new."""
    return walks(range(20, 50), range(5, 35), 1_000_000 + 9 * DAY)


def trained(to: Path, model: str = "two_tower", **settings: Any) -> Path:
    twotower.train(model, frames(first_week()), to=to, **(SMALL if model == "two_tower" else {}) | settings)
    return to


CLOSED = ("popularity", "cluster_popularity", "item_cosine", "ease", "sparse_ease", "item_lists", "random")


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_new_users_and_items_are_known_afterwards_and_the_old_ones_stay(tmp_path: Path) -> None:
    folder = trained(tmp_path / "bundle")
    before = Bundle.load(folder)
    ids = before.item_vocabulary.ids(before.item_ids.tolist())
    done = twotower.refresh(folder, frames(second_week()), to=tmp_path / "today", epochs=6)
    assert done.written == tmp_path / "today"
    assert (done.users, done.items) == (10, 5)
    after = Bundle.load(tmp_path / "today")
    assert after.item_vocabulary.ids(before.item_ids.tolist()) == ids
    assert after.dataset.log.num_events == len(first_week()) + len(second_week())
    retriever = twotower.load(tmp_path / "today")
    assert {f"i{n}" for n in range(30, 35)} & {a.id for u in range(20, 50) for a in retriever.recommend(f"u{u}", k=5)}
    assert len(retriever.recommend("u49", k=3)) == 3
    assert retriever.items(["i34", "i2"])[0].columns["title"] == "film i34"


def test_users_and_items_that_vanish_from_the_newer_data_stay(tmp_path: Path) -> None:
    folder = trained(tmp_path / "bundle", "item_cosine")
    seen = [record.id for record in twotower.load(folder).seen("u1")]
    twotower.refresh(folder, frames(second_week()))
    retriever = twotower.load(folder)
    assert [record.id for record in retriever.seen("u1")] == seen
    assert retriever.items(["i0"])[0].columns["title"] == "film i0"
    assert len(retriever.bundle.item_ids) == 35


@pytest.mark.parametrize("settings", [{"user_id": True}, {"history_table": True}])
def test_known_rows_keep_their_vectors_where_no_epoch_is_better(
    tmp_path: Path, settings: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained(tmp_path / "bundle", epochs=15, **settings)
    before = Bundle.load(folder)
    done = twotower.refresh(folder, frames(second_week()), to=tmp_path / "today", epochs=1, learning_rate=1000.0)
    assert done.epochs == 0
    assert "no epoch was better on validation than the weights that it began from" in caplog.text
    after = Bundle.load(tmp_path / "today").model.state_dict()
    for name, old in before.model.state_dict().items():
        kept = after[name][: len(old)] if old.ndim else after[name]
        if name.endswith("_table.weight"):
            kept, old = kept[2:], old[2:]  # the unknown row is the mean of what has learnt
        assert torch.equal(kept, old), name


def test_the_verdict_is_what_evaluate_says_of_both_bundles(tmp_path: Path) -> None:
    """The new bundle's own split is that of the verdict: nothing that it learnt is in its test."""
    folder = trained(tmp_path / "bundle", "sasrec", dim=8, epochs=2)
    done = twotower.refresh(folder, frames(second_week()), to=tmp_path / "today", epochs=2)
    result = twotower.evaluate(tmp_path / "today")
    assert result.metrics["ndcg@10"] == pytest.approx(done.verdict.new)
    assert len(result.users) == done.verdict.users
    assert Bundle.load(tmp_path / "today").manifest["refresh"]["from"] == read_manifest(folder)["digest"]


def test_it_says_how_much_of_the_old_log_the_new_one_holds_and_refuses_one_that_contradicts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path / "bundle", "popularity")
    before = (folder / "manifest.json").read_bytes()
    other = [(user, item, time + 3600 + 4 * DAY) for user, item, time in walks(range(40), range(30), 1_000_000)]
    frames(other, to=tmp_path / "other")
    assert call("refresh", folder, "--data", tmp_path / "other") == 2
    assert "this is another log with the same ids, or one with other times" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before
    frames([*first_week()[:9], *second_week()], to=tmp_path / "week")
    assert call("refresh", folder, "--data", tmp_path / "week", "--json") == 0
    known = json.loads(capsys.readouterr().out)["known"]
    assert known == {"users": [22, 40], "items": [28, 30], "events": [9, 320]}
    assert read_manifest(folder)["refresh"]["known"] == known


def test_the_same_week_twice_is_nothing_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = trained(tmp_path / "bundle", "popularity")
    twotower.refresh(folder, frames([*first_week()[:9], *second_week()]))
    assert "9 of its" in caplog.text
    assert Bundle.load(folder).dataset.log.num_events == len(first_week()) + len(second_week())
    with pytest.raises(InputError, match="nothing to take in"):
        twotower.refresh(folder, frames(second_week()))


def test_a_closed_form_learns_all_in_the_end_and_only_a_later_log_judges_it(tmp_path: Path) -> None:
    folder = trained(tmp_path / "bundle", "popularity")
    twotower.refresh(folder, frames(second_week()))
    bundle = Bundle.load(folder)
    counts = bundle.dataset.log.items.bincount(minlength=bundle.schema.num_items)
    assert torch.equal(bundle.model.state_dict()["counts"].long(), counts)
    with pytest.raises(InputError, match="judge it on a later log"):
        twotower.evaluate(folder)
    third = walks(range(10, 55), range(36), 1_000_000 + 18 * DAY)
    assert len(twotower.evaluate(folder, frames(third)).users) == 45
    done = twotower.refresh(folder, frames(third))
    assert (done.users, done.items, done.events) == (5, 1, len(third))


def test_the_card_tells_of_the_refresh_and_its_split(tmp_path: Path) -> None:
    folder = trained(tmp_path / "bundle", "popularity")
    done = twotower.refresh(folder, frames(second_week()))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Trained on from an earlier bundle with what was new: 240 events, 10 users, 5 items" in card
    assert f"| ndcg@10 | {done.verdict.old:.4f} | {done.verdict.new:.4f} |" in card
    assert "| split | global-time |" in card
    assert f"| events | {len(first_week()) + len(second_week())} |" in card


def misleading() -> Rows:
    """Everybody turns to new items at first, and back to the old favourites on the last day."""
    turned = [(f"u{u}", f"i{60 + step}", 2_000_000 + step * DAY + u) for u in range(120) for step in range(6)]
    back = [(f"v{u}", f"i{step}", 2_000_000 + 7 * DAY + 60 * u + step) for u in range(90) for step in range(3)]
    return [*turned, *back]


def favourites() -> Rows:
    return [(f"u{u}", f"i{step}", 1_000_000 + step * DAY + u) for u in range(40) for step in range(5)] + [
        (f"u{u}", f"i{10 + u % 20}", 1_000_000 + 6 * DAY + u) for u in range(40)
    ]


def test_a_worse_model_is_not_written_and_the_exit_status_is_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    twotower.train("popularity", frames(favourites()), to=folder, ks=(1, 3, 10), mask_seen=False)
    frames(misleading(), to=tmp_path / "week")
    before = (folder / "manifest.json").read_bytes()
    options = ("refresh", folder, "--data", tmp_path / "week", "--set", "training.metric=ndcg@3")
    assert call(*options) == 3
    assert "worse: ndcg@3 is lower" in capsys.readouterr().out
    assert call(*options, "--to", tmp_path / "today", "--json") == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["written"], said["verdict"]["worse"]) == (None, True)
    assert said["added"] == {"events": 990, "users": 170, "items": 6}
    assert said["verdict"]["new"] < said["verdict"]["old"]
    assert (folder / "manifest.json").read_bytes() == before
    assert not (tmp_path / "today").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.run", "week"]


KILLED = """
import os, signal, sys
import twotower.serving.contents as contents
from twotower.experiment.refresh import refresh
contents.save_model = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
refresh(sys.argv[1], sys.argv[2])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_while_it_writes_it_leaves_the_old_bundle_and_can_be_started_again(tmp_path: Path) -> None:
    folder = trained(tmp_path / "bundle", "item_cosine")
    frames(second_week(), to=tmp_path / "week")
    before = (folder / "manifest.json").read_bytes()
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(tmp_path / "week")], check=False)
    assert ended.returncode == -9
    assert (folder / "manifest.json").read_bytes() == before
    verify_files(folder, read_manifest(folder))
    assert twotower.load(folder).recommend("u1", k=1)
    assert call("refresh", folder, "--data", tmp_path / "week") == 0
    assert twotower.load(folder).recommend("u49", k=1)


def test_ctrl_c_leaves_the_bundle_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path / "bundle", "popularity")
    frames(second_week(), to=tmp_path / "week")
    before = (folder / "manifest.json").read_bytes()

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("twotower.experiment.refresh.check_items", stopped)
    assert call("refresh", folder, "--data", tmp_path / "week") == 130
    assert "bundle stays as it is" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.bad_input
def test_other_data_earlier_events_and_other_models_are_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "bundle", "popularity")
    others = [(user, f"i{int(item[1:]) + 500}", time + 20 * DAY) for user, item, time in second_week()]
    early = [(user, item, 1_000 + time % DAY) for user, item, time in second_week()]
    with pytest.raises(InputError, match="none of its 30 items is in the bundle"):
        twotower.refresh(folder, frames(others))
    with pytest.raises(InputError, match="none of its events is later"):
        twotower.refresh(folder, frames(early))
    with pytest.raises(InputError, match="keeps the model's settings"):
        twotower.refresh(folder, frames(second_week()), split="leave-one-out")
    assert call("refresh", folder, "--data", tmp_path / "missing") == 2


@pytest.mark.bad_input
def test_a_pre_ranker_says_why_it_is_not_refreshed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twotower.train("cold", frames(first_week()), to=tmp_path / "bundle", epochs=1)
    frames(second_week(), to=tmp_path / "week")
    capsys.readouterr()
    assert call("refresh", tmp_path / "bundle", "--data", tmp_path / "week") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "orders labelled pairs" in said


LISTS = {"split": "leave-one-out", "split_options": {}, "loss": "sampled_softmax", "metric": "ndcg@10"}
"""Of a pre-ranker that is trained to find items."""
MODELS: dict[str, dict[str, Any]] = {
    "sparcode": {"codebook": 4},
    "tdm": {"sampler": "in_batch"},
    "all_to_all": {"sampler": "in_batch"},
    "dat": LISTS,
    "int_tower": {**LISTS, "dim": 16, "hidden": [6, 5], "user_heads": 4, "item_heads": 2},
    "rank_tower": {**LISTS, "dim": 12, "hidden": [6, 5]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [*sorted(KNOWN.keys() - {"cold", "fit", "all_to_all"}), pytest.param("all_to_all", marks=pytest.mark.long)],
)
def test_every_model_that_finds_items_can_be_refreshed(name: str, tmp_path: Path) -> None:
    epochs = {} if name in CLOSED else {"epochs": 1}
    old, new = (frames(rows, title="text") for rows in (first_week(), second_week()))
    twotower.train(name, old, to=tmp_path / "bundle", **epochs, **MODELS.get(name, {}))
    done = twotower.refresh(tmp_path / "bundle", new, to=tmp_path / "today", **epochs)
    assert done.written is not None, done.verdict.reasons
    retriever = twotower.load(tmp_path / "today")
    assert len(retriever.bundle.item_ids) == 35
    assert retriever.recommend("u49", k=3)


def test_the_index_of_the_bundle_is_built_again_over_the_new_items(tmp_path: Path) -> None:
    folder = trained(tmp_path / "bundle")
    assert call("index", folder, "--kind", "hnsw", "--set", "ef_search=40") == 0
    twotower.refresh(folder, frames(second_week()), epochs=1)
    after = Bundle.load(folder)
    assert after.manifest["index"] == "hnsw"
    assert after.index is not None
    assert after.index.settings["ef_search"] == 40
    found = after.index.search(after.item_states[-1:], 5)
    assert int(after.item_ids[-1]) in found.ids[0].tolist()


def test_a_feature_with_new_values_grows_and_changed_features_of_known_items_count(tmp_path: Path) -> None:
    folder = trained(tmp_path / "bundle")
    size = Bundle.load(folder).schema.item_features[0].size
    twotower.refresh(folder, frames(second_week()), epochs=1)
    after = Bundle.load(folder)
    assert after.schema.item_features[0].size == size + 1  # c3, of items 30 to 34
    rows = after.item_vocabulary.known(["i3", "i31"])
    column = after.dataset.item_features["color"]
    assert int(column[rows["i31"]]) == size
    assert int(column[rows["i3"]]) not in (0, 1, size)
