"""The table of negatives on a tiny data set: every variant trains, comes out as a row, and is drawn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from twotower.data.dataset import Dataset
from twotower.experiment.run import Run
from twotower.reproduce import negatives
from twotower.reproduce.figures import draw_curves
from twotower.reproduce.study import run_table, seeded
from twotower.reproduce.summary import summarise

TINY = negatives.Size(batch=64, negatives=48, epochs=4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("data")
    spec = sources.get("synthetic", folder / "raw", settings=Synthetic(users=60, items=120, cold_items=3, events=10))
    return prepare(Spec.from_toml(spec), folder / "prepared")


def tiny(variant: str, temperature: float) -> Run:
    run = negatives.variant_run(variant, TINY, temperature)
    settings = {**run.model.settings, "dim": 8, "field_dim": 4, "hidden": [8]}
    return replace(
        run,
        model=replace(run.model, settings=settings),
        evaluation=replace(run.evaluation, ks=(1, 10)),
        training=replace(run.training, device="cpu"),
    )


@pytest.mark.slow
def test_the_table_from_data_to_figures(prepared, tmp_path):
    def variants(data: str) -> dict[str, list[Run]]:
        return {
            name: [tiny(name, temperature) for temperature in (0.1, 0.2)][: 2 if name == "mixed" else 1]
            for name in negatives.VARIANTS
        } | {"popularity": [negatives.popularity_run()]}

    table = replace(negatives.TABLE, variants=variants, columns=("recall@10",))
    data = {"tiny": prepared}
    chosen = run_table(table, data, tmp_path, seeds=1)
    figures = summarise(table, data, chosen, 1, tmp_path)
    assert {figure.variant for figure in figures["tiny"]} == {*negatives.VARIANTS, "popularity"}
    written = json.loads((tmp_path / "negatives.json").read_text())
    assert written["seeds"] == 1
    record = json.loads(next((tmp_path / "tiny" / "cross_batch_ngame").glob("seed-1-*.json")).read_text())
    assert [part["epoch"] for part in record["curves"]] == [1, 2, 3, 4]
    pytest.importorskip("matplotlib")
    assert [path.name for path in draw_curves(table, data, chosen, 1, tmp_path)] == ["negatives-tiny.png"]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_tells_where_the_finished_trainings_are(jobs, prepared, tmp_path, heeds_ctrl_c):
    """To the whole group, as a terminal sends it; no process prints a traceback or stays."""
    words = ["reproduce", "negatives", "--data", str(prepared), "--jobs", str(jobs), "--to", str(tmp_path / "made")]
    table = subprocess.Popen(
        [sys.executable, "-m", "twotower", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert table.stderr is not None
        first = table.stderr.readline()
        assert first.startswith("1/"), first
        os.killpg(table.pid, signal.SIGINT)
        told = table.communicate(timeout=20)[1]  # the other trainings would take longer
        assert table.returncode == 130, told
        assert "Traceback" not in told
        assert told.splitlines()[-1].startswith("stopped; the same command goes on")
        assert len(list((tmp_path / "made").glob("*/*/seed-0-*.json"))) >= 1
        for _ in range(200):  # a helper of the pool ends a moment after it
            os.killpg(table.pid, 0)
            time.sleep(0.05)
        pytest.fail("a process of the table is still there")
    except ProcessLookupError:
        return
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(table.pid, signal.SIGKILL)


@pytest.mark.parametrize("data", negatives.TABLE.data)
def test_every_variant_has_the_same_choices_and_as_many_negatives(data):
    size = negatives.SIZES[data]
    for name, runs in (negatives.variants(data) | negatives.first_variants(data)).items():
        if name == "popularity":
            continue
        choices = [negatives.NGAME_TEMPERATURE] if name == negatives.AS_NGAME else list(negatives.TEMPERATURES)
        assert [run.model.settings["temperature"] for run in runs] == choices
        for run in runs:
            assert Run.from_dict(tomllib.loads(run.to_toml())) == run
            if name.endswith("_corrected"):
                assert run.sampling.correct_positive
                continue  # all rows of a batch are candidates
            taken = run.sampling.source("in_batch", "mixed").settings["rows"]
            more = run.sampling.source("mixed", "memory_bank")
            assert taken + (more.settings["number"] if more else 0) == size.negatives, name


def test_bank_and_mining_begin_half_way(prepared):
    run = negatives.with_starts(tiny("cross_batch_ngame", 0.1), rows=130)
    assert run.sampling.source("memory_bank").settings["start"] == 6
    mined = negatives.with_starts(tiny("index_mined", 0.1), rows=130).sampling.source("index_mined")
    assert (mined.settings["start"], mined.settings["every"]) == (6, 3)
    measured = negatives.measure(tiny("index_mined", 0.1), Dataset.load(prepared))
    assert measured.validation >= 0.0


def test_every_seed_draws_a_split_of_its_own_and_the_first_table_one():
    run = negatives.variants("ml-1m")["in_batch"][0]
    assert [seeded(run, seed).data.split_options["seed"] for seed in (0, 3)] == [0, 3]
    first = negatives.first_variants("ml-1m")["in_batch"][0]
    assert seeded(first, 3).data.split_options == {"ratio": [72, 8, 20]}


def test_ngame_takes_the_radius_over_all_positives_and_the_first_table_that_of_the_step():
    found = {
        name: runs[0].sampling.hard
        for rows in (negatives.variants("ml-1m"), negatives.first_variants("ml-1m"))
        for name, runs in rows.items()
        if "ngame" in name and name != negatives.AS_NGAME
    }
    assert found == {
        "ngame": "radius",
        "cross_batch_ngame": "radius",
        "ngame_batch_radius": "batch_radius",
        "cross_batch_ngame_batch_radius": "batch_radius",
    }
