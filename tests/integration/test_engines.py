"""Engines: every task is done, a lost worker is made good, and what cannot be mended is one line."""

from __future__ import annotations

import importlib
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from twotower.cli.main import main
from twotower.core.engines.base import TRIES, Engine
from twotower.core.engines.choose import open_engine
from twotower.core.engines.local import Processes, ThisProcess
from twotower.core.errors import InputError


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("engine_work")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken but answers nobody."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def files(folder: Path, number: int) -> list[dict[str, Any]]:
    return [{"file": str(folder / f"{place}"), "dies": place == 2} for place in range(number)]


def counted() -> tuple[list[int], Callable[[], None]]:
    calls: list[int] = []
    return calls, lambda: calls.append(1)


class StandInRay(ModuleType):
    """The calls of Ray that the adapter makes, run at once in this process."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.said: dict[str, Any] = {}
        self.exceptions = SimpleNamespace(
            WorkerCrashedError=type("WorkerCrashedError", (Exception,), {}),
            RayTaskError=type("RayTaskError", (Exception,), {}),
        )
        self.crashes = False

    def init(self, address: str, ignore_reinit_error: bool) -> None:
        self.said["address"] = address
        if address.endswith(":1"):
            raise ConnectionError("ray client connection timeout")

    def shutdown(self) -> None:
        self.said["closed"] = True

    def remote(self, **options: Any) -> Callable[[Callable[..., None]], Any]:
        self.said["options"] = options
        return lambda function: SimpleNamespace(remote=lambda task: (function, task))

    def wait(self, running: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return running[-num_returns:], running[:-num_returns]

    def get(self, one: tuple[Callable[..., None], Any]) -> None:
        if self.crashes:
            raise self.exceptions.WorkerCrashedError
        function, task = one
        try:
            function(task)
        except Exception as error:
            told = self.exceptions.RayTaskError("a long traceback")
            told.cause = error
            raise told from None


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandInRay:
    made = StandInRay()
    monkeypatch.setitem(sys.modules, "ray", made)
    return made


def test_this_process_does_all_in_order(work: ModuleType, tmp_path: Path) -> None:
    calls, on_done = counted()
    ThisProcess().run(work.touch, files(tmp_path, 5), on_done)
    assert len(list(tmp_path.iterdir())) == len(calls) == 5


@pytest.mark.slow
def test_processes_do_all_also_where_one_dies_in_the_middle(work: ModuleType, tmp_path: Path) -> None:
    calls, on_done = counted()
    Processes(2).run(work.dies_once, files(tmp_path, 5), on_done)
    assert {path.name for path in tmp_path.iterdir()} >= {"0", "1", "2", "3", "4"}
    assert len(calls) == 5, "each is told of once"
    assert (tmp_path / "2.died").exists()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_processes_stay_for_the_next_tasks_and_end_with_the_engine(work: ModuleType, tmp_path: Path) -> None:
    calls, on_done = counted()
    with open_engine("local", 2) as engine:
        for part in ("one", "other"):
            (tmp_path / part).mkdir()
            engine.run(work.dies_once if part == "other" else work.touch, files(tmp_path / part, 4), on_done)
            assert {path.name for path in (tmp_path / part).iterdir()} >= {"0", "1", "2", "3"}
            before = {one.pid for one in multiprocessing.active_children()}
        engine.run(work.touch, files(tmp_path, 4), on_done)
        now = {one.pid for one in multiprocessing.active_children()}
        assert before, "the pool is there between tasks"
        assert before <= now, "and stays"
        assert 1 <= len(now) <= 2, "a pool starts its second process when it first needs it, and no third"
    assert len(calls) == 12
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_task_that_kills_every_process_ends_with_one_line(work: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=f"ended without a word {TRIES} times on the same part"):
        Processes(1).run(work.dies_always, files(tmp_path, 1), lambda: None)


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_at_once(work: ModuleType, tmp_path: Path) -> None:
    def stop() -> None:
        while not (tmp_path / "2").exists():  # the one that takes ten minutes has begun
            time.sleep(0.05)
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Processes(2).run(work.takes_long, [*files(tmp_path, 3)[1:]], stop)
    assert time.monotonic() - begun < 120
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_bad_input_is_not_tried_again_and_a_fault_of_the_system_is(work: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this cannot be done"):
        Processes(2).run(work.refuses, [{"file": str(tmp_path / "a")}], lambda: None)
    assert (tmp_path / "a").read_text() == "tried\n"
    Processes(2).run(work.fails_twice, [{"file": str(tmp_path / "b")}], lambda: None)
    assert (tmp_path / "b").read_text() == "tried\n" * 3


def test_ray_is_asked_to_try_again_and_its_errors_are_ours(ray: StandInRay, work: ModuleType, tmp_path: Path) -> None:
    calls, on_done = counted()
    with open_engine("ray://head:10001") as engine:
        assert isinstance(engine, Engine)
        engine.run(work.touch, files(tmp_path, 3), on_done)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
        assert len(calls) == 3
        with pytest.raises(InputError, match="this cannot be done"):
            engine.run(work.refuses, files(tmp_path, 1), on_done)
        ray.crashes = True
        with pytest.raises(ChildProcessError, match="ended without a word"):
            engine.run(work.touch, files(tmp_path, 1), on_done)
    assert ray.said["address"] == "ray://head:10001"
    assert ray.said["options"] == {"max_retries": TRIES - 1, "retry_exceptions": [OSError]}
    assert ray.said["closed"]


def test_a_ray_cluster_that_does_not_answer_is_one_line(ray: StandInRay) -> None:
    with (
        pytest.raises(ConnectionAbortedError, match="ray://head:1: no Ray cluster answers there"),
        open_engine("ray://head:1"),
    ):
        pass


@pytest.mark.parametrize("address", ["dask", "dask://host", "tcp://host:1", "dask://a@b:1", "LOCAL", "dask://h:1/x"])
def test_an_engine_that_is_none_is_one_line(address: str) -> None:
    with pytest.raises(InputError, match="write local, dask://host:port or ray://host:port"), open_engine(address):
        pass


@pytest.mark.parametrize(("address", "workers", "message"), [("local", 0, "at least 1"), ("dask://h:1", 2, "its own")])
def test_workers_that_do_not_fit_are_one_line(address: str, workers: int, message: str) -> None:
    with pytest.raises(InputError, match=message), open_engine(address, workers):
        pass


@pytest.mark.parametrize(("address", "package"), [("dask://h:1", "distributed"), ("ray://h:1", "ray")])
def test_an_engine_whose_package_is_missing_says_what_to_install(
    address: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match="pip install"), open_engine(address):
        pass


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_does_not_answer_is_one_line(
    closed_port: int, bundle_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    pytest.importorskip("distributed", reason="needs the extra 'dask'")
    from twotower.core.engines import dask

    monkeypatch.setattr(dask, "ANSWER", 1.0)
    address = f"dask://127.0.0.1:{closed_port}"
    with pytest.raises(SystemExit) as stop:
        main(["recommend", str(bundle_folder), "--all", "--to", str(tmp_path / "lists"), "--engine", address])
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert stop.value.code == 1
    assert line.startswith(f"error: {address}: no Dask scheduler answers there within 1 s")
    assert not (tmp_path / "lists").exists()
