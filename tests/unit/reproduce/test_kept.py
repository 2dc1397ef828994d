"""Cells that a repository keeps: a table goes on from them, by the value of a run and with the values of users."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from twotower.experiment.run import ModelSection, Run
from twotower.reproduce import kept as module
from twotower.reproduce import study
from twotower.reproduce.kept import STEPS, Back, keep_cells, kept_records, kept_values, put_back
from twotower.reproduce.study import Measured, Table, run_table
from twotower.reproduce.summary import summarise
from twotower.training.callbacks import EpochRecord

DATA = {"tiny": Path("tiny")}


def variants(data: str) -> Mapping[str, Sequence[Run]]:
    runs = {name: [Run(model=ModelSection("random", {"row": name, "a": a})) for a in (1, 2)] for name in ("one", "two")}
    return {**runs, "plain": [Run(model=ModelSection("random", {"row": "plain"}))]}


class Asked:
    """A ``measure`` without training that remembers how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, run: Run, dataset: object, folder: Path) -> Measured:
        self.times += 1
        value = len(str(run.model.settings)) + run.training.seed / 8 + run.model.settings.get("a", 0) / 4
        users = {"users": torch.arange(20), "recall@10": torch.linspace(0, 1, 20) * value, "hidden": torch.ones(20)}
        return Measured(value, {"recall@10": value}, [EpochRecord(1, 1, 1.0, 0.1, 1.0)], users)


class NoData:
    def to(self, device: torch.device) -> NoData:
        return self


@pytest.fixture
def table(monkeypatch) -> Table:
    monkeypatch.setattr(study.Dataset, "load", lambda path: NoData())
    return Table("made", "Made up", ("tiny",), variants, Asked(), "one", ("recall@10",), 3)


def test_a_table_goes_on_from_kept_cells_and_ends_with_the_same_pages(table, tmp_path):
    first, second, kept = (tmp_path / name for name in ("first", "second", "kept"))
    summarise(table, DATA, run_table(table, DATA, first), 3, first)
    asked = table.measure.times
    assert keep_cells(table, first, kept) == asked == 13
    assert put_back(table, kept, second) == Back(13, 0)
    summarise(table, DATA, run_table(table, DATA, second), 3, second)
    assert table.measure.times == asked
    assert '"p_users": null' in (first / "made.json").read_text()
    for name in ("made.md", "made.json"):
        assert (second / name).read_bytes() == (first / name).read_bytes()


def test_a_run_that_is_written_otherwise_now_is_the_same_run(table, tmp_path):
    run_table(table, DATA, tmp_path / "first", seeds=1)
    keep_cells(table, tmp_path / "first", tmp_path / "kept")
    cells = kept_records(tmp_path / "kept", "made")
    records = [json.loads(line) for line in gzip.decompress(cells.read_bytes()).splitlines()]
    for record in records:
        record["run"] = "# older\n" + record["run"].replace("[sampling]\n", "[sampling]\nbank_start = 0\n")
        assert "bank_start" in record["run"]
    cells.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    assert put_back(table, tmp_path / "kept", tmp_path / "second") == Back(len(records), 0)
    before = table.measure.times
    run_table(table, DATA, tmp_path / "second", seeds=1)
    assert table.measure.times == before


def test_a_cell_of_other_settings_is_left_out_and_counted(table, tmp_path):
    run_table(table, DATA, tmp_path / "first", seeds=1)
    keep_cells(table, tmp_path / "first", tmp_path / "kept")
    less = replace(table, variants=lambda data: {"plain": variants(data)["plain"]})
    assert put_back(less, tmp_path / "kept", tmp_path / "second") == Back(1, 6)


def test_cells_of_another_table_count_where_run_and_measure_are_the_same(table, tmp_path):
    run_table(table, DATA, tmp_path / "first", seeds=2)
    keep_cells(table, tmp_path / "first", tmp_path / "kept")
    renamed = replace(table, name="other", variants=lambda data: {"same": variants(data)["plain"]})
    assert put_back(renamed, tmp_path / "kept", tmp_path / "second", others=[table]) == Back(2, 0)
    (path,) = (tmp_path / "second").glob("tiny/same/seed-1-*.json")
    record = json.loads(path.read_text())
    assert (record["table"], record["variant"]) == ("other", "same")
    elsewhere = replace(renamed, measure=Asked())
    assert put_back(elsewhere, tmp_path / "kept", tmp_path / "third", others=[table]) == Back(0, 0)


