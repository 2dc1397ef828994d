"""Sequential models as a user runs them: features and times read, and the bad input that each command refuses."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.serving.retriever import load

SMALL = ["--set", "model.dim=8", "--set", "training.epochs=1", "--set", "training.patience=0", "--device", "cpu"]
MIXED = ["--set", "model.attention=mixed", "--set", "model.session=5"]


def twotower(*words: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return int(ended.value.code or 0), out.getvalue(), errors.getvalue()


def refused(*words: str | Path) -> str:
    """The one line of an exit status 2."""
    code, out, errors = twotower(*words)
    assert (code, out) == (2, ""), errors
    (line,) = errors.strip().splitlines()
    assert line.startswith("error: ")
    return line


def prepared(folder: Path, *, clock: bool, features: bool = True) -> Path:
    """Thirty users who watch twelve items in turn."""
    folder.mkdir()
    unit = '"s"' if clock else '"order"'
    rows = [
        f"u{user},i{(user * 5 + 3 * place) % 12},{(1_500_000_000 if clock else 0) + 600 * place * place}"
        for user in range(30)
        for place in range(1 + user % 8 + 3)
    ]
    (folder / "log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    (folder / "items.csv").write_text("item,brand\n" + "".join(f"i{item},b{item % 4}\n" for item in range(12)))
    items = '[items]\npath = ["items.csv"]\nid = "item"\n'
    items += '[items.features.brand]\nkind = "categorical"\n' if features else ""
    (folder / "spec.toml").write_text(
        f'name = "turns"\n[interactions]\npath = ["log.csv"]\nuser = "user"\nitem = "item"\ntime = "time"\n'
        f'unit = {unit}\n{items}[split]\nkind = "leave-one-out"\n'
    )
    code, _, errors = twotower("data", "prepare", folder / "spec.toml", "--to", folder / "data")
    assert code == 0, errors
    return folder / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("clock") / "raw", clock=True)


@pytest.fixture(scope="module")
def timeless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("order") / "raw", clock=False, features=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("noise_steps=0", "noise_steps must be at least 1, got 0: without a step there is no diffusion"),
        ("last_beta=1.0", "noise must keep 0 < first_beta <= last_beta < 1 at every step, got 0.0001 and 1.0"),
        ("first_beta=0.0", "noise must keep 0 < first_beta <= last_beta < 1 at every step, got 0.0 and 0.999"),
        ("restore_steps=51", "restore_steps must be from 1 to noise_steps = 50, got 51"),
        ("session=60", "session must be at most history_length = 50, got 60"),
        ("session=0", "session must be at least 1, got session = 0"),
    ],
)
def test_a_diffusion_or_a_session_that_cannot_be_is_refused_before_anything_is_written(
    data, tmp_path, setting, message
):
    line = refused(
        "train",
        "--data",
        data,
        "--model",
        "t2diff",
        "--to",
        tmp_path / "b",
        *SMALL,
        *MIXED,
        "--set",
        "model.restored=as_served",
        "--set",
        f"model.{setting}",
    )
    assert message in line
    assert not (tmp_path / "b").exists()


def test_sessions_by_time_of_a_log_without_a_clock_are_refused_with_what_to_do(timeless, tmp_path):
    line = refused(
        "train", "--data", timeless, "--model", "t2diff", "--to", tmp_path / "b", *SMALL, *MIXED,
        "--set", "model.session_gap=600",
    )  # fmt: skip
    assert "session_gap = 600 needs times, and this log has none: set model.session_gap = 0" in line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("item_features", "item_features = true, but the items of this data have no features; leave it out"),
        ("time_gaps", "time_gaps = true needs times, and this log has none; leave it out"),
    ],
)
def test_features_or_times_that_are_not_there_are_refused(timeless, tmp_path, setting, message):
    words = ("train", "--data", timeless, "--model", "sasrec", "--to", tmp_path / "b", *SMALL)
    assert message in refused(*words, "--set", f"model.{setting}=true")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sasrec", "bert4rec", "t2diff"])
def test_a_history_shorter_than_a_session_is_answered_and_an_empty_one_refused(data, tmp_path, model):
    more = [*MIXED, "--set", "model.session_gap=600"] if model == "t2diff" else []
    code, _, errors = twotower(
        "train", "--data", data, "--model", model, "--to", tmp_path / "b", *SMALL, *more,
        "--set", "model.item_features=true", "--set", "model.time_gaps=true",
    )  # fmt: skip
    assert code == 0, errors

    def answers(*words: str) -> list[str]:
        code, out, errors = twotower("recommend", tmp_path / "b", *words, "--json")
        assert code == 0, errors
        return [answer["id"] for answer in json.loads(out)["items"]]

    assert "i3" not in answers("--history", "i3")  # one event, of a session of five
    assert len(answers("--history", "i3,i7,i3")) == 10
    assert len(answers("--user", "u1")) >= 5
    with pytest.raises(InputError, match="the history is empty; name at least one item"):
        load(tmp_path / "b").recommend(history=[])
