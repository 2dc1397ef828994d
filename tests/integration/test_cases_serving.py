"""Cases that other recommenders were reported for: what is seen, whose data it is, ids and files of any form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.identity import fingerprint
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Run
from twotower.experiment.train import train
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord, Silent

Rows = list[tuple[object, ...]]
HEADER = ("user", "item", "time")


def write_rows(path: Path, header: tuple[str, ...], rows: Rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def call(*words: object) -> tuple[int, str, str]:
    """Run the command line in this process: exit status, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code, out.getvalue(), err.getvalue()


def command(*words: object) -> str:
    """What a command prints on standard output; the test fails when it fails."""
    status, out, err = call(*words)
    assert status == 0, err
    return out


def prepared(folder: Path, name: str, rows: Rows, more: str = "", header: tuple[str, ...] = HEADER) -> Path:
    """A prepared data set of these events."""
    write_rows(folder / f"{name}.csv", header, rows)
    spec = folder / f"{name}.toml"
    log = f'name = "{name}"\n[interactions]\npath = "{name}.csv"\nuser = "user"\nitem = "item"\ntime = "time"\n'
    spec.write_text(log + more, encoding="utf-8")
    command("data", "prepare", spec, "--to", folder / name)
    return folder / name


def trained(data: Path, to: Path, model: str = "popularity", *settings: str) -> Path:
    command(
        "train", "--data", data, "--model", model, "--to", to, *(word for one in settings for word in ("--set", one))
    )
    return to


RATED = 'value = "rating"\n[label]\nat_least = 4\nkeep = "all"\n'


def rated(folder: Path) -> Path:
    """Ten users who love `hit`, one (u0) who gave it a single star, and six items a user."""
    rows: Rows = [(f"u{user}", "hit", 1, 1 if user == 0 else 5) for user in range(11)]
    rows += [(f"u{user}", f"i{(user + step) % 9}", 2 + step, 5) for user in range(11) for step in range(5)]
    return prepared(folder, "rated", rows, RATED, (*HEADER, "rating"))


def test_what_a_user_rated_badly_is_seen_and_not_recommended(tmp_path: Path) -> None:
    bundle = trained(rated(tmp_path), tmp_path / "bundle")
    answers = json.loads(command("recommend", bundle, "--user", "u0", "-k", 3, "--json"))["items"]
    assert "hit" not in [item["id"] for item in answers]
    assert "hit" in [item["id"] for item in json.loads(
        command("recommend", bundle, "--user", "u0", "-k", 3, "--include-seen", "--json"))["items"]]  # fmt: skip


def test_seen_means_the_same_in_an_evaluation_from_the_bundle_and_from_its_data(tmp_path: Path) -> None:
    data = rated(tmp_path)
    bundle = trained(data, tmp_path / "bundle", "ease")
    from_bundle = command("evaluate", bundle, "--json")
    assert from_bundle == command("evaluate", bundle, "--data", data, "--json")


def test_badly_rated_items_are_seen_but_no_history(tmp_path: Path) -> None:
    retriever = twotower.load(trained(rated(tmp_path), tmp_path / "bundle"))
    assert "hit" in [item.id for item in retriever.seen("u0")]
    row = retriever.bundle.user_vocabulary.rows(["u0"])[0]
    hit = retriever.bundle.item_vocabulary.rows(["hit"])[0]
    assert hit not in retriever.bundle.positives.seen(torch.tensor([row]))[0].tolist()
    assert hit in retriever.bundle.dataset.log.seen(torch.tensor([row]))[0].tolist()


