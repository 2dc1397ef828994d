"""Users prepared apart, in parts by a hash of their ids: the prepared folder is that of one process to the byte."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from twotower.cli.main import main
from twotower.core.engines.base import Task, Work
from twotower.core.engines.local import ThisProcess
from twotower.core.errors import InputError
from twotower.core.files import hash_folder, read_json
from twotower.core.parts import run_parts
from twotower.data.prepare.prepare import prepare

LOG = 'name = "shops"\n[interactions]\npath = "log-*.csv"\nuser = "user"\nitem = "item"\nmax_bad_share = 0.5\n'
TIME = 'time = "when"\n'
LABEL = '[label]\ncolumn = "stars"\nat_least = 3\n'
SPECS = {
    "by time": LOG + TIME,
    "a set": LOG,
    "in order": LOG + 'unit = "order"\n',
    "first of repeats": LOG + TIME + 'duplicates = "first"\n',
    "positives of few users": LOG + TIME + 'duplicates = "last"\nmin_user_events = 4\n' + LABEL,
    "labels": LOG + TIME + LABEL + 'keep = "all"\n',
    "a core of users and items": LOG + TIME + "min_user_events = 2\nmin_item_events = 6\n",
}


class Recording(ThisProcess):
    """This process, which keeps the tasks that it was given, by the name of the work."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[Task]] = {}

    def run(self, work: Work, tasks: Sequence[Task], on_done: Callable[[], None]) -> None:
        self.tasks[work.__name__] = list(tasks)
        super().run(work, tasks, on_done)


