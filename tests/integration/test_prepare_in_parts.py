"""A log of several files, each read by a worker: the prepared folder is the same to the byte."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from twotower.cli.main import main
from twotower.core.engines.base import Engine
from twotower.core.engines.local import Processes, ThisProcess
from twotower.core.errors import InputError
from twotower.core.files import hash_folder
from twotower.core.store import Store
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec

SPEC = """
name = "shops"
[interactions]
path = ["{path}"]
user = "user"
item = "item"
time = "when"
value = "stars"
min_user_events = 2
max_bad_share = 0.2
duplicates = "last"
[label]
at_least = 3
keep = "all"
[items]
path = "items.csv"
id = "item"
title = "item"
"""


@pytest.fixture
def memory() -> Iterator[None]:
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of CSV with repeats, equal times, quoted lines and rows that cannot be used; the same as Parquet."""
    draw = random.Random(3)
    for number in range(3):
        lines = ["user,item,stars,when"]
        for _ in range(120):
            lines.append(f"u{draw.randrange(20)},i{draw.randrange(30)},{draw.randrange(1, 6)},{draw.randrange(50)}")
        path = tmp_path / f"log-{number}.csv"
        path.write_text("\n".join(lines) + "\n")
        duckdb.sql(f"COPY (FROM read_csv('{path}')) TO '{path.with_suffix('.parquet')}'")
        lines += [",i1,3,4", "u1,i1,many,4", f'"u\n{number}",i2,5,1', "u1,i1,3,4,5", ""]
        path.write_text("\n".join(lines) + "\n")
    (tmp_path / "items.csv").write_text("item\n" + "\n".join(f"i{number}" for number in range(35)) + "\n")
    return tmp_path


def spec(folder: Path, path: str) -> Path:
    (folder / "shops.toml").write_text(SPEC.format(path=path))
    return folder / "shops.toml"


def everything(folder: Path) -> dict[str, str]:
    return hash_folder(folder, leave_out=())


@pytest.mark.parametrize("path", ["log-*.csv", "log-*.parquet", 'log-2.csv", "log-0.csv'])
def test_a_file_a_part_gives_the_same_folder(path: str, folder: Path) -> None:
    prepare(spec(folder, path), folder / "one")
    prepare(spec(folder, path), folder / "parts", engine=ThisProcess())
    assert everything(folder / "parts") == everything(folder / "one")
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_two_processes_give_the_same_folder(folder: Path) -> None:
    prepare(spec(folder, "log-*.csv"), folder / "one")
    with pytest.raises(SystemExit) as stop:
        main(["data", "prepare", str(folder / "shops.toml"), "--to", str(folder / "two"), "--workers", "2"])
    assert stop.value.code == 0
    assert everything(folder / "two") == everything(folder / "one")


@pytest.mark.parametrize("engine", [None, ThisProcess()])
def test_a_log_at_an_address_is_read_as_the_same_files_here(engine: Engine | None, folder: Path, memory: None) -> None:
    for number in range(3):
        with Store("memory://logs").writing(f"log-{number}.csv") as path:
            path.write_bytes((folder / f"log-{number}.csv").read_bytes())
    prepare(spec(folder, "log-*.csv"), folder / "one")
    prepare(spec(folder, "memory://logs/log-*.csv"), folder / "there", engine=engine)
    mine, one = everything(folder / "there"), everything(folder / "one")
    assert mine.pop("manifest.json") != one.pop("manifest.json"), "it names the address"
    assert mine == one
    Spec.from_toml(folder / "shops.toml").to_toml(folder / "deeper" / "shops.toml")
    assert Spec.from_toml(folder / "deeper" / "shops.toml").interactions.source.path == ("memory://logs/log-*.csv",)


@pytest.mark.parametrize(
    "engine", [ThisProcess(), pytest.param(Processes(2), marks=pytest.mark.slow)], ids=["this process", "processes"]
)
def test_an_unreadable_file_is_one_line_and_leaves_nothing(engine: Engine, folder: Path) -> None:
    whole = (folder / "log-1.parquet").read_bytes()
    (folder / "log-1.parquet").write_bytes(whole[: len(whole) // 2])
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(InputError, match=r"log-1\.parquet: cannot be read"):
        prepare(spec(folder, "log-*.parquet"), folder / "parts", engine=engine)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "shops.toml"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://logs/log-7.csv", r"memory://logs/log-7\.csv: no such file"),
        ("s3://me:secret@logs/log.csv", "give keys by the environment"),
        ("nosuch://logs/log.csv", "nosuch"),
    ],
)
def test_an_address_without_a_file_is_one_line(path: str, message: str, folder: Path, memory: None) -> None:
    with pytest.raises(InputError, match=message) as told:
        prepare(spec(folder, path), folder / "parts")
    assert "secret" not in str(told.value)
    assert not (folder / "parts").exists()