@pytest.mark.slow
def test_popularity_on_ml_100k_masks_films_of_any_rating(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Recall and NDCG of an own script that masks what a user rated, whatever the rating."""
    ratings = shared_data("ml-100k") / "ratings.parquet"
    (tmp_path / "spec.toml").write_text(
        f'name = "ml-100k"\n[interactions]\npath = "{ratings}"\n'
        + 'user = "user_id"\nitem = "item_id"\ntime = "timestamp"\n'
        + RATED,
        encoding="utf-8",
    )
    command("data", "prepare", tmp_path / "spec.toml", "--to", tmp_path / "data")
    bundle = trained(tmp_path / "data", tmp_path / "bundle")
    metrics = json.loads(command("evaluate", bundle, "-k", 10, "--json"))["metrics"]
    assert (round(metrics["recall@10"], 4), round(metrics["ndcg@10"], 4)) == (0.0934, 0.0490)


def alike(folder: Path, name: str, letter: str) -> Path:
    """A data set whose items are named by a letter; otherwise all of them have the same events."""
    rows: Rows = [(f"u{u}", f"{letter}{(u + step) % 12}", step) for u in range(12) for step in range(6)]
    return prepared(folder, name, rows)


def test_a_model_is_not_judged_on_data_with_other_ids(tmp_path: Path) -> None:
    a, b = alike(tmp_path, "a", "a"), alike(tmp_path, "b", "b")
    bundle = trained(a, tmp_path / "bundle", "ease")
    assert call("evaluate", bundle, "--data", a, "--json")[0] == 0
    status, out, err = call("evaluate", bundle, "--data", b, "--json")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "none of its 12 items is in the bundle" in err


def test_the_same_data_prepared_again_are_the_same(tmp_path: Path) -> None:
    first = Dataset.load(alike(tmp_path, "a", "a"))
    again = Dataset.load(alike(tmp_path, "a", "a"))
    other = Dataset.load(alike(tmp_path, "b", "b"))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)
    assert fingerprint(first) != fingerprint(first.with_log(first.log._replace(items=first.log.items.flip(0))))


class Stop(Silent):
    """Stops a training after its second epoch, as Ctrl-C would."""

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        if record.epoch >= 2:
            raise KeyboardInterrupt


def stopped(data: Path, to: Path) -> Run:
    """A training that was stopped and left a checkpoint."""
    settings = ["training.epochs=3", "training.evaluate_every=0", "training.patience=0"]
    run = default_run("two_tower").with_settings([*settings, "training.checkpoint_seconds=0.0"])
    run = replace(run, data=replace(run.data, path=str(data)))
    with pytest.raises(KeyboardInterrupt):
        train(run, to=to, callbacks=[Stop()])
    return run


def test_a_training_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    run = stopped(alike(tmp_path, "a", "a"), tmp_path / "bundle")
    alike(tmp_path, "b", "b").rename(tmp_path / "kept")
    (tmp_path / "a").rename(tmp_path / "first")
    (tmp_path / "kept").rename(tmp_path / "a")
    with pytest.raises(InputError, match="made with other data"):
        train(run, to=tmp_path / "bundle", resume=True)
    (tmp_path / "a").rename(tmp_path / "kept")
    (tmp_path / "first").rename(tmp_path / "a")
    assert len(train(run, to=tmp_path / "bundle", resume=True).records) == 3


SPLITS = ['[split]\nkind = "random-ratio"\nseed = 3\n', '[split]\nkind = "last-n"\nn = 2\n']


@pytest.mark.parametrize("other", SPLITS, ids=["random-ratio", "last-n"])
def test_the_same_events_in_another_split_are_judged_as_the_model_was_trained(tmp_path: Path, other: str) -> None:
    rows: Rows = [(f"u{u}", f"i{(u + step) % 12}", step) for u in range(12) for step in range(6)]
    data, otherwise = prepared(tmp_path, "a", rows), prepared(tmp_path, "b", rows, other)
    bundle = trained(data, tmp_path / "bundle", "ease")
    own = json.loads(command("evaluate", bundle, "--data", data, "--json"))
    found = json.loads(command("evaluate", bundle, "--data", otherwise, "--json"))
    assert found["metrics"] == own["metrics"]
    assert own["notices"] == []
    (told,) = found["notices"]
    assert "is split otherwise" in told


def test_a_training_does_not_go_on_with_another_split_of_the_data(tmp_path: Path) -> None:
    run = stopped(alike(tmp_path, "a", "a"), tmp_path / "bundle")
    (tmp_path / "a").rename(tmp_path / "first")
    rows: Rows = [(f"u{u}", f"a{(u + step) % 12}", step) for u in range(12) for step in range(6)]
    prepared(tmp_path, "a", rows, SPLITS[0])
    with pytest.raises(InputError, match="made with other data"):
        train(run, to=tmp_path / "bundle", resume=True)


def test_resuming_where_nothing_was_saved_starts_from_nothing_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = default_run("two_tower").with_settings(["training.epochs=1"])
    run = replace(run, data=replace(run.data, path=str(alike(tmp_path, "a", "a"))))
    assert len(train(run, to=tmp_path / "bundle", resume=True).records) == 1
    assert "no checkpoint to resume from, so training starts from nothing" in caplog.text


def test_models_of_other_items_are_not_compared(tmp_path: Path) -> None:
    a, b = alike(tmp_path, "a", "a"), alike(tmp_path, "b", "b")
    first = trained(a, tmp_path / "first", "ease")
    same = trained(a, tmp_path / "same")
    other = trained(b, tmp_path / "other", "ease")
    assert call("compare", first, same)[0] == 0
    status, out, err = call("compare", first, other)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "number items differently: 'a0' in the one is 'b0' in the other" in err


def test_models_that_were_to_find_other_items_are_not_compared(tmp_path: Path) -> None:
    a = alike(tmp_path, "a", "a")
    last = trained(a, tmp_path / "last")
    two = trained(a, tmp_path / "two", "popularity", "data.split=last-n", "data.split_options.n=2")
    status, out, err = call("compare", last, two)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "were to find different items" in err


def test_an_id_with_a_comma_stands_in_quotes_on_the_command_line(tmp_path: Path) -> None:
    rows: Rows = [(f"u{u}", f"a,{(u + step) % 12}", step) for u in range(12) for step in range(6)]
    bundle = trained(prepared(tmp_path, "commas", rows), tmp_path / "bundle")
    told = json.loads(command("recommend", bundle, "--history", '"a,1", "a,2"', "--exclude", '"a,3"', "--json"))
    assert told["query"]["history"] == ["a,1", "a,2"]
    assert told["notices"] == []
    found = {item["id"] for item in told["items"]}
    assert len(found) == 9
    assert not {"a,1", "a,2", "a,3"} & found
