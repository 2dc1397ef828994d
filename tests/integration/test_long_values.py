"""A message repeats a value of the user at most in part, whatever its length, and never its control characters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from twotower.cli.main import main
from twotower.core.errors import LONGEST, InputError, cut, shown
from twotower.data.dataset import Dataset
from twotower.data.prepare.spec import Spec
from twotower.experiment.run import Run
from twotower.serving.retriever import load

LONG = "v\x1b[31m\r" + "x" * 100_000 + "\x00"
WORD = "x" * 100_000
LOG = {"path": "log.csv", "user": "user", "item": "item"}


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Run a command that must end with one short line and status 2; gives the line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("user,item,rating\n" + "".join(f"u{n % 3},i{n},{n}\n" for n in range(9)))

    def refused(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, line = capsys.readouterr()
        assert (ended.value.code, out) == (2, ""), line[:300]
        assert line.count("\n") == 1, line[:300]
        assert len(line) < 500
        assert "\x1b" not in line
        assert "\r" not in line
        return line

    return refused


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "n", "interactions": LOG | {WORD: 1}},
        {"name": "n", "interactions": LOG | {"unit": LONG}},
        {"name": "n", "interactions": LOG | {"user": LONG}},
        {"name": "n", "interactions": LOG | {"min_user_events": LONG}},
        {"name": "n", "interactions": LOG | {"path": WORD}},
        {"name": "n", "interactions": LOG | {"encoding": WORD}},
        {"name": "n", "interactions": LOG | {"separator": WORD}},
        {"name": "n", "interactions": LOG | {"columns": [LONG, LONG]}},
        {"name": "n", "interactions": LOG, WORD: {}},
        {"name": "n", "interactions": LOG, "split": {"kind": LONG}},
        {"name": "n", "interactions": LOG, "split": {"kind": "last-n", "n": LONG}},
        {"name": "n", "interactions": LOG, "split": {"kind": "last-n", WORD: 1}},
        {"name": "n", "interactions": LOG, "label": {"column": LONG, "equals": 1}},
        {"name": "n", "interactions": LOG, "label": {"column": "rating", "equals": LONG}},
        {"name": "n", "interactions": LOG, "items": LOG | {"features": {WORD: "id"}}},
        {"name": "n", "interactions": LOG, "items": {"path": "log.csv", "id": "item", "features": {"a": LONG}}},
    ],
)
def test_a_long_value_in_a_spec_is_one_short_line(spec, refused, tmp_path):
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(spec))
    refused("data", "prepare", "spec.toml", "--to", "out")


@pytest.mark.parametrize("place", ["user", "item", "rating"])
def test_a_long_cell_of_a_log_is_one_short_line(place, refused, tmp_path):
    header = f"user,item,rating\n{WORD},,nothing\na,b,{WORD}\n,{WORD},3\n"
    (tmp_path / "log.csv").write_text(header.replace(place, f"{WORD}{place}") if place != "rating" else header)
    spec = {"name": "n", "interactions": LOG | {"value": "rating"}}
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(spec))
    refused("data", "prepare", "spec.toml", "--to", "out")


@pytest.mark.parametrize(
    "run",
    [
        {WORD: {}},
        {WORD: 1},
        {"training": {WORD: 1}},
        {"training": {"epochs": LONG}},
        {"training": {"metric": LONG}},
        {"training": {"device": WORD}},
        {"training": {"optimizer": LONG}},
        {"model": {"name": LONG}},
        {"model": {"name": "two_tower", WORD: 1}},
        {"model": {"name": "two_tower", "dim": LONG}},
        {"model": {"name": "two_tower", "score": LONG}},
        {"objective": {"loss": LONG}},
        {"objective": {"regularise": {WORD: 1.0}}},
        {"objective": {"loss": "bpr"}, "sampling": {"sources": [LONG]}},
        {"index": {"kind": LONG}},
        {"data": {"split": LONG}},
        {"data": {"split": "pre-ranking", "split_options": {"validation_share": LONG}}},
        {"evaluation": {"ks": [1, -1] + [5] * 50_000}},
    ],
)
def test_a_long_value_in_a_run_is_one_short_line(run, refused, tmp_path, prepared_folder):
    (tmp_path / "run.toml").write_text(tomli_w.dumps(run))
    refused("train", "run.toml", "--data", prepared_folder, "--to", "bundle")


@pytest.mark.parametrize(
    "words",
    [
        (LONG,),
        ("train", "--model", LONG, "--to", "x"),
        ("train", "--model", "ease", "--set", LONG, "--to", "x"),
        ("train", "--model", "ease", "--set", f"{LONG}.a=1", "--to", "x"),
        ("train", "--model", "ease", "--set", f"training.{LONG}=1", "--to", "x"),
        ("train", "--model", "ease", "--set", f"training.epochs={'9' * 100_000}", "--to", "x"),
        ("train", "--model", "ease", "--set", f"training.epochs={'[' * 50_000}", "--to", "x"),
        ("train", "--model", "ease", f"--{WORD}", "--to", "x"),
        ("data", "get", LONG, "--to", "x"),
        ("data", "prepare", f"{WORD}.toml"),
        ("diagnose", f"{WORD}.npy"),
        ("diagnose", "log.csv", "--column", LONG),
        ("data", "prepare", "spec.toml", "--memory-limit", WORD),
    ],
)
def test_a_long_word_on_the_command_line_is_one_short_line(words, refused, tmp_path):
    (tmp_path / "spec.toml").write_text(tomli_w.dumps({"name": "n", "interactions": LOG}))
    refused(*words)


def test_a_long_id_is_one_short_line_in_every_request(bundle_folder, refused):
    for words in (
        ("recommend", bundle_folder, "--user", LONG),
        ("recommend", bundle_folder, "--history", f"{WORD},i2", "--exclude", LONG, "-k", -1),
        ("recommend", bundle_folder, "--history", LONG),
        ("similar", bundle_folder, LONG),
    ):
        refused(*words)


def test_a_notice_of_unknown_ids_is_short_too(bundle_folder, caplog):
    load(bundle_folder).recommend(history=["i2", LONG], exclude=[LONG])
    assert caplog.messages
    assert all(len(text) < 500 for text in caplog.messages)
    assert "\x1b" not in "".join(caplog.messages)


@pytest.mark.parametrize("ids", [LONG, 3.5], ids=["text", "number"])
@pytest.mark.bad_input
def test_ids_that_are_no_list_are_told_in_short(ids, bundle_folder):
    with pytest.raises(InputError) as told:
        load(bundle_folder).recommend(history=ids)
    assert len(str(told.value)) < 500


def test_a_file_name_with_control_characters_is_told_by_their_escapes(refused):
    line = refused("diagnose", "a\x1b[31m\nb.npy")
    assert r"a\x1b[31m" in line


def test_deep_nesting_is_one_short_line(refused, tmp_path, prepared_folder):
    deep = "[" * 100_000
    (tmp_path / "deep.toml").write_text(f"a = {deep}")
    refused("data", "prepare", "deep.toml", "--to", "out")
    refused("train", "deep.toml", "--data", prepared_folder, "--to", "bundle")
    manifest = prepared_folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "tiny"', f'"name": {deep}'))
    refused("train", "--model", "ease", "--data", prepared_folder, "--to", "bundle")


def test_a_number_of_thousands_of_digits_is_one_short_line(refused, tmp_path):
    (tmp_path / "spec.toml").write_text(f"name = 'n'\n[interactions]\nmin_user_events = {'9' * 10_000}\n")
    refused("data", "prepare", "spec.toml", "--to", "out")


def test_every_error_is_short_however_it_is_raised():
    text = "what went wrong: " + "\x1b[31m" + WORD + "; what to do"
    told = str(InputError(text))
    assert len(told) <= LONGEST
    assert told.startswith("what went wrong: ")
    assert told.endswith("; what to do")
    assert "\x1b" not in told
    assert cut("short") == "short"


def test_a_value_of_any_kind_is_shown_in_short():
    for value in (10**10_000, "\x00" * 100_000, "a\r\nb" * 10_000, list(range(50_000)), b"\xff" * 9999):
        assert len(shown(value)) <= 80
        assert shown(value).isprintable()


def test_a_name_of_a_data_set_can_be_of_any_length(tmp_path, prepared_folder):
    path = prepared_folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": LONG}))
    assert Dataset.load(prepared_folder, verify=False).name == LONG


def test_long_values_in_python_are_short_lines_too(tmp_path):
    for wrong in ({"training": {"epochs": LONG}}, {"model": LONG}, {LONG: {}}):
        with pytest.raises(InputError) as told:
            Run.from_dict(wrong)
        assert len(str(told.value)) < 500
    with pytest.raises(InputError) as told:
        Spec.from_dict({"name": LONG, "interactions": {"path": LONG}}, folder=Path(tmp_path))
    assert len(str(told.value)) < 500
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
