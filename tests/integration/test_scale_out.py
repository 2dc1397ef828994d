"""Scoring beyond one process: any engine, any place, a worker killed in the middle, and the same rows."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import duckdb
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import twotower
from twotower.cli.main import main
from twotower.core.engines.choose import open_engine
from twotower.core.engines.local import Processes
from twotower.core.errors import InputError
from twotower.core.files import hash_folder
from twotower.core.parts import read_parts
from twotower.core.store import Store
from twotower.data.dataset import Dataset
from twotower.data.prepare.prepare import prepare
from twotower.models.base import Model
from twotower.serving.everyone import write_recommendations
from twotower.serving.loaded import load_from
from twotower.serving.pipeline import Pipeline
from twotower.serving.retriever import Retriever
from twotower.serving.share.transfer import push
from twotower.serving.vectors import write_vectors

HERE = Path(__file__).parent
ROUNDS = 10


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def rows(path: Path | str) -> list[tuple[Any, ...]]:
    """All rows of a Parquet file, or of the parts of a folder that is whole, in their order."""
    if str(path).endswith(".parquet"):
        return duckdb.sql(f"SELECT * FROM '{path}'").fetchall()
    store, found = Store(str(path)), []
    for note in read_parts(store, check=True)["parts"]:
        with store.reading(note["name"]) as part:
            found += duckdb.sql(f"SELECT * FROM '{part}'").fetchall()
    return found


@pytest.fixture
def retriever(bundle_folder: Path) -> Retriever:
    return twotower.load(bundle_folder)


@pytest.fixture
def memory() -> Iterator[None]:
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a file server of this process, which other processes reach too."""
    pytest.importorskip("requests")
    with module("webhdfs_stand_in").running(tmp_path / "served") as address:
        yield address


class Cluster(NamedTuple):
    """A scheduler and two workers, each of which is started again when it ends; and what the workers say."""

    address: str
    log: Path
    scheduler: subprocess.Popen[bytes]


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """Start a scheduler with two workers."""
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(HERE), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ENGINE_WORK_LOG": str(folder / "log")}
    dask = [sys.executable, "-m"]
    starts = [
        [*dask, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        [*dask, "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--nworkers", "2", "--nthreads", "1"],
    ]
    starts[1] += ["--no-dashboard", "--preload", "engine_work", "--local-directory", str(folder)]
    with (folder / "said").open("w") as said:
        running = [
            subprocess.Popen(words, env=environment, stdout=said, stderr=said, cwd=folder, start_new_session=True)
            for words in starts
        ]
        try:
            with distributed.Client(f"tcp://127.0.0.1:{port}", timeout=60, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=120)
            yield Cluster(f"dask://127.0.0.1:{port}", folder / "log", running[0])
        finally:
            # Each leads a group, with what it started; by itself a worker without its scheduler takes seconds to end.
            for one in reversed(running):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(one.pid, signal.SIGKILL)
                one.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("dask")) as running:
        yield running


def kill_at(log: Path, stage: str, time_of: int, killed: list[int]) -> None:
    """Kill the worker that is the ``time_of``-th to reach a stage of its work, in the middle of it."""
    import psutil

    end = time.monotonic() + 120
    while time.monotonic() < end:
        lines = log.read_text().splitlines() if log.exists() else []
        there = [line.split() for line in lines if line.endswith(f" {stage}")]
        if len(there) >= time_of:
            psutil.Process(int(there[time_of - 1][0])).kill()
            killed.append(int(there[time_of - 1][0]))
            return
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_worker_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    cluster: Cluster, retriever: Retriever, tmp_path: Path
) -> None:
    write_recommendations(retriever, tmp_path / "one.parquet", k=4, part=1)
    expected = rows(tmp_path / "one.parquet")
    killed: list[int] = []
    with open_engine(cluster.address) as engine:
        for number in range(ROUNDS):
            cluster.log.unlink(missing_ok=True)
            stage, time_of = ("part", "note")[number % 2], 1 + number % 4
            killer = threading.Thread(target=kill_at, args=(cluster.log, stage, time_of, killed), daemon=True)
            killer.start()
            to = tmp_path / (f"lists-{number}" if number % 3 else f"lists-{number}.parquet")
            done = write_recommendations(retriever, to, k=4, part=1, engine=engine)
            killer.join()
            assert rows(to) == expected
            assert (done.users, done.rows) == (5, len(expected))
            assert len(cluster.log.read_text().splitlines()) > 10, "the killed one's part was begun again"
            left = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
            assert not left, "no folder of parts, no lock"
    assert len(set(killed)) == ROUNDS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rounds", [2, pytest.param(ROUNDS, marks=pytest.mark.long)])
