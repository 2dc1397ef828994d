"""The board on a tiny log with planted ties: rows, twins with ties drawn, sessions, and what a page says."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.catalogue import split_of
from twotower.experiment.run import ModelSection, Run
from twotower.reproduce.kept import keep_cells, put_back
from twotower.reproduce.leaderboard import mixed
from twotower.reproduce.leaderboard.measure import measure
from twotower.reproduce.leaderboard.table import BEST, FILMS, SESSIONS, TABLE, ties_drawn, trained, twins, variants
from twotower.reproduce.study import run_table, seeded
from twotower.reproduce.summary import summarise
from twotower.reproduce.tables import TABLES

USERS, ITEMS, EVENTS = 60, 40, 12


def tiny_log() -> Log:
    """Each user walks through the items from a place of their own; the last two events bear one second."""
    lengths = torch.tensor([0, 0, *[EVENTS] * USERS])
    first = torch.arange(USERS)[:, None]
    items = 2 + (first + torch.arange(EVENTS)) % ITEMS
    times = 1_000_000_000 + torch.arange(EVENTS).repeat(USERS, 1)
    times[:, -1] = times[:, -2]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Log(offsets, items.flatten(), times.flatten())


def tiny_set(name: str) -> Dataset:
    return Dataset(Schema(USERS + 2, ITEMS + 2, (), (), has_times=True), tiny_log(), {}, {}, {"name": name})


def tiny(run: Run) -> Run:
    settings = {key: 8 if key in ("dim", "history_length") else value for key, value in run.model.settings.items()}
    sources = tuple(replace(source, settings={"number": 30}) for source in run.sampling.sources if source.settings)
    training = replace(run.training, epochs=4, batch_size=16, evaluate_every=2, device="cpu")
    return replace(
        run,
        model=ModelSection(run.model.name, settings),
        sampling=replace(run.sampling, sources=sources or run.sampling.sources),
        training=training,
    )


def tiny_variants(data: str) -> Mapping[str, Sequence[Run]]:
    rows = variants("ml-1m-3706")
    return {
        name: [tiny(run) for run in rows[name]][: 2 if name == "best" else 1]
        for name in ("popularity", "item_lists", "sasrec", "best")
    }


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr("twotower.reproduce.study.Dataset.load", lambda path: tiny_set("tiny"))
    return replace(TABLE, variants=tiny_variants, twins=lambda data: twins("ml-1m-3706"))


@pytest.fixture(scope="module")
def kept_cells() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "kept_cells", Path(__file__).resolve().parents[2] / "benchmarks" / "kept_cells.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_board_from_data_to_its_page_and_back(table, tmp_path, kept_cells, monkeypatch):
    data = {"tiny": Path("tiny")}
    chosen = run_table(table, data, tmp_path / "made", seeds=2)
    rows = ["popularity", "item_lists", "sasrec", "best"]
    assert list(chosen["tiny"]) == [*rows, "item_lists_ties", "sasrec_ties", "best_ties"]
    assert chosen["tiny"]["best_ties"] == ties_drawn(chosen["tiny"]["best"])
    figures = summarise(table, data, chosen, 2, tmp_path / "made")["tiny"]
    found = {(figure.variant, figure.metric): figure for figure in figures}
    assert found["best_ties", "last_tied"].mean == 1.0
    assert found["best_ties", "ndcg@10"].p_users is not None
    assert len(found["item_lists_ties", "ndcg@10"].values) == 2  # a row of one seed has a twin of all: each draws ties
    assert len(found["item_lists", "ndcg@10"].values) == 1

    assert found["best/with_lists", "ndcg@10"].p_users is not None
    assert found["best/with_lists", "weight"].mean > 0.0

    (tmp_path / "papers").mkdir()
    keep_cells(table, tmp_path / "made", tmp_path / "papers")
    back = put_back(table, tmp_path / "papers", tmp_path / "again")
    assert back.unknown == 0
    assert back.written == len(list((tmp_path / "made").glob("tiny/*/seed-*.json")))
    monkeypatch.setattr(kept_cells, "PAPERS", tmp_path / "papers")
    _, page = kept_cells.page(table, "tiny", tmp_path / "again")
    text = page.read_text()
    assert "| best_ties | " in text
    assert "| best_ties/with_lists | " in text
    assert "FuXi-alpha 0.3164/0.1813" in text
    assert "without a result" not in text


def test_a_twin_alone_tunes_its_row_and_trains_itself(table, tmp_path):
    chosen = run_table(table, {"tiny": Path("tiny")}, tmp_path, seeds=1, only=["best_ties"])
    assert list(chosen["tiny"]) == ["best_ties"]
    made = sorted(path.relative_to(tmp_path).parts[1] for path in tmp_path.glob("tiny/*/seed-*.json"))
    assert made == ["best", "best", "best_ties"]
    with pytest.raises(InputError, match="best_ties"):
        run_table(table, {"tiny": Path("tiny")}, tmp_path, only=["worst"])


def test_a_twin_of_every_seed_draws_ties_anew_and_its_row_keeps_the_file():
    dataset = tiny_set("ml-1m-3706")
    row = variants("ml-1m-3706")["best"][0]
    asked = [split_of(seeded(run, seed), dataset).test.truth.items for run in (row, ties_drawn(row)) for seed in (1, 2)]
    assert torch.equal(asked[0], asked[1])
    assert not torch.equal(asked[2], asked[3])
    assert 0.2 < (asked[0] == asked[2]).float().mean() < 0.8


@pytest.mark.parametrize(
    ("data", "place"), [(kind, place) for kind in ("films", "short", "sessions") for place in range(len(BEST[kind]))]
)
def test_every_candidate_trains_and_reads_no_clock(data, place):
    run = tiny(trained("ml-1m-3706", BEST[data][place]))
    found = measure(run, tiny_set(data))
    moved = tiny_set(data)
    gaps = torch.randint(1, 10**6, (USERS, EVENTS - 1), generator=torch.Generator().manual_seed(0)).cumsum(1)
    times = 1_000_000_000 + torch.cat([gaps, gaps[:, -1:]], dim=1).flatten()  # the same ties, other lags
    again = measure(run, moved.with_log(moved.log._replace(times=times)))
    assert [record.loss for record in again.curves] == [record.loss for record in found.curves]
    assert torch.equal(again.per_user["ndcg@10"], found.per_user["ndcg@10"])
    assert found.metrics["last_tied"] == 1.0
    assert set(found.per_user) == {"hit_rate@10", "ndcg@10"}
    assert found.validation == max(record.metrics["ndcg@10"] for record in found.curves if record.metrics)


def test_a_mixture_that_gives_lists_next_to_no_weight_is_the_encoder_itself(monkeypatch):
    run = seeded(tiny(variants("ml-1m-3706")["sasrec"][0]), 1)
    monkeypatch.setattr(mixed, "climbed", lambda model, first, score, metric: 1e-9)
    found = measure(run, tiny_set("ml-1m-3706"))
    for metric in ("hit_rate@10", "ndcg@10"):
        torch.testing.assert_close(found.per_user[f"lists/{metric}"], found.per_user[metric])


def test_a_mixture_of_nothing_but_lists_is_the_row_of_lists(monkeypatch):
    run = seeded(tiny(variants("ml-1m-3706")["sasrec"][0]), 1)
    monkeypatch.setattr(mixed, "climbed", lambda model, first, score, metric: 1e9)
    lists = measure(variants("ml-1m-3706")["item_lists"][0], tiny_set("ml-1m-3706"))
    found = measure(run, tiny_set("ml-1m-3706"))
    assert found.metrics["lists/ndcg@10"] == pytest.approx(lists.metrics["ndcg@10"])


def test_the_weight_of_lists_is_chosen_by_validation_alone(monkeypatch):
    run = seeded(tiny(variants("ml-1m-3706")["sasrec"][0]), 1)
    monkeypatch.setattr(mixed, "validation_metrics", lambda model, *_: {"ndcg@10": -abs(model.weight - 8.0)})
    assert measure(run, tiny_set("ml-1m-3706")).metrics["lists/weight"] == 8.0


def test_of_sessions_the_last_rows_are_asked_for_their_last_click():
    options = {**variants(SESSIONS[0])["best"][0].data.split_options, "ratio": [40, 10, 10]}
    run = variants(SESSIONS[0])["best"][0]
    run = replace(run, data=replace(run.data, split_options=options))
    split = split_of(run, tiny_set(SESSIONS[0]))
    assert split.test.users().tolist() == list(range(52, 62))
    assert split.validation.users().tolist() == list(range(42, 52))
    assert split.test.truth.lengths[52:].tolist() == [1] * 10
    assert split.test.history.lengths[52:].tolist() == [EVENTS - 1] * 10
    assert not run.evaluation.mask_seen


def test_rows_and_runs_of_every_set():
    assert TABLES["leaderboard"] is TABLE
    for data in TABLE.data:
        rows = variants(data)
        assert ("ease" in rows) == (data not in SESSIONS)
        assert bool(twins(data)) == (data in FILMS)
        values = [run.to_toml() for runs in rows.values() for run in runs]
        assert len(set(values)) == len(values)  # one run stands in one row, so that kept cells find it again
        for run in (run for runs in TABLE.possible_runs(data).values() for run in runs):
            assert Run.from_dict(tomllib.loads(run.to_toml())) == run