def test_a_run_that_two_rows_share_comes_back_to_both(table, tmp_path):
    run_table(table, DATA, tmp_path / "first", seeds=1)
    keep_cells(table, tmp_path / "first", tmp_path / "kept")
    more = replace(table, variants=lambda data: {**variants(data), "same": variants(data)["one"][:1]})
    put_back(more, tmp_path / "kept", tmp_path / "second")
    for row in ("one", "same"):
        paths = (tmp_path / "second").glob(f"tiny/{row}/seed-0-*.json")
        assert any('"variant": "' + row + '"' in path.read_text() for path in paths), row
    before = table.measure.times
    run_table(table, DATA, tmp_path / "second", seeds=1)
    assert table.measure.times == before


def test_shown_values_of_users_are_kept_of_the_tables_own_seeds(table, tmp_path):
    run_table(table, DATA, tmp_path / "first", seeds=2)
    keep_cells(table, tmp_path / "first", tmp_path / "kept")
    (users,) = kept_values(tmp_path / "kept", "made")
    with np.load(users) as arrays:
        keys = arrays.files
    assert len(keys) == 2 * 2 * 3
    assert {key.rpartition("/")[2] for key in keys} == {STEPS, "recall@10"}
    assert not any("seed-0" in key for key in keys)


def test_much_is_kept_in_several_files_and_comes_back_as_it_was(table, tmp_path, monkeypatch):
    first, second, kept = (tmp_path / name for name in ("first", "second", "kept"))
    run_table(table, DATA, first)
    monkeypatch.setattr(module, "LARGEST", 1_500)
    keep_cells(table, first, kept)
    files = kept_values(kept, "made")
    assert files[0].name == "made-cells-users-2.npz"
    assert len(files) > 2
    assert max(path.stat().st_size for path in files) <= 1_500
    put_back(table, kept, second)
    for path in first.glob("*/*/seed-[1-9]*.safetensors"):
        before, after = load_file(path), load_file(second / path.relative_to(first))
        assert torch.equal(after["users"], before["users"])
        assert torch.equal(after["recall@10"], before["recall@10"])
    monkeypatch.undo()
    keep_cells(replace(table, measure=Asked()), second, kept)
    assert [path.name for path in kept_values(kept, "made")] == ["made-cells-users.npz"]
    content = kept_values(kept, "made")[0].read_bytes()
    keep_cells(table, first, kept)
    assert kept_values(kept, "made")[0].read_bytes() == content, "nothing of the time of day is in it"


def test_values_of_users_of_rows_that_are_views_are_kept_too(table, tmp_path):
    def measure(run: Run, dataset: object, folder: Path) -> Measured:
        found = Asked()(run, dataset, folder)
        short = {"98/recall@10": found.per_user["recall@10"] / 2, "98/hidden": torch.ones(20)}
        return found._replace(per_user=found.per_user | short, metrics=found.metrics | {"98/recall@10": 0.5})

    viewed = replace(table, measure=measure, views={"one/short": ("one", "98/")})
    chosen = run_table(viewed, DATA, tmp_path / "first")
    before = summarise(viewed, DATA, chosen, 3, tmp_path / "first")["tiny"]
    keep_cells(viewed, tmp_path / "first", tmp_path / "kept")
    with np.load(kept_values(tmp_path / "kept", "made")[0]) as arrays:
        assert {key.split("/", 3)[3] for key in arrays.files} == {STEPS, "recall@10", "98/recall@10"}
    put_back(viewed, tmp_path / "kept", tmp_path / "second")
    after = summarise(viewed, DATA, chosen, 3, tmp_path / "second")["tiny"]
    tested = [[f.p_users for f in part if f.variant == "one/short"] for part in (before, after)]
    assert tested[0] == tested[1]
    assert tested[0][0] is not None


