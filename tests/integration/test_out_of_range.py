"""Numbers, codecs and headers that no command can follow: one line each, and nothing is done."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.prepare.spec import FeatureSpec
from twotower.diagnosis.diagnose import diagnose

HUGE = "99999999999999999999"


def run(*words: str | Path) -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return int(ended.value.code or 0), out.getvalue(), errors.getvalue()


def refused(*words: str | Path) -> str:
    status, _, errors = run(*words)
    lines = errors.strip().splitlines()
    assert status == 2, errors
    assert len(lines[-1]) < 300
    assert "Traceback" not in errors
    return lines[-1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("range")
    rows = [f"{user},{(user + step) % 9},{step}" for user in range(30) for step in range(5)]
    (folder / "log.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    (folder / "spec.toml").write_text(SPEC)
    assert run("data", "prepare", folder / "spec.toml", "--to", folder / "data")[0] == 0
    return folder / "data"


SPEC = """name = "t"
[interactions]
path = "log.csv"
user = "user"
item = "item"
time = "timestamp"
unit = "order"
"""


@pytest.fixture(scope="module")
def bundle(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "ease"
    assert run("train", "--data", data, "--model", "ease", "--to", folder)[0] == 0
    return folder


@pytest.fixture(scope="module")
def towers(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "towers"
    words = ("--set", "training.epochs=1", "--set", "model.dim=8")
    assert run("train", "--data", data, "--model", "two_tower", "--to", folder, *words)[0] == 0
    return folder


@pytest.mark.parametrize("k", [HUGE, "9223372036854775807", "1000001"])
def test_lists_longer_than_any_catalogue_are_refused(bundle, data, towers, tmp_path, k):
    assert "are not evaluated; take at most 1,000,000" in refused("evaluate", bundle, "-k", k)
    words = ("train", "--data", data, "--model", "two_tower", "--to", tmp_path / "m", "--set")
    told = refused(*words, f"evaluation.ks=[{k}]")
    assert "evaluation.ks: lists of" in told or "each a whole number of at most 64 bits" in told
    assert "lists of" in refused(*words, f"training.metric=ndcg@{k}")
    assert "k: lists of" in refused("index", towers, "--kind", "hnsw", "--tune", "recall=0.9", "-k", k)
    assert "candidates: lists of" in refused("evaluate", bundle, "--then", towers, "--candidates", k)
    assert run("evaluate", bundle, "-k", "1000000")[0] == 0


@pytest.mark.parametrize("value", [HUGE, "3000000000"])
def test_settings_beyond_what_the_index_can_hold_are_refused(towers, value):
    before = (towers / "manifest.json").read_bytes()
    assert "a number below 2,147,483,648 is wanted" in refused(
        "index", towers, "--kind", "hnsw", "--set", f"ef_construction={value}"
    )
    assert (towers / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("what", ["--users", "--items"])
def test_a_synthetic_log_of_more_rows_than_fit_is_refused(tmp_path, what):
    assert "draws at most 100,000,000" in refused("data", "get", "synthetic", "--to", tmp_path / "s", what, HUGE)


@pytest.mark.parametrize(
    "encoding", ["base64", "hex", "rot13", "uu", "quopri", "bz2", "zlib", "none such", "a\\u0000b"]
)
def test_an_encoding_that_is_none_of_text_is_refused(data, encoding):
    spec = data.parent / "other.toml"
    spec.write_text(SPEC + f'encoding = "{encoding}"\n')
    assert "is not known; try utf-8, latin-1, cp1252 or utf-16" in refused(
        "data", "prepare", spec, "--to", data.parent / "x"
    )
    assert not (data.parent / "x").exists()


@pytest.mark.parametrize(
    "settings", [{"width": -1}, {"width": 100_000_000_000}, {"min_count": -1}, {"min_count": 0}, {"max_values": -1}]
)
def test_sizes_of_a_feature_are_checked_in_the_spec(settings):
    with pytest.raises(InputError, match=r"feature 'tags': \w+ = -?\d+ must lie between"):
        FeatureSpec("tags", "multi_categorical", **settings)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_far_ahead_name_finer_units_alone(data, unit):
    lines = [f"{user},{item},{10**25 + item}" for user in range(9) for item in range(5)]
    (data.parent / "far.csv").write_text("\n".join(["user,item,timestamp", *lines]))
    spec = data.parent / "far.toml"
    spec.write_text(SPEC.replace("log.csv", "far.csv").replace('unit = "order"', f'unit = "{unit}"'))
    told = refused("data", "prepare", spec, "--to", data.parent / "far")
    advice = told.partition("; ")[2]
    assert [name for name in ("s", "ms", "us", "ns") if f"'{name}'" in advice] == ["s", "ms", "us", "ns"][
        ["s", "ms", "us", "ns"].index(unit) + 1 :
    ]


def test_a_matrix_whose_squares_vanish_is_not_called_zero(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(60, 8))
    for name, scale in (("tiny", 1e-170), ("small", 1e-140)):
        np.save(tmp_path / f"{name}.npy", vectors * scale)
    assert "so small that their squares vanish" in refused("diagnose", tmp_path / "tiny.npy")
    assert run("diagnose", tmp_path / "small.npy")[0] == 0
    assert diagnose(np.zeros((60, 8))).statistics["zero_vectors"] == 60  # and zeros are
    vectors[3] *= 1e-170
    assert diagnose(vectors).statistics["zero_vectors"] == 1


def test_a_header_that_hides_rows_or_turns_bytes_is_told_in_one_line(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(60, 8)).astype("<f4"))
    raw = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "few.npy").write_bytes(raw.replace(b"(60, 8)", b"(6, 8) "))
    (tmp_path / "turned.npy").write_bytes(raw.replace(b"'<f4'", b"'>f4'"))
    assert "more than the 6 rows that its header tells" in refused("diagnose", tmp_path / "few.npy")
    assert run("diagnose", tmp_path / "turned.npy")[2].count("\n") == 1


def test_a_bundle_and_a_history_of_the_wrong_kind_are_told(bundle):
    for wrong in ("None", "3"):  # in a process of its own, where no types are checked
        command = [sys.executable, "-c", f"import twotower; twotower.load({wrong})"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.stderr.splitlines()[-1].endswith(f"a bundle is named by its folder, got {wrong}")
    retriever = twotower.load(bundle)
    with pytest.raises(InputError, match="the order of time, which a set has not"):
        retriever.recommend(history={"1", "2"}, k=2)
    assert len(retriever.recommend(history=["1", "2"], k=2)) == 2
