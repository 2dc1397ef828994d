"""A target has one writer at a time; a crash holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from twotower.core.errors import InputError
from twotower.core.folders import replacing_folder
from twotower.core.lock import writing_alone

HOLD = """
import sys, pathlib
from twotower.core.lock import writing_alone
with writing_alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts a process that holds a target until it is told to go on, or killed."""
    started = []

    def other(target: Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLD, str(target)]
        made = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == "held\n"
        return made

    yield other
    for made in started:
        made.kill()
        made.communicate()


def test_a_second_process_is_refused_with_the_number_of_the_first(tmp_path, other):
    first = other(tmp_path / "out")
    with (
        pytest.raises(InputError, match=rf"out: another process \({first.pid} on .*\) writes it; wait until"),
        replacing_folder(tmp_path / "out"),
    ):
        pytest.fail("two processes wrote one target")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock"]


def test_the_second_may_write_once_the_first_is_done_and_nothing_is_left(tmp_path, other):
    first = other(tmp_path / "out")
    first.communicate("go on\n")
    with replacing_folder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.skipif(os.name != "posix", reason="kills as Unix does")
def test_a_process_that_was_killed_holds_nothing(tmp_path, other):
    first = other(tmp_path / "out")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (tmp_path / ".out.lock").is_file()
    with writing_alone(tmp_path / "out"):
        assert str(os.getpid()) in (tmp_path / ".out.lock").read_text()
    assert not list(tmp_path.iterdir())


def test_a_thread_may_hold_a_target_several_times_over(tmp_path):
    with writing_alone(tmp_path / "out"), writing_alone(tmp_path / "x" / ".." / "out"):
        assert (tmp_path / ".out.lock").is_file()
    assert not list(tmp_path.iterdir())


def test_another_thread_of_the_same_process_is_refused(tmp_path):
    said = []

    def write():
        try:
            with writing_alone(tmp_path / "out"):
                said.append("wrote")
        except InputError as error:
            said.append(str(error))

    with writing_alone(tmp_path / "out"):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(said) == 1
    assert "another thread of this process writes it" in said[0]


def test_other_targets_are_free(tmp_path, other):
    other(tmp_path / "out")
    with writing_alone(tmp_path / "out2"), writing_alone(tmp_path / "out" / "inner"):
        pass


def test_folders_above_that_hold_nothing_in_the_end_are_removed(tmp_path):
    with pytest.raises(InputError), writing_alone(tmp_path / "a" / "b" / "out"):
        raise InputError("refused")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="links as Unix has them")
def test_a_link_in_the_place_of_the_lock_destroys_no_file(tmp_path):
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / ".out.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), writing_alone(tmp_path / "out"):
        pass
    assert (tmp_path / "precious").read_text() == "keep me"