def test_new_cells_join_those_that_are_kept(table, tmp_path):
    run_table(table, DATA, tmp_path / "first", seeds=1)
    assert keep_cells(table, tmp_path / "first", tmp_path / "kept") == 7
    put_back(table, tmp_path / "kept", tmp_path / "second")
    run_table(table, DATA, tmp_path / "second", seeds=2)
    for path in (tmp_path / "second").glob("*/*/seed-1-*"):
        path.unlink()
    assert keep_cells(table, tmp_path / "second", tmp_path / "kept") == 10
    assert put_back(table, tmp_path / "kept", tmp_path / "third") == Back(10, 0)
    assert len(list((tmp_path / "third").rglob("*.safetensors"))) == 6


def test_a_page_names_the_rows_that_have_no_result(table, tmp_path):
    summarise(table, DATA, run_table(table, DATA, tmp_path, only=["one"]), 3, tmp_path)
    assert "Rows of this table without a result on tiny: two, plain." in (tmp_path / "made.md").read_text()
    summarise(table, DATA, run_table(table, DATA, tmp_path), 3, tmp_path)
    assert "without a result" not in (tmp_path / "made.md").read_text()


def test_a_page_says_how_many_seeds_and_which_columns_it_lacks(table, tmp_path):
    table = replace(table, seeds=3, columns=("recall@10", "longest"))
    chosen = run_table(table, DATA, tmp_path)
    summarise(table, DATA, chosen, 2, tmp_path)
    text = (tmp_path / "made.md").read_text()
    assert "The table has 3 seeds; 2 were run." in text
    assert "Columns of this table without a value on tiny: longest." in text
    summarise(replace(table, columns=("recall@10",)), DATA, chosen, 3, tmp_path)
    text = (tmp_path / "made.md").read_text()
    assert "The table has" not in text
    assert "Columns of this table" not in text


def test_a_page_names_the_rows_that_users_do_not_judge(table, tmp_path):
    chosen = run_table(table, DATA, tmp_path)
    for path in (tmp_path / "tiny" / "two").glob("*.safetensors"):
        path.unlink()
    summarise(table, DATA, chosen, 3, tmp_path)
    said = "No test over users on tiny of two: values of users were not kept, of them or of one."
    assert said in (tmp_path / "made.md").read_text()
    for path in (tmp_path / "tiny").glob("*/*.safetensors"):
        path.unlink()
    figures = summarise(table, DATA, chosen, 3, tmp_path)["tiny"]
    assert "No test over users on tiny: no values of users are kept." in (tmp_path / "made.md").read_text()
    assert {figure.p_users for figure in figures} == {None}


def test_users_are_compared_over_the_seeds_that_both_rows_have(table, tmp_path):
    few = replace(table, fewer={"two": 2})
    chosen = run_table(few, DATA, tmp_path)
    before = summarise(few, DATA, chosen, 3, tmp_path)["tiny"]
    for path in (tmp_path / "tiny" / "one").glob("seed-3-*.safetensors"):
        values = load_file(path)
        signs = 100.0 * (-1.0) ** torch.arange(20)
        save_file({name: part if name == "users" else signs * part for name, part in values.items()}, path)
    after = summarise(few, DATA, chosen, 3, tmp_path)["tiny"]
    marks = [
        [f.p_users for f in figures if f.variant == "two" and f.metric == "recall@10"] for figures in (before, after)
    ]
    assert marks[0] == marks[1] != [None]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "benchmarks")
    import kept_cells

    return kept_cells


def test_a_row_without_all_of_its_tuning_or_its_first_seed_is_not_shown(script, table, tmp_path):
    run_table(table, DATA, tmp_path, seeds=2)
    next((tmp_path / "tiny" / "one").glob("seed-0-*.json")).unlink()
    next((tmp_path / "tiny" / "plain").glob("seed-2-*.json")).unlink()
    assert {name: count for name, (_, count) in script.complete(table, "tiny", tmp_path).items()} == {
        "two": 2,
        "plain": 1,
    }
    next((tmp_path / "tiny" / "plain").glob("seed-1-*.json")).unlink()
    assert list(script.complete(table, "tiny", tmp_path)) == ["two"]