def test_a_worker_killed_while_a_log_is_prepared_leaves_the_folder_of_one_process(
    rounds: int, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.data.prepare.spread.PART_EVENTS", 250)
    lines = [f"u{number % 97},i{number % 89},{number % 61}" for number in range(1200)]
    for number in range(4):
        (tmp_path / f"log-{number}.csv").write_text("\n".join(["user,item,when", *lines[number::4], ""]))
    spec = tmp_path / "shop.toml"
    spec.write_text('name = "shop"\n[interactions]\npath = "log-*.csv"\nuser = "user"\nitem = "item"\ntime = "when"\n')
    prepare(spec, tmp_path / "one")
    killed: list[int] = []
    with open_engine(cluster.address) as engine:
        for number in range(rounds):
            cluster.log.unlink(missing_ok=True)
            time_of = (2, 6)[number % 2]  # while files are read; while users are gathered
            killer = threading.Thread(target=kill_at, args=(cluster.log, "note", time_of, killed), daemon=True)
            killer.start()
            prepare(spec, tmp_path / "parts", engine=engine)
            killer.join()
            assert hash_folder(tmp_path / "parts", leave_out=()) == hash_folder(tmp_path / "one", leave_out=())
            assert len(cluster.log.read_text().splitlines()) > 9, "the killed one's part was begun again"
            assert not {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert len(set(killed)) == rounds


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_tries_a_fault_of_the_system_again_and_bad_input_not(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    work = importlib.import_module("engine_work")
    calls: list[int] = []
    with open_engine(cluster.address) as engine:
        with pytest.raises(InputError, match="this cannot be done"):
            engine.run(work.refuses, [{"file": str(tmp_path / "a")}], lambda: None)
        assert (tmp_path / "a").read_text() == "tried\n"
        engine.run(work.fails_twice, [{"file": str(tmp_path / "b")}], lambda: calls.append(1))
        assert (tmp_path / "b").read_text() == "tried\n" * 3
        assert calls == [1]
        with pytest.raises(ChildProcessError, match="ended without a word"):
            engine.run(work.dies_always, [{}], lambda: None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_ends_in_the_middle_is_one_line_and_the_parts_are_kept(
    retriever: Retriever, tmp_path: Path
) -> None:
    write_recommendations(retriever, tmp_path / "one.parquet", k=4, part=1)
    (tmp_path / "dask").mkdir()
    with started(tmp_path / "dask") as running, open_engine(running.address) as engine:

        def end_it(done: int, total: int) -> None:
            if done == 2:
                running.scheduler.kill()

        with pytest.raises(ConnectionAbortedError, match="the same command goes on with what is done"):
            write_recommendations(retriever, tmp_path / "lists", k=4, part=1, engine=engine, on_progress=end_it)
    with pytest.raises(InputError, match="not whole: a run was stopped"):
        read_parts(Store(str(tmp_path / "lists")))
    assert write_recommendations(retriever, tmp_path / "lists", k=4, part=1).resumed >= 2
    assert rows(tmp_path / "lists") == rows(tmp_path / "one.parquet")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_command_by_dask_writes_what_one_process_writes(
    cluster: Cluster, bundle_folder: Path, tmp_path: Path
) -> None:
    for verb in (["recommend", bundle_folder, "--all", "-k", 3], ["vectors", bundle_folder, "--side", "users"]):
        assert call(*verb, "--to", tmp_path / "one.parquet") == 0
        assert call(*verb, "--to", tmp_path / "lists.parquet", "--engine", cluster.address) == 0
        assert call(*verb, "--to", tmp_path / f"{verb[0]}-parts", "--engine", cluster.address) == 0
        assert rows(tmp_path / "lists.parquet") == rows(tmp_path / "one.parquet")
        assert rows(tmp_path / f"{verb[0]}-parts") == rows(tmp_path / "one.parquet")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_bundle_that_the_workers_do_not_see_is_one_line(
    cluster: Cluster,
    bundle_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("twotower.serving.everyone.address_of", lambda retriever: "/elsewhere/bundle")
    assert call("recommend", bundle_folder, "--all", "--to", tmp_path / "l", "--engine", cluster.address) == 2
    assert capfd.readouterr().err.startswith("error: /elsewhere/bundle: no such bundle")
    with pytest.raises(InputError, match="not whole: a run was stopped"):
        read_parts(Store(str(tmp_path / "l")))


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True])
def test_two_processes_write_what_one_writes(
    second: bool,
    retriever: Retriever,
    write: Callable[..., Model],
    titled_dataset: Dataset,
    tmp_path: Path,
) -> None:
    write(tmp_path / "second", titled_dataset, "item_cosine")
    then = Pipeline(retriever, twotower.load(tmp_path / "second"), candidates=6, weight=0.5) if second else None
    write_recommendations(retriever, tmp_path / "one.parquet", k=4, part=2, then=then)
    with open_engine("local", 2) as engine:
        for name in ("two.parquet", "two"):
            write_recommendations(retriever, tmp_path / name, k=4, part=2, then=then, engine=engine)
            assert rows(tmp_path / name) == rows(tmp_path / "one.parquet")


@pytest.mark.parametrize("side", ["items", "users"])
def test_vectors_in_parts_are_those_of_one_file(side: str, retriever: Retriever, tmp_path: Path, memory: None) -> None:
    write_vectors(retriever, tmp_path / "one.parquet", side=side)
    assert write_vectors(retriever, "memory://vectors", side=side, part=3) == len(rows(tmp_path / "one.parquet"))
    for mine, one in zip(rows("memory://vectors"), rows(tmp_path / "one.parquet"), strict=True):
        assert (mine[0], mine[2:]) == (one[0], one[2:])
        assert mine[1] == pytest.approx(one[1], abs=1e-6), "to rounding: a part of 3 is no whole tile"
    with pytest.raises(InputError, match="leave --atlas out"):
        write_vectors(retriever, "memory://map", side=side, atlas=True)


def test_bundle_users_and_lists_may_all_lie_elsewhere(
    bundle_folder: Path, retriever: Retriever, tmp_path: Path, memory: None, capsys: pytest.CaptureFixture[str]
) -> None:
    push(bundle_folder, "memory://bundles/films")
    with Store("memory://bundles").writing("active.txt") as path:
        path.write_text("u5\nu3\n")
    words = ["--users", "memory://bundles/active.txt", "-k", 2, "--json"]
    assert call("recommend", "memory://bundles/films", "--to", "memory://lists/today", *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["users"], told["rows"]) == ("memory://lists/today", 2, 4)
    (tmp_path / "active.txt").write_text("u5\nu3\n")
    write_recommendations(retriever, tmp_path / "one.parquet", users=tmp_path / "active.txt", k=2)
    assert rows("memory://lists/today") == rows(tmp_path / "one.parquet")


@pytest.mark.slow
def test_processes_read_a_bundle_and_write_lists_by_a_server(
    server: str, bundle_folder: Path, retriever: Retriever, tmp_path: Path
) -> None:
    push(bundle_folder, f"{server}/bundles/films")
    write_recommendations(retriever, tmp_path / "one.parquet", k=4, part=2)
    there = load_from(f"{server}/bundles/films")
    write_recommendations(there, f"{server}/lists", k=4, part=2, engine=Processes(2))
    assert rows(f"{server}/lists") == rows(tmp_path / "one.parquet")
    names = {path.name for path in (tmp_path / "served" / "lists").iterdir()}
    assert names == {"000000.parquet", "000001.parquet", "000002.parquet", "manifest.json"}


def test_another_bundle_at_the_same_place_is_refused_by_the_worker(
    retriever: Retriever, write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path
) -> None:
    from twotower.serving.loaded import loaded

    write(tmp_path / "other", titled_dataset, "item_cosine")
    with pytest.raises(InputError, match="a worker sees another bundle there"):
        loaded(str(tmp_path / "other"), retriever.bundle.manifest["digest"], "cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--all", "--to", "memory://a/lists.parquet"], "an address takes a folder of parts"),
        (["--all", "--to", "nosuch://a/lists"], "nosuch"),
        (["--all", "--to", "LISTS", "--engine", "spark://h:1"], "write local, dask://host:port or ray://host:port"),
        (["--all", "--to", "LISTS", "--workers", "0"], "workers must be at least 1"),
        (["--user", "u2", "--engine", "dask://h:1"], "--engine and --workers go with --all or --users"),
        (["--all", "--to", "FULL"], "holds something else, such as thesis.txt"),
        (["--users", "memory://none/active.csv", "--to", "LISTS"], "active.csv is not there"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: list[str],
    message: str,
    bundle_folder: Path,
    tmp_path: Path,
    memory: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    places = {"LISTS": tmp_path / "lists", "FULL": tmp_path / "full"}
    assert call("recommend", bundle_folder, *(places.get(word, word) for word in words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "lists").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
