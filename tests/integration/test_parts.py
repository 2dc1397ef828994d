"""Parts on disk: what is whole is kept, what is not is made again, and nothing else is taken for an answer."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from twotower.core.engines.local import ThisProcess
from twotower.core.errors import InputError
from twotower.core.parts import Job, Note, finish_parts, prepare_parts, read_parts, run_parts
from twotower.core.store import Store, local_file

PLAN = {"question": "numbers"}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("engine_work")


@pytest.fixture(params=["local", "odd name", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    MemoryFileSystem.store.clear()
    yield Store(
        {
            "local": str(tmp_path / "numbers"),
            "odd name": str(tmp_path / "numbers [1]"),
            "file": (tmp_path / "numbers").as_uri(),
            "memory": "memory://numbers",
        }[request.param]
    )
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def content(store: Store, name: str) -> str:
    with store.reading(name) as path:
        return path.read_text()


def put(store: Store, name: str, text: str) -> None:
    with store.writing(name) as path:
        path.write_text(text)


class Counting(ThisProcess):
    """This process, which keeps the parts that it was asked for and may stop."""

    def __init__(self, stop: int = -1) -> None:
        self.asked: list[int] = []
        self.stop = stop

    def run(self, work, tasks, on_done) -> None:  # type: ignore[no-untyped-def]
        def counted(task: dict[str, int]) -> None:
            if len(self.asked) == self.stop:
                raise KeyboardInterrupt
            self.asked.append(task["part"])
            work(task)

        super().run(counted, tasks, on_done)


def run(store: Store, work: ModuleType, engine: Counting, plan: dict[str, str] = PLAN) -> list[Note]:
    prepare_parts(store, plan)
    job = Job(plan, work.write_number, [{"value": 10 + number} for number in range(5)])
    notes, _ = run_parts(store, job, engine, lambda done: None)
    finish_parts(store, plan, notes)
    return notes


def test_parts_come_with_a_manifest_and_nothing_else(store: Store, work: ModuleType) -> None:
    notes = run(store, work, Counting())
    assert sorted(store.sizes()) == [*(f"00000{number}.parquet" for number in range(5)), "manifest.json"]
    assert [content(store, note["name"]) for note in notes] == ["10", "11", "12", "13", "14"]
    assert read_parts(store, check=True)["parts"] == notes


def test_a_stopped_run_keeps_what_is_whole(store: Store, work: ModuleType) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store, work, Counting(stop=3))
    with pytest.raises(InputError, match="no manifest.json, so it is not whole: a run was stopped"):
        read_parts(store)
    again = Counting()
    run(store, work, again)
    assert again.asked == [3, 4]
    third = Counting()
    run(store, work, third)
    assert third.asked == [], "what is whole is not made again"


@pytest.mark.parametrize("damage", ["part", "changed", "note", "no note", "temporary"])
def test_a_part_that_is_not_whole_is_made_again(damage: str, store: Store, work: ModuleType) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store, work, Counting(stop=3))
    if damage == "changed" and store.local is None:
        pytest.skip("elsewhere the sizes alone are compared, until a reader asks for more")
    if damage in ("part", "changed"):
        put(store, "000001.parquet", "1" if damage == "part" else "99")
    elif damage == "note":
        put(store, "000001.json", "{")
    elif damage == "no note":
        store.remove("000001.json")
    else:
        put(store, ".000001.parquet.half", "1")
    again = Counting()
    run(store, work, again)
    assert again.asked == ([3, 4] if damage == "temporary" else [1, 3, 4])
    assert content(store, "000001.parquet") == "11"
    assert not [name for name in store.sizes() if name.startswith(".")]


@pytest.mark.parametrize("now", ["99", "999"])
def test_a_whole_with_a_changed_part_is_refused_when_asked_again(now: str, store: Store, work: ModuleType) -> None:
    run(store, work, Counting())
    if store.local is None and now == "99":
        pytest.skip("elsewhere the sizes alone are compared, until a reader asks for more")
    put(store, "000001.parquet", now)
    again = Counting()
    with pytest.raises(InputError, match=r"000001\.parquet is damaged, not what the manifest says"):
        run(store, work, again)
    assert again.asked == []


def test_parts_of_another_question_are_made_anew_and_whole_ones_are_not_touched(
    store: Store, work: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store, work, Counting(stop=3), {"question": "other"})
    again = Counting()
    run(store, work, again)
    assert again.asked == [0, 1, 2, 3, 4]
    assert "another bundle or question" in caplog.text
    with pytest.raises(InputError, match="holds the answer to another question"):
        run(store, work, Counting(), {"question": "other"})
    assert content(store, "000004.parquet") == "14"


def test_a_place_with_something_else_is_left_alone(store: Store, work: ModuleType) -> None:
    put(store, "thesis.txt", "years of work")
    with pytest.raises(InputError, match=r"holds something else, such as thesis\.txt"):
        run(store, work, Counting())
    assert list(store.sizes()) == ["thesis.txt"]


def test_work_that_wrote_elsewhere_makes_no_whole(store: Store, work: ModuleType, tmp_path: Path) -> None:
    prepare_parts(store, PLAN)
    job = Job(PLAN, work.touch, [{"file": str(tmp_path / "elsewhere")}])
    with pytest.raises(InputError, match="1 of 1 parts are not whole, such as 000000.parquet: do the workers write"):
        run_parts(store, job, ThisProcess(), lambda done: None)


def test_work_of_a_run_that_is_over_writes_nothing(store: Store, work: ModuleType) -> None:
    run(store, work, Counting())
    prepare = {"value": 1, "to": store.address, "plan": "old", "twotower": "0", "part": 0}
    with pytest.raises(InputError, match="install the same there"):
        work.write_number(prepare)
    from twotower.core.version import __version__

    with pytest.raises(InputError, match=r"plan\.json is not there"):
        work.write_number({**prepare, "twotower": __version__})
    assert content(store, "000000.parquet") == "10"


@pytest.mark.parametrize("fault", ["missing", "shorter", "changed", "manifest", "no json"])
def test_a_reader_is_told_what_is_wrong(fault: str, store: Store, work: ModuleType) -> None:
    run(store, work, Counting())
    if fault == "missing":
        store.remove("000002.parquet")
    elif fault in ("shorter", "changed"):
        put(store, "000002.parquet", "1" if fault == "shorter" else "99")
    elif fault == "manifest":
        put(store, "manifest.json", content(store, "manifest.json").replace("numbers", "letters"))
    else:
        put(store, "manifest.json", "{")
    expected = {
        "missing": "000002.parquet is missing",
        "shorter": "000002.parquet is damaged",
        "changed": "000002.parquet is damaged",
        "manifest": "was changed after it was written",
        "no json": "manifest.json is damaged, no JSON",
    }[fault]
    with pytest.raises(InputError, match=expected):
        read_parts(store, check=True)


def test_a_file_at_an_address_is_read_through_a_copy(tmp_path: Path) -> None:
    MemoryFileSystem.store.clear()
    put(Store("memory://lists"), "users.txt", "u2\n")
    with local_file("memory://lists/users.txt") as path:
        assert path.read_text() == "u2\n"
        assert path.suffix == ".txt"
    assert not path.exists()
    with (
        pytest.raises(InputError, match=r"memory://lists: none\.txt is not there"),
        local_file("memory://lists/none.txt"),
    ):
        pass
    with local_file(str(tmp_path / "plain.txt")) as path:
        assert path == tmp_path / "plain.txt"


@pytest.mark.parametrize("address", ["memory://", "nosuchscheme://a/b", "memory://a*"])
def test_an_address_of_no_folder_is_one_line(address: str) -> None:
    with pytest.raises(InputError):
        prepare_parts(Store(address), PLAN)
