# mypy: allow-untyped-defs, allow-incomplete-defs
"""Trainings of several tables side by side: what starts first, what is not begun, and that tables go on from them."""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path

import pytest

from twotower.reproduce.study import run_table
from twotower.reproduce.tables import table_of

ORDER = """
[[cells]]
table = "leaderboard"
data = "tiny"
prepared = "{prepared}"
rows = ["item_*", "sasrec"]

[[cells]]
table = "leaderboard"
data = "tiny"
prepared = "{prepared}"
rows = ["popularity"]
seconds = 2000
"""


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "benchmarks")
    import side_by_side

    return side_by_side


@pytest.fixture
def order(script, tmp_path):
    (tmp_path / "order.toml").write_text(ORDER.format(prepared=(tmp_path / "tiny").as_posix()))
    return script.read_order(tmp_path / "order.toml")


def starts(found):
    return [(one.cell.variant, one.cell.run.training.seed) for one in found]


def test_entries_in_their_order_and_of_one_entry_what_holds_up_most(script, order, tmp_path):
    found = script.ready(order, tmp_path / "to")
    assert starts(found) == [("sasrec", 0), ("sasrec", 0), ("item_lists", 0), ("item_lists", 0), ("popularity", 1)]
    assert [one.holds_up for one in found] == [300.0, 300.0, 60.0, 60.0, 0.0]  # five seeds of a minute, one, none
    assert found[-1].seconds == 2000


def test_a_training_under_way_comes_before_the_others_of_its_entry(script, order, tmp_path):
    before = script.ready(order, tmp_path / "to")
    assert [one.cell.variant for one in before[:4]] == ["sasrec", "sasrec", "item_lists", "item_lists"]
    begun = before[3].cell
    begun.unfinished(tmp_path / "to" / "leaderboard").mkdir(parents=True)
    after = script.ready(order, tmp_path / "to")
    assert [one.under_way for one in after] == [True, False, False, False, False]
    assert after[0].cell == begun


def test_finished_cells_say_how_long_a_row_takes_and_tuned_rows_go_on_to_their_seeds(script, order, tmp_path):
    folder = tmp_path / "to" / "leaderboard"
    for one, validation in zip(script.ready(order, tmp_path / "to")[:2], (0.1, 0.2), strict=True):
        path = one.cell.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "validation": validation,
            "metrics": {"seconds_per_epoch": 4.0},
            "curves": [{"epoch": 2}, {"epoch": 7}],
        }
        path.write_text(json.dumps(record))
    found = script.ready(order, tmp_path / "to")
    seeds = [one for one in found if one.cell.variant == "sasrec"]
    assert [one.cell.run.training.seed for one in seeds] == [1, 2, 3, 4, 5]
    assert {one.cell.run.model.settings["dim"] for one in seeds} == {128}  # the second choice, which was better
    assert {one.seconds for one in seeds} == {7 * 4.0 + script.START}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows = 1", "is no order of [[cells]]: 'cells'"),
        ('[[cells]]\ntable = "fit"\ndata = "ml-1m"', "missing 1 required positional argument: 'prepared'"),
        ('[[cells]]\ntable = "fitt"\ndata = "a"\nprepared = "b"', "unknown table 'fitt'; did you mean 'fit'?"),
        ("[[cells", "is no order of [[cells]]"),
    ],
)
def test_an_order_that_is_none_is_refused_in_one_line(script, tmp_path, monkeypatch, capsys, text, said):
    (tmp_path / "order.toml").write_text(text)
    monkeypatch.setattr("sys.argv", ["side_by_side.py", str(tmp_path / "order.toml")])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_what_can_end_is_trained_first_then_the_rest_and_the_table_goes_on(
    script, order, prepared_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        script,
        "ready",
        lambda *given, ready=script.ready: [one for one in ready(*given) if one.cell.variant != "sasrec"],
    )
    done, failed = script.train(order, tmp_path / "to", limit=500.0, jobs=1)  # two would end in either order
    assert not failed
    assert [(cell.variant, cell.run.training.seed) for cell in done[:2]] == [("item_lists", 0)] * 2
    assert {(cell.variant, cell.run.training.seed) for cell in done[2:]} == {("item_lists", 1), ("popularity", 1)}
    assert "4 finished, 0 failed, 0 could go on" in capsys.readouterr().out
    told: list[str] = []
    run_table(
        table_of("leaderboard"),
        {"tiny": prepared_folder},
        tmp_path / "to" / "leaderboard",
        only=["item_lists"],
        notice=told.append,
    )
    assert not told


@pytest.mark.slow
def test_a_training_that_fails_is_said_and_the_others_go_on(script, order, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "ready", lambda *given, ready=script.ready: ready(*given)[2:4])
    assert script.train(order, tmp_path / "to", limit=500.0, jobs=1) == ([], 2)
    said = capsys.readouterr().out
    assert "0 finished, 2 failed, 0 could go on" in said
    assert said.count("InputError") >= 2


@pytest.mark.slow
def test_when_it_is_stopped_its_trainings_stop_too(script, order, prepared_folder, tmp_path, monkeypatch):
    before = set(multiprocessing.active_children())
    asked = iter([[one for one in script.ready(order, tmp_path / "to") if one.cell.variant == "item_lists"]])

    def stopped(*_):
        if (found := next(asked, None)) is not None:
            return found
        raise SystemExit

    monkeypatch.setattr(script, "ready", stopped)
    with pytest.raises(SystemExit):
        script.train(order, tmp_path / "to", limit=500.0, jobs=2)
    for process in set(multiprocessing.active_children()) - before:
        process.join(20)
        assert process.exitcode == -signal.SIGKILL, "at once, in the middle of a training too"
