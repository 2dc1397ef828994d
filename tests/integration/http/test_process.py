"""``twotower serve`` as a process: it listens, swaps on SIGHUP, and stops gracefully."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twotower.data.dataset import Dataset
from twotower.models.base import Model

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP on this platform")


class Running:
    """A service in a process of its own, and what it wrote."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "twotower", "serve", *arguments, "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self.url = self.wait_for(r"running on (http://\S+)")

    def wait_for(self, pattern: str) -> str:
        """The first group of a line on standard error."""
        for _ in range(600):
            if found := re.search(pattern, self.log.read_text()):
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def stop(self) -> tuple[int, str]:
        """Status and standard output after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        written, _ = self.process.communicate(timeout=30)
        return self.process.returncode, written


@pytest.fixture
def running(bundle_folder: Path, tmp_path: Path) -> Iterator[Running]:
    pytest.importorskip("uvicorn")
    service = Running(str(bundle_folder), log=tmp_path / "log")
    yield service
    service.process.kill()
    service.process.communicate()


def test_the_service_answers_swaps_on_a_signal_and_stops_with_status_0(
    running: Running, write: Callable[..., Model], titled_dataset: Dataset, bundle_folder: Path
) -> None:
    first = running.get("/readyz")["bundle"]
    assert running.get("/v1/items/i2")["title"] == "Alien"

    (bundle_folder / "stray").write_text("x")
    running.process.send_signal(signal.SIGHUP)
    assert "stray" in running.wait_for(r"ERROR SIGHUP: (not swapped.*)")
    assert running.get("/readyz")["bundle"] == first

    (bundle_folder / "stray").unlink()
    write(bundle_folder, titled_dataset, "sasrec", parameters={"dim": 4, "heads": 1})
    running.process.send_signal(signal.SIGHUP)
    running.wait_for(r"SIGHUP: (serving sasrec)")
    assert running.get("/readyz")["bundle"] != first

    status, written = running.stop()
    assert status == 0
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["path"] for line in lines] == ["/readyz", "/v1/items/i2", "/readyz", "/readyz"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "no such bundle"),
        (["BUNDLE", "--port", "70000"], "--port must be from 0 to 65535"),
        (["BUNDLE", "--candidates", "5"], "--then"),
        (["BUNDLE", "--token-file", "nowhere"], "cannot be read as a token"),
        (["BUNDLE", "--token-file", "SHORT"], "at least 16"),
        (["BUNDLE", "--device", "nonsense"], "device 'nonsense'"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_one_line(
    arguments: list[str], text: str, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn")
    from twotower.cli.main import main

    (tmp_path / "short").write_text("short\n")
    places = {"BUNDLE": str(bundle_folder), "SHORT": str(tmp_path / "short"), "nowhere": str(tmp_path / "nowhere")}
    with pytest.raises(SystemExit) as stopped:
        main(["serve", *(places.get(word, word) for word in arguments)])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert text in last


def test_a_second_bundle_brings_the_explorer(
    write: Callable[..., Model], titled_dataset: Dataset, bundle_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn")
    write(tmp_path / "second", titled_dataset, "item_lists")
    service = Running(str(bundle_folder), "--beside", str(tmp_path / "second"), log=tmp_path / "log")
    try:
        assert "/explorer/" in service.wait_for(r"INFO (explorer: .*)")
        with urllib.request.urlopen(service.url + "/explorer", timeout=10) as page:
            assert page.url == service.url + "/explorer/"
            assert "twotower explorer" in page.read().decode()
        models = {which: bundle["model"] for which, bundle in service.get("/explorer/api/about")["bundles"].items()}
        assert models == {"first": "two_tower", "second": "item_lists"}
    finally:
        assert service.stop()[0] == 0


def test_a_second_bundle_that_cannot_be_read_stops_the_service_before_it_listens(
    bundle_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn")
    missing = str(tmp_path / "nothing-here")
    command = [sys.executable, "-m", "twotower", "serve", str(bundle_folder), "--beside", missing, "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert missing in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "running on" not in ended.stderr
