"""A paper's table: tuned on validation data, resumed cell by cell, and summed up as the statistics books say."""

from __future__ import annotations

import functools
import json
import operator
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import save_file

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.sources.registry import source_of
from twotower.experiment.run import ModelSection, Run
from twotower.reproduce import study
from twotower.reproduce.sets import fetched_sets, given_sets
from twotower.reproduce.study import Measured, Table, cells_of, gpu_of_jobs, run_table
from twotower.reproduce.summary import corrected, paired_t, summarise, t_interval
from twotower.reproduce.tables import TABLES, table_of
from twotower.reproduce.users import mean_over_seeds, read_users, users_test
from twotower.training.callbacks import EpochRecord

SCORES = {"plain": [0.2, 0.4, 0.3], "better": [0.5, 0.9, 0.6]}


def run_of(name: str, strength: float) -> Run:
    return Run(model=ModelSection("random", {"row": name, "strength": strength}))


def variants(data: str) -> Mapping[str, Sequence[Run]]:
    return {"plain": [run_of("plain", 1.0)], "better": [run_of("better", strength) for strength in (1.0, 3.0, 2.0)]}


class Counting:
    """A ``measure`` without training: what it was asked, and figures that follow from the settings."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float, int]] = []

    def __call__(self, run: Run, dataset: object, folder: Path) -> Measured:
        name, strength, seed = run.model.settings["row"], run.model.settings["strength"], run.training.seed
        self.asked.append((name, strength, seed))
        value = SCORES[name][(seed - 1) % 3]
        users = torch.linspace(0.0, 1.0, 40) * value
        return Measured(strength, {"recall@10": value}, [EpochRecord(1, 1, 1.0, 0.1, 1.0)], {"recall@10": users})


@pytest.fixture
def table(monkeypatch) -> Table:
    made = Table("made", "Made up", ("tiny",), variants, Counting(), "plain", ("recall@10",), 3)
    monkeypatch.setitem(TABLES, "made", made)
    monkeypatch.setattr(study.Dataset, "load", lambda path: NoData())
    return made


class NoData:
    def to(self, device: torch.device) -> NoData:
        return self


def test_the_choice_with_the_best_validation_runs_on_every_seed(table, tmp_path):
    chosen = run_table(table, {"tiny": Path("tiny")}, tmp_path, seeds=2)
    assert chosen["tiny"]["better"].model.settings["strength"] == 3.0
    asked = table.measure.asked
    assert sorted(asked[:3]) == [("better", 1.0, 0), ("better", 2.0, 0), ("better", 3.0, 0)]
    assert sorted(asked[3:]) == [("better", 3.0, 1), ("better", 3.0, 2), ("plain", 1.0, 1), ("plain", 1.0, 2)]


def test_what_is_done_stays_done_and_other_settings_are_other_cells(table, tmp_path):
    run_table(table, {"tiny": Path("tiny")}, tmp_path, seeds=2)
    before = len(table.measure.asked)
    run_table(table, {"tiny": Path("moved")}, tmp_path, seeds=2)
    assert len(table.measure.asked) == before
    run_table(table, {"tiny": Path("tiny")}, tmp_path, seeds=3)
    assert table.measure.asked[before:] == [("plain", 1.0, 3), ("better", 3.0, 3)]
    changed = replace(table, variants=lambda data: {"plain": [run_of("plain", 9.0)]})
    before = len(table.measure.asked)
    run_table(changed, {"tiny": Path("tiny")}, tmp_path, seeds=1)
    assert table.measure.asked[before:] == [("plain", 9.0, 1)]


def test_summary_has_the_mean_interval_and_tests(table, tmp_path):
    data = {"tiny": Path("tiny")}
    figures = summarise(table, data, run_table(table, data, tmp_path), 3, tmp_path)["tiny"]
    plain, better = figures
    assert (plain.variant, plain.p_seeds, plain.p_users) == ("plain", None, None)
    assert better.mean == pytest.approx(np.mean(SCORES["better"]))
    assert better.difference == pytest.approx(np.mean(SCORES["better"]) - np.mean(SCORES["plain"]))
    interval = scipy.stats.ttest_1samp(SCORES["better"], 0.0).confidence_interval(0.95)
    assert (better.low, better.high) == pytest.approx(tuple(interval))
    assert better.p_seeds == pytest.approx(scipy.stats.ttest_rel(SCORES["better"], SCORES["plain"]).pvalue)
    # All users but the first are better off: under random signs that is next to impossible.
    assert better.p_users is not None
    assert better.p_users < 0.001
    assert json.loads((tmp_path / "made.json").read_text())["figures"]["tiny"][1]["values"] == SCORES["better"]
    assert "| better | 0.6667 ± 0.5171" in (tmp_path / "made.md").read_text()


def test_a_variant_of_fewer_seeds_is_paired_with_the_first_of_the_reference(table, tmp_path):
    data, table = {"tiny": Path("tiny")}, replace(table, fewer={"better": 2})
    figures = summarise(table, data, run_table(table, data, tmp_path), 3, tmp_path)["tiny"]
    assert [len(figure.values) for figure in figures] == [3, 2]
    assert figures[1].p_seeds == pytest.approx(scipy.stats.ttest_rel([0.5, 0.9], [0.2, 0.4]).pvalue)
    assert "over 3 (better: 2) seeds" in (tmp_path / "made.md").read_text()


def test_metrics_beside_the_reference_are_paired_by_seed(table, tmp_path):
    table = replace(table, beside=lambda own, reference: {"gain": own["recall@10"] - reference["recall@10"]})
    data = {"tiny": Path("tiny")}
    figures = summarise(table, data, run_table(table, data, tmp_path), 3, tmp_path)["tiny"]
    gains = next(figure for figure in figures if (figure.variant, figure.metric) == ("better", "gain"))
    assert gains.values == pytest.approx((0.3, 0.5, 0.3))


def test_a_metric_that_the_reference_lacks_has_no_difference(table, tmp_path):
    own = replace(table, beside=lambda own, other: {"only": 1.0} if own["recall@10"] > 0.45 else {})
    figures = summarise(own, {"d": tmp_path}, run_table(own, {"d": tmp_path}, tmp_path), 3, tmp_path)["d"]
    (found,) = [figure for figure in figures if figure.metric == "only"]
    assert (found.variant, found.mean, found.difference, found.p_seeds) == ("better", 1.0, None, None)
    kept = json.loads((tmp_path / "made.json").read_text())["figures"]["d"]
    assert [figure["difference"] for figure in kept if figure["metric"] == "only"] == [None]


def test_the_page_names_whom_it_compares_with(table, tmp_path):
    data = {"tiny": Path("tiny")}
    summarise(table, data, run_table(table, data, tmp_path, only=["better"]), 3, tmp_path)
    assert "over 3 seeds (Student's t). Differs from better with" in (tmp_path / "made.md").read_text()
    summarise(table, data, run_table(table, data, tmp_path, seeds=1), 1, tmp_path)
    assert "One seed, so no intervals. Differs from plain with" in (tmp_path / "made.md").read_text()


def test_what_has_to_be_said_of_a_row_stands_below_the_tables_that_have_it(table, tmp_path):
    noted = replace(table, notes={"better": "trained on two thirds.", "absent": "not here."})
    chosen = run_table(noted, {"tiny": Path("tiny")}, tmp_path)
    summarise(noted, {"tiny": Path("tiny")}, chosen, 3, tmp_path)
    text = (tmp_path / "made.md").read_text()
    assert text.endswith("\nbetter: trained on two thirds.\n")
    assert "absent" not in text


def test_marks_are_corrected_over_rows_and_shown_columns_and_can_be_made_again(table, tmp_path):
    data = {"tiny": Path("tiny")}
    figures = summarise(table, data, run_table(table, data, tmp_path), 3, tmp_path)["tiny"]
    better = figures[1]
    assert (better.holm_seeds, better.holm_users) == (better.p_seeds, better.p_users)  # one comparison
    assert (figures[0].holm_seeds, figures[0].holm_users) == (None, None)
    many = [replace(better, variant=str(at), p_seeds=p) for at, p in enumerate((0.01, 0.04, 0.03))]
    hidden = replace(better, metric="hidden", p_seeds=0.001)
    found = corrected([*many, hidden], ("recall@10",))
    assert [figure.holm_seeds for figure in found] == [*(pytest.approx(p) for p in (0.03, 0.06, 0.06)), None]
    kept = read_users(tmp_path / "made-tiny-users.npz")
    assert users_test(kept["better"], kept["plain"], "recall@10") == better.p_users
    page = (tmp_path / "made.md").read_text()
    assert "††" in page.splitlines()[7]
    assert "after Holm's correction" in page


def test_users_of_one_split_a_seed_are_averaged_over_the_seeds_that_ask_them(tmp_path, monkeypatch):
    cells = cells_of(TABLES["fit"], "tiny", Path("tiny"), "plain", run_of("plain", 1.0), 2)
    for cell, users, values in zip(cells, ([3, 5], [5, 9]), ([0.5, 1.0], [0.0, 0.25]), strict=True):
        path = cell.path(tmp_path).with_suffix(".safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"users": torch.tensor(users), "recall@10": torch.tensor(values)}, path)
    means = mean_over_seeds(cells, tmp_path)
    assert means["users"].tolist() == [3, 5, 9]
    assert means["recall@10"].tolist() == [0.5, 0.5, 0.25]
    assert users_test(means, {"users": torch.tensor([5]), "recall@10": torch.tensor([0.5])}, "recall@10") == 1.0
    assert users_test(means, {}, "recall@10") is None


def test_one_seed_has_no_interval():
    assert t_interval(np.array([0.3])) == (None, None)
    assert paired_t(np.array([0.3]), np.array([0.2])) is None
    assert paired_t(np.array([0.25, 0.5]), np.array([0.0, 0.25])) is None
    sizes = np.full(3, 71 / 70_000), np.full(3, 0.126)  # of parameters: alike in every seed
    assert (sizes[0] - sizes[1]).std(ddof=1) > 0.0
    assert paired_t(*sizes) is None
    assert paired_t(np.array([0.1, 0.1, 0.1 + 1e-9]), np.full(3, 0.2)) < 1e-6


@pytest.mark.bad_input
def test_bad_input_is_named(table, tmp_path):
    with pytest.raises(InputError, match="no variant 'nicer'; there are plain, better"):
        run_table(table, {"tiny": Path("tiny")}, tmp_path, only=["nicer"])
    with pytest.raises(InputError, match="seeds and jobs must be at least 1, got 0 and 1"):
        run_table(table, {"tiny": Path("tiny")}, tmp_path, seeds=0)
    with pytest.raises(InputError, match="negatives"):
        table_of("negative")


def test_a_tables_own_sets_are_fetched_and_what_cannot_be_had_is_left_out(table, tmp_path, monkeypatch):
    monkeypatch.undo()  # data sets are read for real
    notices: list[str] = []
    asked = replace(table, data=("synthetic", "amazon-reviews Toys", "nowhere"))
    assert fetched_sets(asked, tmp_path, notices.append) == {"synthetic": tmp_path / "synthetic-prepared"}
    assert [text.split(" is left out")[0] for text in notices if "left out" in text] == [
        "amazon-reviews Toys",
        "nowhere",
    ]
    again = fetched_sets(replace(table, data=("synthetic",)), tmp_path, notices.append)
    assert list(again) == ["synthetic"]


@pytest.mark.bad_input
def test_a_table_without_data_or_with_a_set_twice_is_refused(table, tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(InputError, match="none of nowhere could be had; give --data DIR"):
        fetched_sets(replace(table, data=("nowhere",)), tmp_path, lambda text: None)
    prepared = fetched_sets(replace(table, data=("synthetic",)), tmp_path, lambda text: None)["synthetic"]
    with pytest.raises(InputError, match="both are 'synthetic'"):
        given_sets([prepared, prepared])


def test_processes_share_out_the_gpus():
    assert gpu_of_jobs(5, 2, None) == ["0", "1", "0", "1", "0"]
    assert gpu_of_jobs(3, 2, "4,6") == ["4", "6", "4"]  # those that the caller may see
    assert gpu_of_jobs(2, 0, None) == ["", ""]


def test_the_sets_that_tables_name_are_known():
    for made in TABLES.values():
        for wanted in made.data:
            name, _, category = wanted.partition(" ")
            assert not category or category in source_of(name).categories


def test_a_checkpoint_stands_beside_its_cell_until_the_result_does(table, tmp_path):
    met = []

    def measure(run: Run, dataset: object, folder: Path) -> Measured:
        met.append(folder.exists())
        folder.mkdir(parents=True, exist_ok=True)
        if len(met) == 3:
            raise KeyboardInterrupt
        return table.measure(run, dataset, folder)

    stopped = replace(table, measure=measure)
    with pytest.raises(KeyboardInterrupt):
        run_table(stopped, {"tiny": Path("tiny")}, tmp_path)
    left = list(tmp_path.rglob("*.run"))
    assert len(left) == 1
    assert not left[0].with_suffix(".json").exists()
    run_table(stopped, {"tiny": Path("tiny")}, tmp_path)
    assert met[:4] == [False, False, False, True]
    assert not any(met[4:])
    assert not list(tmp_path.rglob("*.run"))


@pytest.mark.slow
def test_the_verb_in_two_processes(tmp_path, capsys):
    from twotower.cli.main import main
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    spec = sources.get("synthetic", tmp_path / "raw", settings=Synthetic(users=40, items=60, cold_items=2, events=8))
    prepared = prepare(Spec.from_toml(spec), tmp_path / "prepared")
    words = ["reproduce", "negatives", "--data", str(prepared), "--only", "in_batch", "--seeds", "1", "--jobs", "2"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--to", str(tmp_path / "out"), "--json"])
    assert stopped.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert {figure["variant"] for figure in found["figures"][Dataset.load(prepared).name]} == {"in_batch"}
    assert len(list((tmp_path / "out").rglob("seed-0-*.json"))) == 3


def test_the_list_of_tables(capsys):
    from twotower.cli.main import main

    for words in (["--list"], ["--list", "--json"]):
        with pytest.raises(SystemExit) as end:
            main(["reproduce", *words])
        assert end.value.code == 0
    lines, listed = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert json.loads(listed)["fit"] == {"title": TABLES["fit"].title, "data": list(TABLES["fit"].data)}
    assert [line.split()[0] for line in lines.splitlines()] == list(TABLES) == list(json.loads(listed))


@pytest.mark.slow
def test_trainings_under_way_end_with_the_table(monkeypatch):
    # Functions of the standard library, since other processes do not find those of a test file.
    monkeypatch.setattr(study, "measure_cell", operator.call)
    quick, long = operator.is_not, functools.partial(select.select, [], [])
    trainings = study._measured([quick, *[long] * 4], [], 120.0, 2)  # type: ignore[list-item, arg-type]
    assert next(trainings)[1] is True
    began = time.monotonic()
    trainings.close()  # as Ctrl-C does
    assert time.monotonic() - began < 60
    assert not active_children()