class Shuffled(ThisProcess):
    """An engine that does parts twice and in an order of its own, as one that lost a worker may."""

    def run(self, work: Work, tasks: Sequence[Task], on_done: Callable[[], None]) -> None:
        super().run(work, tasks[::-1], on_done)
        super().run(work, tasks[::2], lambda: None)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.data.prepare.spread.PART_EVENTS", 100)
    monkeypatch.setattr("twotower.data.prepare.merge.CHUNK", 37)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two files in which one id is spelled in several ways, with repeats, equal times and rows that cannot be used."""
    draw, users = random.Random(5), {"numbers": 40, "booleans": 2}.get(request.param, 40)
    spell = {
        "names": lambda number: f"Ünal {number}" if number % 3 else f"u{number}.0",
        "numbers": lambda number: draw.choice([f"{number}", f"{number}.0", f"{number}.00"]),
        "booleans": lambda number: draw.choice([["true", "True", "TRUE"], ["false", "False"]][number]),
    }[request.param]
    for number in range(2):
        lines = ["user,item,stars,when"]
        for _ in range(150):
            user = spell(int(draw.random() ** 2 * users))
            lines.append(f"{user},{draw.randrange(30)}.{draw.choice(['0', '00'])},{draw.randrange(1, 6)},{_time(draw)}")
            if draw.random() < 0.1:
                lines.append(draw.choice([",1,3,4", f"{user},,3,4", f"{user},1,many,4", f"{user},1,3,soon"]))
        (tmp_path / f"log-{number}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "items.csv").write_text("id\n" + "\n".join(f"{number}" for number in range(35)) + "\n")
    return tmp_path


def _time(draw: random.Random) -> str:
    return f"{draw.randrange(40) / 4}"


def spec(folder: Path, text: str, items: bool = False) -> Path:
    """Write a spec and return its path."""
    table = '[items]\npath = "items.csv"\nid = "id"\n' if items else ""
    (folder / "shops.toml").write_text(text + table, encoding="utf-8")
    return folder / "shops.toml"


@pytest.mark.parametrize(
    ("folder", "kind", "items"),
    [
        *(("names", kind, False) for kind in SPECS),
        *((ids, kind, True) for ids in ("numbers", "booleans") for kind in ("by time", "positives of few users")),
    ],
    indirect=["folder"],
)
def test_users_apart_give_the_folder_of_one_process(folder: Path, kind: str, items: bool) -> None:
    path, engine = spec(folder, SPECS[kind], items), Recording()
    prepare(path, folder / "one")
    prepare(path, folder / "parts", engine=engine)
    assert hash_folder(folder / "parts", leave_out=()) == hash_folder(folder / "one", leave_out=())
    assert len(engine.tasks["read_part"]) == 2
    gathered = len(engine.tasks.get("gather_part", []))
    assert gathered == 0 if "min_item_events" in SPECS[kind] else gathered > 2, "an item's least number needs all users"
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("folder", ["names"], indirect=True)
@pytest.mark.parametrize("above", ["user=7", "item=7", "time=7", "row=7", "number=7", "kind=0"])
def test_a_folder_called_like_a_column_above_the_files_is_no_column(above: str, folder: Path) -> None:
    path = spec(folder, SPECS["by time"], items=True)
    prepare(path, folder / "plain")
    for way, engine in (("one", None), ("parts", ThisProcess())):
        prepare(path, folder / above / way, engine=engine)
        assert hash_folder(folder / above / way, leave_out=()) == hash_folder(folder / "plain", leave_out=())


@pytest.mark.parametrize("folder", ["names"], indirect=True)
def test_odd_times_of_every_file_are_told(folder: Path) -> None:
    path = spec(folder, SPECS["by time"])
    for number, times in enumerate((["1500000000", "0"], ["0", "5000000000"])):
        lines = ["user,item,stars,when", *(f"u{place},i{place},5,{time}" for place, time in enumerate(times))]
        (folder / f"log-{number}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare(path, folder / "parts", engine=ThisProcess())
    said = " ".join(read_json(folder / "parts" / "manifest.json")["treatments"])
    assert "2 events have a time in 'when' of 0 or less" in said
    assert "1 events lie after the year 2100" in said


@pytest.mark.parametrize("folder", ["names"], indirect=True)
def test_repeats_are_counted_alike_in_any_number_of_shares(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spec(folder, SPECS["by time"])
    prepare(path, folder / "one")
    monkeypatch.setattr("twotower.data.prepare.select.PAIRS", 30)
    prepare(path, folder / "shares")
    assert read_json(folder / "one" / "manifest.json")["rows"]["log"]["repeated"] > 10
    assert hash_folder(folder / "shares", leave_out=()) == hash_folder(folder / "one", leave_out=())


@pytest.mark.parametrize("folder", ["names"], indirect=True)
def test_parts_done_twice_and_in_another_order_give_the_same_folder(folder: Path) -> None:
    path = spec(folder, SPECS["labels"])
    prepare(path, folder / "one")
    prepare(path, folder / "parts", engine=Shuffled())
    assert hash_folder(folder / "parts", leave_out=()) == hash_folder(folder / "one", leave_out=())


@pytest.mark.parametrize("folder", ["names"], indirect=True)
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (LABEL.replace("3", "9"), "not one event is positive: the label rule .* calls every one negative"),
        ("min_user_events = 400\n", "no event is left: no users with 400 events on items with 1"),
    ],
)
def test_a_log_of_which_no_part_keeps_an_event_is_one_line(rule: str, message: str, folder: Path) -> None:
    path = spec(folder, LOG + TIME + rule)
    for engine in (None, ThisProcess()):
        with pytest.raises(InputError, match=message):
            prepare(path, folder / "parts", engine=engine)
        assert not (folder / "parts").exists()


@pytest.mark.parametrize("folder", ["names"], indirect=True)
def test_workers_of_two_versions_of_duckdb_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = iter(["1.2.0", "1.3.0"])

    def unlike(*words):  # type: ignore[no-untyped-def]
        notes, before = run_parts(*words)
        return [{**note, "duckdb": next(versions)} for note in notes], before

    monkeypatch.setattr("twotower.data.prepare.spread.run_parts", unlike)
    with pytest.raises(InputError, match=r"DuckDB 1\.2\.0 and 1\.3\.0: install the same on all"):
        prepare(spec(folder, SPECS["by time"]), folder / "parts", engine=ThisProcess())


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["numbers"], indirect=True)
def test_two_processes_that_gather_users_give_the_same_folder(folder: Path) -> None:
    path = spec(folder, SPECS["positives of few users"], items=True)
    prepare(path, folder / "one")
    with pytest.raises(SystemExit) as stop:
        main(["data", "prepare", str(path), "--to", str(folder / "two"), "--workers", "2"])
    assert stop.value.code == 0
    assert hash_folder(folder / "two", leave_out=()) == hash_folder(folder / "one", leave_out=())
    assert read_json(folder / "two" / "manifest.json")["counts"]["events"] > 50
