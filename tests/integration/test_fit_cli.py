"""``twotower fit`` as a user runs it: one command from a log to a bundle and a page, and bad input."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
import signal
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.lock import writing_alone
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.experiment.ladder import climb, rungs
from twotower.experiment.ladder import fit as fit_module
from twotower.experiment.ladder.climb import LADDER, STANDS_IN
from twotower.experiment.ladder.pick import Choice
from twotower.experiment.ladder.rungs import METRIC
from twotower.experiment.recipes import default_run
from twotower.index.registry import index_class
from twotower.models.baselines import ease
from twotower.training.callbacks import Silent

USERS, ITEMS = 40, 24
TITLES = [f"Tale {number} <b>&</b>" for number in range(ITEMS)]


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run_cli(*words: str | Path) -> Done:
    """The command line in this process: a fresh one would import torch again each time."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return Done(int(ended.value.code or 0), out.getvalue(), errors.getvalue())


def refused(*words: str | Path) -> str:
    """Exit status 2 and one line of error, the last one; nothing on standard output."""
    done = run_cli(*words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.strip().endswith(lines[0])
    return lines[0]


def events() -> list[tuple[int, int, int, int]]:
    """Users walk through the items of their taste in order, so that there is something to learn."""
    draw = random.Random(5)
    rows = []
    for user in range(USERS):
        at = draw.randrange(ITEMS // 2)
        for place in range(draw.randint(5, 9)):
            item = 2 * ((at + place) % (ITEMS // 2)) + user % 2
            rows.append((user, 500 + item, draw.randint(1, 5), 1_600_000_000 + 86_400 * place + user))
    draw.shuffle(rows)
    return rows


def written(path: Path, rows: list[tuple[object, ...]], header: str = "user_id,item_id,rating,timestamp") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture(scope="module")
def fit_folder(tmp_path_factory) -> Path:
    """A log, a table of items, and what a whole fit leaves of them: ``bundle`` and ``bundle.run``."""
    folder = tmp_path_factory.mktemp("fit")
    written(folder / "log.csv", events())
    written(
        folder / "films.csv", [(500 + item, TITLES[item], 1990 + item % 5) for item in range(ITEMS)], "id,title,year"
    )
    words = ("fit", folder / "log.csv", "--items", folder / "films.csv", "--budget", "2m", "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rungs, "default_run", lambda name: default_run(name).with_settings(["training.epochs=5"]))
        done = run_cli(*words, "--to", folder / "bundle")
    assert done.returncode == 0, done.stderr
    (folder / "answer.json").write_text(done.stdout)
    (folder / "said.txt").write_text(done.stderr)
    return folder


@pytest.fixture
def log(tmp_path) -> Path:
    return written(tmp_path / "log.csv", events())


@pytest.fixture
def closed(monkeypatch) -> None:
    """A ladder of closed forms alone, which takes no time."""
    monkeypatch.setattr(climb, "LADDER", ("popularity", "item_cosine", "ease"))
    monkeypatch.setattr(climb, "VARIANTS", {})


def test_every_model_of_the_ladder_is_judged_and_one_is_taken(fit_folder):
    answer = json.loads((fit_folder / "answer.json").read_text())
    models = {entry["model"]: entry for entry in answer["models"]}
    assert [name for name in models if name in LADDER] == [name for name in LADDER if name not in STANDS_IN]
    assert all(entry["validation"] is not None for entry in models.values())
    assert models[answer["model"]]["validation"] > models["popularity"]["validation"]
    assert any(" " in name for name in models), "no variant was tried"
    assert answer["last_fit"] == "all events"
    assert not answer["stopped"]


def test_the_guess_is_printed_and_saved_as_a_spec_that_prepare_takes(fit_folder, tmp_path):
    saved = fit_folder / "bundle.run" / "data.toml"
    text = saved.read_text()
    assert text.strip() in (fit_folder / "said.txt").read_text()
    assert tomllib.loads(text)["items"]["title"] == "title"
    folder = prepare(Spec.from_toml(saved), tmp_path / "prepared")
    ours = json.loads((fit_folder / "bundle.run" / "data" / "manifest.json").read_text())
    assert json.loads((folder / "manifest.json").read_text())["counts"] == ours["counts"]


def test_the_bundle_answers_and_has_learnt_every_event(fit_folder):
    done = run_cli("recommend", fit_folder / "bundle", "--user", "3", "-k", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert all(answer["title"] in TITLES for answer in json.loads(done.stdout)["items"])
    counts = np.load(fit_folder / "bundle" / "items" / "events.npy")
    assert counts.sum() == twotower.load(fit_folder / "bundle").bundle.positives.num_events
    error = refused("evaluate", fit_folder / "bundle")
    assert "its model has learnt from all events" in error
    assert str(fit_folder / "bundle.run" / "models") in error
    assert run_cli("evaluate", fit_folder / "bundle.run" / "models" / "ease").returncode == 0


def test_the_page_shows_all_that_the_issue_asks_for_and_runs_nothing(fit_folder):
    page = (fit_folder / "bundle.run" / "report.html").read_text()
    for part in ("Leaderboard", "Curves", "Ten users", "Item vectors", "Data", "What to do next"):
        assert f"<h2>{part}</h2>" in page
    for model in set(LADDER) - set(STANDS_IN):
        assert f'<th scope="row">{model}</th>' in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page), "the page asks for something outside of it"
    assert "<b>&</b>" not in page
    assert "Tale 3 &lt;b&gt;&amp;&lt;/b&gt; (503)" in page
    assert page.count("<svg") >= 4
    assert "@media (prefers-color-scheme: dark)" in page
    assert "data-theme" not in page
    users = page.partition("<h2>Ten users</h2>")[2].partition("</section>")[0]
    assert users.count('<tr><th scope="row">') == 10


def test_a_fit_again_from_the_saved_spec_chooses_the_same(fit_folder, closed, tmp_path):
    spec = fit_folder / "bundle.run" / "data.toml"
    one, other = (
        json.loads(run_cli("fit", "--spec", spec, "--to", tmp_path / name, "--budget", "1m", "--json").stdout)
        for name in ("one", "other")
    )
    assert one["model"] == other["model"]
    assert [m["validation"] for m in one["models"]] == [m["validation"] for m in other["models"]]


def test_the_test_split_chooses_nothing(log, closed, tmp_path, monkeypatch):
    before = twotower.fit(log, to=tmp_path / "before", budget="1m")

    def spoilt(name, to, run, dataset, split, true=rungs.stored):
        rung = true(name, to, run, dataset, split)
        assert rung.test is not None
        rung.test.metrics["ndcg@10"] = 1.0 if name == "popularity" else 0.0
        return rung

    monkeypatch.setattr(climb, "stored", spoilt)
    after = twotower.fit(log, to=tmp_path / "before", budget="1m", resume=True)
    assert after.rungs[0].test.metrics["ndcg@10"] == 1.0
    assert after.choice == before.choice


def test_what_is_chosen_by_has_not_seen_validation_and_test(log, closed, tmp_path):
    fitted = twotower.fit(log, to=tmp_path / "bundle", budget="9s")
    split = fitted.split
    assert split.train.num_events == len(events()) - 2 * USERS
    assert split.validation.truth.num_events == split.test.truth.num_events == USERS
    for row in range(2, USERS + 2):
        times = [
            part.times[part.offsets[row] : part.offsets[row + 1]] for part in (split.train, split.validation.truth)
        ]
        assert times[0].max() < times[1].min()


def test_a_log_of_users_who_come_back_is_cut_at_one_moment_and_the_spec_says_so(closed, tmp_path):
    rows = [
        (user, 500 + (user + day) % 20, 5, 1_600_000_000 + 86_400 * day + user)
        for user in range(1100)
        for day in range(10)
    ]
    log = written(tmp_path / "log.csv", rows)
    fitted = twotower.fit(log, to=tmp_path / "bundle", budget="30s")
    assert tomllib.loads(fitted.spec.read_text())["split"] == {"kind": "global-time"}
    assert fitted.split.train.times.max() < fitted.split.validation.truth.times.min()
    assert fitted.split.validation.truth.times.max() < fitted.split.test.truth.times.min()
    assert fitted.choice.name != "popularity"
    saved = fitted.spec.read_text()
    again = twotower.fit(log, to=tmp_path / "bundle", budget="30s", resume=True)
    assert (again.choice, again.spec.read_text()) == (fitted.choice, saved)


def test_a_data_frame_is_fitted_as_its_file(closed, tmp_path, log):
    frame = pd.read_csv(log)
    fitted = twotower.fit(frame, to=tmp_path / "frame", budget=60)
    from_file = twotower.fit(log, to=tmp_path / "file", budget=60)
    assert fitted.choice.p_values == from_file.choice.p_values
    assert (tmp_path / "frame.run" / "raw" / "events.parquet").is_file()


def test_the_last_fit_counts_the_events_that_were_held_out(log, tmp_path, monkeypatch):
    monkeypatch.setattr(climb, "LADDER", ("popularity",))
    fitted = twotower.fit(log, to=tmp_path / "bundle", budget="9s")
    counted = [
        float(load_file(folder / "weights.safetensors")["counts"].sum())
        for folder in (fitted.winner.bundle, fitted.bundle)
    ]
    assert counted == [len(events()) - 2 * USERS, len(events())]


def test_a_budget_that_trains_nothing_still_answers_by_closed_forms(log, tmp_path):
    done = run_cli("fit", log, "--budget", "1s", "--to", tmp_path / "bundle", "--json")
    answer = json.loads(done.stdout)
    left_out = {m["model"]: m["left_out"] for m in answer["models"] if m["left_out"]}
    assert left_out == dict.fromkeys(
        ("two_tower", "sasrec"), "the budget leaves no time to train it; raise --budget"
    ) | {"mixture": "the budget leaves no time to mix; raise --budget"}
    assert run_cli("recommend", tmp_path / "bundle", "--user", "3").returncode == 0


def test_a_log_without_a_clock_leaves_sequence_models_out(tmp_path, monkeypatch):
    monkeypatch.setattr(climb, "LADDER", ("popularity", "ease", "sasrec"))
    log = written(tmp_path / "log.csv", [row[:2] for row in events()], "user_id,item_id")
    done = run_cli("fit", log, "--budget", "1m", "--to", tmp_path / "bundle")
    assert done.returncode == 0
    assert "a user's events are a set" in done.stderr
    assert "sasrec: left out: it learns from order, and the log has none" in done.stderr


def test_a_clock_that_never_moves_is_no_clock(closed, tmp_path):
    log = written(tmp_path / "log.csv", [(*row[:3], 1_600_000_000) for row in events()])
    done = run_cli("fit", log, "--budget", "9s", "--to", tmp_path / "bundle")
    assert done.returncode == 0
    assert "all events have one time in 'timestamp', so it tells no order and is left out" in done.stderr
    assert "clock</th><td>none" in (tmp_path / "bundle.run" / "report.html").read_text()


def test_a_variant_is_tried_unless_it_is_the_default_and_a_faulty_one_costs_nothing(log, closed, tmp_path, monkeypatch):
    tried = (("model.neighbours=100",), ("model.neighbours=3",), ("model.neighbors=3",))
    monkeypatch.setattr(climb, "VARIANTS", {"item_cosine": tried})
    fitted = twotower.fit(log, to=tmp_path / "bundle", budget="1m")
    rungs = {rung.name: rung.left_out for rung in fitted.rungs}
    lists = ["item_cosine", "item_cosine neighbours=3", "item_cosine neighbors=3"]
    assert list(rungs)[:-1] == ["popularity", *lists, "ease"]
    assert list(rungs)[-1].startswith("mixture of ")
    assert "did you mean 'model.neighbours'?" in rungs["item_cosine neighbors=3"]
    assert not rungs["item_cosine neighbours=3"]


def test_the_best_is_mixed_with_another_and_the_mixture_is_a_bundle_like_any_other(log, closed, tmp_path, monkeypatch):
    monkeypatch.setattr(climb, "LADDER", ("popularity", "item_cosine", "two_tower"))
    monkeypatch.setattr(climb, "VARIANTS", {})
    monkeypatch.setattr(fit_module, "pick", lambda judged, metric: Choice(list(judged)[-1], list(judged)[-1], {}, ""))
    fitted = twotower.fit(log, to=tmp_path / "bundle", budget="1m")
    mixture = fitted.rungs[-1]
    figures = {rung.name: rung.validation.metrics[METRIC] for rung in fitted.rungs[:-1]}
    assert mixture.parts[0].name == max(figures, key=lambda name: figures[name])
    assert mixture.name == f"mixture of {mixture.parts[0].name} and {mixture.parts[1].name}"
    assert fitted.winner is mixture
    assert fitted.last_fit == "all events"
    for bundle in (tmp_path / "bundle", mixture.bundle):
        done = run_cli("recommend", bundle, "--user", "3", "-k", "4", "--json")
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["items"]) == 4
    done = run_cli("evaluate", mixture.bundle, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"][METRIC] == pytest.approx(mixture.test.metrics[METRIC])
    kept, last = (twotower.load(bundle).bundle for bundle in (mixture.bundle, tmp_path / "bundle"))
    assert kept.manifest["model"]["parameters"] == last.manifest["model"]["parameters"]
    assert kept.manifest["model"]["parameters"]["weight"] > 0
    again = twotower.fit(log, to=tmp_path / "bundle", budget="1m", resume=True)
    assert again.rungs[-1].validation.metrics == mixture.validation.metrics


def test_repeats_are_answered_where_they_are_usual(closed, tmp_path):
    rows = [(user, 500 + (user + place % 2) % ITEMS, 5, 100 + place) for user in range(USERS) for place in range(8)]
    log = written(tmp_path / "log.csv", rows)
    done = run_cli("fit", log, "--unit", "s", "--budget", "9s", "--to", tmp_path / "bundle", "--json")
    assert "100% of the next items were seen before" in done.stderr
    assert json.loads(done.stdout)["mask_seen"] is False
    assert "--leave-out-seen" in (tmp_path / "bundle.run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(64), "a.png: is a PNG picture"),
        ("b.json", b'{"rows": [{"user": 1, "item": 2}]}', "b.json: is one JSON document, not JSON lines"),
        (
            "c.csv",
            b"item_id,title,year\n1,Heat,1995\n2,Duel,1971\n",
            "if this is a table of items, it goes with --items",
        ),
        (
            "d.csv",
            b"user,item,time\n" + b"".join(b"%d,%d,%d\n" % (n, n % 5, n) for n in range(50)),
            "a single positive",
        ),
        (
            "e.csv",
            b"user,item,time\n" + b"".join(b"%d,7,%d\n" % (n % 9, n) for n in range(50)),
            "the log has a single item",
        ),
        (
            "f.csv",
            b"user,item,time\n" + b"".join(b"%d,%d,%d\n" % (n % 20, n % 7, n) for n in range(40)),
            "three positive",
        ),
        (
            "g.csv",
            b"a,b\nx,y\nz,w\n",
            "does not look like column names; if it is a header, give --user and --item; if not, name the 2 columns",
        ),
        ("h.csv", b"7,b\n8,y\n9,w\n", "does not look like column names; name the 2 columns in order"),
    ],
)
def test_what_is_no_log_ends_with_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refused("fit", tmp_path / name, "--to", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_users_and_items_exchanged_are_named(log, tmp_path):
    error = refused("fit", log, "--user", "item_id", "--item", "user_id", "--to", tmp_path / "bundle")
    assert "are exchanged; give --user user_id --item item_id" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "soon"], "budget 'soon' is no time; write it as 90s, 10m or 1h30m"),
        (["--budget", "0s"], "must be above 0"),
        (["--user", "usr_id"], "did you mean 'user_id'?"),
        (["--positive-from", "4", "--value", "stars"], "no column 'stars'"),
        (["--unit", "days"], "--unit 'days'"),
        (["--spec", "other.toml"], "give --spec alone"),
        (["--index", "hsnw"], "unknown index 'hsnw'; did you mean 'hnsw'?"),
        (
            ["--index", "postings"],
            "no model that fit tries can be searched by index 'postings' (index 'postings' searches",
        ),
        (["--index", "tree"], "no model that fit tries can be searched by index 'tree'"),
    ],
)
def test_an_option_that_cannot_be_taken_says_what_can(log, tmp_path, words, message):
    assert message in refused("fit", log, *words, "--to", tmp_path / "bundle")
    assert not (tmp_path / "bundle.run" / "models").exists()


@pytest.mark.parametrize(
    ("model", "default", "kind"),
    [("ease", None, "nominate"), ("ease", None, "brute_force"), ("popularity", "exact", "hnsw")],
)
def test_the_bundle_has_the_index_that_is_named_and_answers_by_it(log, tmp_path, monkeypatch, model, default, kind):
    monkeypatch.setattr(climb, "LADDER", (model,))
    plain = twotower.fit(log, to=tmp_path / "plain", budget="1s")
    assert plain.index == twotower.load(plain.bundle).bundle.manifest["index"] == default
    done = run_cli("fit", log, "--index", kind, "--budget", "1s", "--to", tmp_path / "bundle", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["index"], answer["model"]) == (kind, plain.choice.name)
    assert answer["last_fit"] == "all events"
    retriever = twotower.load(tmp_path / "bundle")
    assert retriever.bundle.manifest["index"] == kind
    assert isinstance(retriever.bundle.index, index_class(kind))
    best, plain_best = (
        [item["score"] for item in json.loads(run_cli("recommend", folder, "--user", "3", "--json").stdout)["items"]]
        for folder in (tmp_path / "bundle", tmp_path / "plain")
    )
    assert best == pytest.approx(plain_best, abs=1e-5), "24 items: each list holds all of them"


def test_a_model_of_codes_that_joins_the_ladder_is_served_by_its_own_lists(log, tmp_path, monkeypatch):
    words = ["training.epochs=2", "training.patience=0", "model.codebook=8", "model.dim=8"]
    monkeypatch.setattr(rungs, "default_run", lambda name: default_run(name).with_settings(words))
    monkeypatch.setattr(climb, "LADDER", ("sparcode",))
    fitted = twotower.fit(log, to=tmp_path / "bundle", budget="2m", index="postings")
    assert fitted.index == twotower.load(fitted.bundle).bundle.manifest["index"] == "postings"
    assert run_cli("recommend", fitted.bundle, "--user", "3").returncode == 0


def test_a_winner_that_cannot_take_the_index_is_kept_with_its_default_and_a_line(log, tmp_path, monkeypatch):
    monkeypatch.setattr(climb, "LADDER", ("popularity", "item_lists"))
    done = run_cli("fit", log, "--index", "hnsw", "--budget", "1s", "--to", tmp_path / "bundle", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["index"], answer["model"]) == (None, "item_lists")
    assert done.stderr.count("the bundle has its default index, not 'hnsw': ") == 1
    assert "index 'hnsw' finds inner products, and model 'item_lists' has another score; use brute_force" in done.stderr
    assert twotower.load(tmp_path / "bundle").bundle.index is None
    assert run_cli("recommend", tmp_path / "bundle", "--user", "3").returncode == 0


def test_one_fit_at_a_time_writes_a_folder(log, tmp_path):
    words = ("fit", log, "--budget", "1s", "--to", tmp_path / "new" / "bundle")
    with ThreadPoolExecutor(1) as other, writing_alone(tmp_path / "new" / "bundle.run"):
        assert "another thread of this process writes it" in other.submit(refused, *words).result()
    assert not (tmp_path / "new").exists()


def test_a_folder_of_somebody_else_is_left_alone(log, tmp_path):
    foreign = tmp_path / "bundle.run"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("dear")
    assert "holds something that twotower did not write" in refused("fit", log, "--to", tmp_path / "bundle")
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    assert "name the bundle's folder: --to" in refused("fit", log)


class Interrupt(Silent):
    """Presses Ctrl-C at a step of a training."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int) -> None:
        if step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_leaves_the_best_so_far_and_resume_goes_on(log, tmp_path, monkeypatch):
    monkeypatch.setattr(climb, "LADDER", ("popularity", "ease", "sasrec"))
    monkeypatch.setattr(climb, "VARIANTS", {})
    monkeypatch.setattr(rungs, "default_run", lambda name: default_run(name).with_settings(["training.epochs=8"]))
    to, kept = tmp_path / "bundle", tmp_path / "bundle.run" / "models"
    fitted = twotower.fit(log, to=to, budget="1m", watch=lambda name: [Interrupt(3)])
    assert fitted.stopped
    assert [rung.name for rung in fitted.rungs] == ["popularity", "ease"]
    assert fitted.last_fit == "the training events alone (stopped)"
    assert run_cli("recommend", to, "--user", "3").returncode == 0
    assert "the same command with <code>--resume</code>" in fitted.report.read_text()
    assert (kept / "sasrec.run" / "train.safetensors").is_file()
    before = (kept / "ease" / "manifest.json").stat().st_mtime_ns
    whole = twotower.fit(log, to=to, budget="1m", resume=True)
    assert [rung.name for rung in whole.rungs] == ["popularity", "ease", "sasrec", whole.rungs[-1].name]
    assert whole.rungs[-1].name.startswith("mixture of sasrec and ")
    assert (kept / "ease" / "manifest.json").stat().st_mtime_ns == before, "what was done was done again"
    assert whole.rungs[1].validation.metrics == fitted.rungs[1].validation.metrics
    assert whole.last_fit == "all events"
    straight = twotower.fit(log, to=tmp_path / "straight", budget="1m")
    for one, other in zip(straight.rungs[2:], whole.rungs[2:], strict=True):
        assert one.validation.metrics == other.validation.metrics


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("stage", ["identity", "prepare_log", "fit_on_all", "write_page"])
def test_a_fit_stopped_in_any_stage_can_go_on(log, closed, tmp_path, monkeypatch, stage):
    from twotower.experiment.ladder import fit

    def stop(*given, **named):
        raise KeyboardInterrupt

    to = tmp_path / "bundle"
    with monkeypatch.context() as patched:
        patched.setattr(fit, stage, stop)
        done = run_cli("fit", log, "--budget", "9s", "--to", to)
    assert done.returncode == (0 if stage == "fit_on_all" else 130)
    if stage != "fit_on_all":
        assert done.stderr.splitlines()[-1] == "stopped; the same command with --resume goes on with what is done"
    if stage in ("fit_on_all", "write_page"):
        assert run_cli("recommend", to, "--user", "3").returncode == 0
    again = run_cli("fit", log, "--budget", "9s", "--to", to, "--resume")
    assert again.returncode == 0, again.stderr
    assert run_cli("recommend", to, "--user", "3").returncode == 0
    assert (tmp_path / "bundle.run" / "report.html").is_file()


def test_resume_with_another_log_is_refused_and_keeps_what_is_there(log, closed, tmp_path):
    to = tmp_path / "bundle"
    twotower.fit(log, to=to, budget="9s")
    written(log, events()[:-20])
    with pytest.raises(InputError, match="had another log or spec; start anew without --resume"):
        twotower.fit(log, to=to, budget="9s", resume=True)
    assert (tmp_path / "bundle.run" / "models" / "ease" / "manifest.json").is_file()


def test_a_full_disk_is_one_line_and_loses_nothing(log, closed, tmp_path, monkeypatch):
    from twotower.experiment.ladder import last_fit

    to = tmp_path / "bundle"

    def full(*given, **named):
        raise OSError(28, "No space left on device", str(to))

    with monkeypatch.context() as patched:
        patched.setattr(last_fit, "write_bundle", full)
        done = run_cli("fit", log, "--budget", "9s", "--to", to)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"error: {to}: No space left on device")
    assert run_cli("fit", log, "--budget", "9s", "--to", to, "--resume").returncode == 0


def test_the_demo_is_a_fit_of_a_public_log_and_ends_with_answers(closed, tmp_path):
    done = run_cli("demo", "--data", "synthetic", "--budget", "30s", "--to", tmp_path, "--users", "1")
    assert done.returncode == 0, done.stderr
    assert "For user" in done.stdout
    kept = re.search(r"twotower evaluate (\S+)", done.stdout)
    assert kept is not None
    assert run_cli("evaluate", kept[1]).returncode == 0
    again = re.search(r"twotower fit --spec (\S+) --budget 30s --to (\S+)", done.stderr)
    assert again is not None
    assert run_cli("fit", "--spec", again[1], "--budget", "30s", "--to", again[2], "--resume").returncode == 0


def test_where_ease_is_refused_its_sparse_form_stands_in(log, tmp_path, monkeypatch):
    monkeypatch.setattr(climb, "LADDER", ("popularity", "ease", "sparse_ease"))
    monkeypatch.setattr(ease, "MOST_ITEMS", 10)
    fitted = twotower.fit(log, to=tmp_path / "bundle", budget="1m")
    rungs = {rung.name: rung for rung in fitted.rungs}
    assert "use sparse_ease" in rungs["ease"].left_out
    assert rungs["sparse_ease"].validation is not None


@pytest.mark.slow
@pytest.mark.long
def test_real_ratings_are_fitted_within_their_budget(shared_data, tmp_path):
    data = shared_data("ml-100k")
    shutil.copy(data / "ratings.parquet", tmp_path / "ratings.parquet")
    fitted = twotower.fit(tmp_path / "ratings.parquet", data / "items.parquet", to=tmp_path / "bundle", budget="60s")
    figures = {rung.name: rung.validation.metrics["ndcg@10"] for rung in fitted.rungs if rung.validation}
    assert figures[fitted.choice.name] > 1.5 * figures["popularity"]
    baselines = [figures[name] for name in ("popularity", "item_cosine", "item_lists", "ease")]
    assert figures[fitted.choice.name] >= 0.9 * max(baselines)
    assert fitted.last_fit == "all events"
