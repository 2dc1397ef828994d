"""T2Diff's tables: logs as the paper cut them, rows that are tuned alike, and every row trained on a tiny data set."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.splitters import leave_one_out
from twotower.experiment.learn import learn
from twotower.experiment.run import Run
from twotower.models.registry import build_model
from twotower.models.t2diff import T2Diff
from twotower.reproduce.kept import keep_cells, put_back
from twotower.reproduce.study import run_table
from twotower.reproduce.summary import summarise
from twotower.reproduce.t2diff import ablations, long
from twotower.reproduce.t2diff.cosines import restored_cosines
from twotower.reproduce.t2diff.costs import FEWEST, TURNS, cost_sheet, write_costs
from twotower.reproduce.t2diff.data import as_judged
from twotower.reproduce.t2diff.measure import measure, parameters, targets_an_epoch
from twotower.reproduce.t2diff.rows import COUNTED, TOWERS, size_of
from twotower.reproduce.t2diff.table import TABLE, WIDE_TABLE, variants

SETS = ("ml-1m", "amazon-reviews-beauty", "kuairand-pure")
FAST = ("popularity", "sasrec", "bert4rec", "t2diff")


def log_of(users: list[list[int]], labels: list[list[float]] | None = None) -> Log:
    """Events of users from row 2 on."""
    offsets = torch.tensor([0, 0, 0, *torch.tensor([len(events) for events in users]).cumsum(0).tolist()])
    items = torch.tensor([item for events in users for item in events])
    marks = None if labels is None else torch.tensor([mark for part in labels for mark in part])
    return Log(offsets, items, None, marks)


def in_memory(log: Log, items: int) -> Dataset:
    return Dataset(Schema(len(log.offsets) - 1, items, has_times=False), log, {}, {}, {"name": "tiny"})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("data")
    spec = sources.get("synthetic", folder / "raw", settings=Synthetic(users=60, items=50, cold_items=2, events=12))
    return prepare(Spec.from_toml(spec), folder / "prepared")


def tiny(run: Run) -> Run:
    settings = run.model.settings
    if run.model.name not in COUNTED:
        settings = settings | {"dim": 8, "history_length": 10}
    if run.model.name == "t2diff":
        settings = settings | {"channels": 6, "session": min(4, settings.get("session", 4))}
    evaluate = min(run.training.evaluate_every, 2)
    training = replace(run.training, epochs=2, batch_size=32, evaluate_every=evaluate, device="cpu")
    return replace(run, model=replace(run.model, settings=settings), training=training)


def tiny_variants(data: str) -> dict[str, list[Run]]:
    rows = variants("ml-1m")
    return {name: [tiny(run) for run in rows[name]][: 2 if name == "sasrec" else 1] for name in FAST}


class TestLogs:
    def test_users_of_four_events_have_none_and_items_without_events_no_row(self):
        found = as_judged(in_memory(log_of([[3, 5, 7, 9, 11], [2, 3, 4, 5]]), 13))
        assert found.log.lengths.tolist() == [0, 0, 5, 0]
        assert found.log.items.tolist() == [2, 3, 4, 5, 6]
        assert found.schema.num_items == 7

    def test_the_latest_200_events_of_a_user_stay(self):
        found = as_judged(in_memory(log_of([list(range(2, 252))]), 260))
        assert found.log.num_events == 200
        assert found.schema.num_items == 202
        assert found.log.items.tolist() == list(range(2, 202))

    def test_what_was_shown_and_not_clicked_is_no_event_nor_is_a_second_click(self):
        log = log_of([[4, 9, 5, 4, 6, 7, 8]], [[1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
        found = as_judged(in_memory(log, 10))
        assert found.log.labels is None
        assert found.log.items.tolist() == [2, 3, 4, 5, 6]
        assert found.schema.num_items == 7


class TestRows:
    @pytest.mark.parametrize("data", SETS)
    def test_every_row_chooses_among_the_same_dropouts_and_nothing_else(self, data):
        rows = variants(data)
        assert set(rows) == {*COUNTED, *TOWERS}
        for name in TOWERS:
            assert [run.model.settings["dropout"] for run in rows[name]] == list(size_of(data).dropouts)
            alike = [replace(run, model=replace(run.model, settings={})) for run in rows[name]]
            assert alike == [alike[0]] * len(size_of(data).dropouts)
            settings = [{**run.model.settings, "dropout": 0.0} for run in rows[name]]
            assert settings == [settings[0]] * len(size_of(data).dropouts)

    @pytest.mark.parametrize("data", SETS)
    def test_all_rows_are_trained_by_one_schedule_and_cloze_for_twice_as_long(self, data):
        rows = variants(data)
        wanted = rows["sasrec"][0]
        for name in TOWERS:
            run = rows[name][0]
            epochs = wanted.training.epochs * (2 if name == "bert4rec" else 1)
            assert run.training == replace(wanted.training, epochs=epochs)
            assert (run.objective, run.data, run.evaluation) == (wanted.objective, wanted.data, wanted.evaluation)

    def test_the_long_table_differs_from_the_short_one_by_its_schedule_alone(self):
        short, wanted = variants("ml-1m"), long.variants("ml-1m")
        trained = {"sasrec", "mixed_attention", "t2diff", "t2diff_as_served"}
        assert set(wanted) == {*COUNTED, *trained}
        for name, runs in ((name, wanted[name]) for name in trained):
            assert [run.training for run in runs] == [wanted["sasrec"][0].training] * 3
            same = [replace(run, training=short[name][0].training) for run in runs]
            assert same == list(short[name][:3])  # dropouts of 0, 0.1 and 0.2
        training = wanted["sasrec"][0].training
        assert (training.epochs, training.schedule, training.learning_rate) == (110, "cosine", 2e-3)
        assert training.epochs % training.evaluate_every == 0  # the last weights are judged too

    def test_every_table_has_popularity_and_a_linear_autoencoder_trained_once(self):
        for table in (TABLE, WIDE_TABLE, long.TABLE, ablations.TABLE):
            for data in SETS:
                assert {"popularity", "ease"} <= set(table.variants(data))
            assert [len(table.seeds_of(name)) for name in ("popularity", "ease")] == [1, 1]

    def test_every_model_can_be_built_and_every_run_written_and_read(self):
        for table in (TABLE, WIDE_TABLE, long.TABLE, ablations.TABLE):
            for data in SETS:
                for name, runs in table.variants(data).items():
                    for run in runs:
                        assert Run.from_dict(tomllib.loads(run.to_toml())) == run
                    assert len({run.to_toml() for run in runs}) == len(runs), name
                    build_model(runs[0].model.name, Schema(9, 9), runs[0].model.settings)

    def test_sasrec_and_t2diff_are_as_large_as_the_papers(self):
        """0.126 M and 0.187 M with a table of 3,648 items; ours read places of 200 events."""
        rows = variants("ml-1m")
        sizes = {}
        for name in ("sasrec", "t2diff"):
            model = build_model(rows[name][0].model.name, Schema(6_042, 3_650), rows[name][0].model.settings)
            sizes[name] = sum(weight.numel() for weight in model.parameters()) / 1e6
            assert parameters(model) < 0.08e6
        assert sizes["sasrec"] == pytest.approx(0.126, rel=0.1)
        assert sizes["t2diff"] == pytest.approx(0.187, rel=0.1)

    def test_rows_of_ablations_differ_and_time_parts_sessions_where_there_is_a_clock(self):
        films, kuairand = (ablations.TABLE.variants(data) for data in ("ml-1m", "kuairand-pure"))
        assert [name for name in kuairand if "gap" in name] == ["mixed_gap_30min", "mixed_gap_1day"]
        assert set(films) == {*COUNTED, "sasrec", "mixed", *ablations.DECIDE} < set(kuairand)
        for rows in (films, kuairand):
            assert len({run.to_toml() for (run,) in rows.values()}) == len(rows)

    def test_rows_of_equal_targets_are_judged_once_at_the_end(self):
        every = ablations.TABLE.variants("kuairand-pure")
        rows = {name.removesuffix("_equal"): run for name, (run,) in every.items() if name.endswith("_equal")}
        assert set(rows) == set(ablations.EQUAL)
        for name, run in rows.items():
            assert run.training.evaluate_every == run.training.epochs
            assert run.training.patience == 0
            assert run.training.epochs == (80 if name == "bert4rec" else 20)


def check(name: str, run: Run, prepared: Path) -> None:
    """One cell: figures, values of users, and cosines of what restores something."""
    found = measure(replace(tiny(run), training=replace(tiny(run).training, seed=1)), Dataset.load(prepared))
    wanted = {"recall@2", "recall@20", "mrr@2", "mrr@20", "ndcg@10"}
    assert set(found.per_user) == wanted
    for metric in wanted:
        assert found.metrics[metric] == pytest.approx(float(found.per_user[metric].mean()))
    restores = run.model.name == "t2diff" and run.model.settings.get("restored") != "none"
    assert ({"cosine_trained", "cosine_asked"} <= set(found.metrics)) is restores, name
    assert ("million_targets" in found.metrics) is (run.model.name not in COUNTED)
    assert found.validation >= 0.0


class TestCells:
    @pytest.mark.parametrize("name", FAST)
    def test_a_row_trains_and_is_judged(self, name, prepared):
        check(name, variants("ml-1m")[name][1 if name in TOWERS else 0], prepared)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [name for name in (*COUNTED, *TOWERS) if name not in FAST])
    def test_every_other_row_trains_and_is_judged(self, name, prepared):
        check(name, variants("ml-1m")[name][0], prepared)

    @pytest.mark.slow
    def test_every_row_of_the_ablations_trains(self, prepared):
        for data in ("ml-1m", "kuairand-pure"):
            for name, (run,) in ablations.TABLE.variants(data).items():
                steps = {k: min(v, 12) for k, v in run.model.settings.items() if k in ("noise_steps", "restore_steps")}
                run = replace(run, model=replace(run.model, settings=run.model.settings | steps))
                check(name, replace(run, evaluation=variants("ml-1m")["sasrec"][0].evaluation), prepared)

    def test_a_tuning_cell_looks_at_validation_alone(self, prepared):
        found = measure(tiny(variants("ml-1m")["sasrec"][0]), Dataset.load(prepared))
        assert found.validation > 0.0
        assert not found.per_user
        assert "ndcg@10" not in found.metrics

    def test_of_cloze_the_hidden_places_are_counted(self):
        log = log_of([list(range(2, 2 + length)) for length in (3, 4, 6, 12, 9, 30)])
        dataset = in_memory(log, 40)
        model = build_model("bert4rec", dataset.schema, {"history_length": 10})
        split = leave_one_out(log)
        lengths = [
            min(11, len(part)) for part in split.train.items.split(split.train.lengths.tolist()) if len(part) > 1
        ]
        masks = torch.arange(11) < torch.tensor(lengths)[:, None]
        torch.manual_seed(0)
        drawn = torch.tensor([float(model.tower.draw(masks).sum()) for _ in range(2_000)])
        found = targets_an_epoch(model, dataset, split)
        assert found == pytest.approx(float(drawn.mean()), abs=4 * float(drawn.std()) / 2_000**0.5)
        plain = build_model("sasrec", dataset.schema, {"history_length": 10})
        assert targets_an_epoch(plain, dataset, split) == sum(length - 1 for length in lengths)

    def test_cosines_are_those_of_each_user_alone_against_the_item_to_be_found(self, prepared):
        dataset = as_judged(Dataset.load(prepared))
        split = leave_one_out(dataset.log)
        run = tiny(variants("ml-1m")["t2diff"][0])
        model, _ = learn(run, dataset, split)
        assert isinstance(model, T2Diff)
        found = restored_cosines(model, dataset, split.train, split.test)
        model.eval()
        one_by_one = []
        with torch.no_grad():
            for user in split.test.users().tolist():
                start, end = split.test.history.offsets[user : user + 2].tolist()
                history = split.test.history.items[max(start, end - 10) : end][None]
                restored = model.next_item(model.embedded(history), history > 0)[0, -1]
                truth = model.embedded(split.test.truth.items[split.test.truth.offsets[user]][None, None])[0, 0]
                one_by_one.append(torch.cosine_similarity(restored, truth, dim=0))
        assert found["cosine_asked"] == pytest.approx(float(torch.stack(one_by_one).mean()), abs=1e-5)
        assert -1.0 <= found["cosine_trained"] <= 1.0


def test_the_table_from_data_to_figures_and_back_from_kept_cells(prepared, tmp_path):
    table = replace(TABLE, variants=tiny_variants)
    data = {"tiny": prepared}
    chosen = run_table(table, data, tmp_path / "first", seeds=2)
    figures = summarise(table, data, chosen, 2, tmp_path / "first")["tiny"]
    assert list(dict.fromkeys(figure.variant for figure in figures)) == list(FAST)
    found = {(figure.variant, figure.metric): figure for figure in figures}
    tested = found["t2diff", "ndcg@10"]
    assert tested.p_users is not None
    assert tested.holm_users is not None
    assert len(found["popularity", "ndcg@10"].values) == 1
    assert ("sasrec", "cosine_asked") not in found
    page = (tmp_path / "first" / "t2diff.md").read_text()
    assert "| recall@2 | recall@20 | mrr@2 | mrr@20 | ndcg@10 | million_parameters | cosine_trained |" in page
    count = keep_cells(table, tmp_path / "first", tmp_path / "kept")
    assert put_back(table, tmp_path / "kept", tmp_path / "second").written == count
    again = run_table(table, data, tmp_path / "second", seeds=2, notice=lambda text: pytest.fail(text))
    figures_again = summarise(table, data, again, 2, tmp_path / "second")["tiny"]
    shown = {(figure.variant, figure.metric): figure for figure in figures_again if figure.metric in table.columns}
    assert shown == {key: figure for key, figure in found.items() if figure.metric in table.columns}


def test_costs_are_written_and_not_measured_again(prepared, tmp_path, monkeypatch):
    chosen = {"tiny": {name: runs[0] for name, runs in tiny_variants("").items()}}
    sheet, page = write_costs(TABLE, {"tiny": prepared}, chosen, tmp_path)
    costs = json.loads(sheet.read_text())["tiny"]["cpu"]["costs"]
    assert set(costs) == set(FAST) - {"popularity"}
    for row in costs.values():
        assert min(row["ms_a_user_at_1"], row["ms_a_user_at_512"]) > 0.0
        assert row["million_parameters"] > row["million_without_tables"] > 0.0
    assert "| sasrec | " in page.read_text()
    monkeypatch.setattr("twotower.reproduce.t2diff.costs.cost_sheet", lambda *_: pytest.fail("measured again"))
    write_costs(TABLE, {"tiny": prepared}, chosen, tmp_path)


def test_a_dear_model_has_fewer_turns_and_a_device_is_written_before_the_next_is_measured(
    prepared, tmp_path, monkeypatch
):
    asked: list[str] = []

    def seconds(model, users):
        asked.append(type(model).__name__)
        return 6.0 if isinstance(model, T2Diff) else 0.01

    monkeypatch.setattr("twotower.reproduce.t2diff.costs._seconds", seconds)
    runs = {name: tiny_variants("")[name][0] for name in ("sasrec", "t2diff")}
    costs = cost_sheet(runs, as_judged(Dataset.load(prepared)))
    assert asked.count("SASRec") == 2 * (TURNS + 1)
    assert asked.count("T2Diff") == 2 * (FEWEST + 1)
    assert costs["t2diff"]["ms_a_user_at_1"] == 6_000.0

    sheets = iter([costs, KeyboardInterrupt()])

    def one_device(*_):
        found = next(sheets)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr("twotower.reproduce.t2diff.costs.cost_sheet", one_device)
    with pytest.raises(KeyboardInterrupt):
        write_costs(TABLE, {"tiny": prepared, "twice": prepared}, {"tiny": runs, "twice": runs}, tmp_path)
    assert json.loads((tmp_path / "t2diff-costs.json").read_text())["tiny"]["cpu"]["costs"] == costs
    assert "| t2diff | " in (tmp_path / "t2diff-costs.md").read_text()
