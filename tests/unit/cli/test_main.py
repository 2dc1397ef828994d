"""The entry point with a verb made for the test, so that these tests stand whatever verbs there are."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from types import ModuleType

import duckdb
import pytest
import typer
from safetensors import SafetensorError

from twotower import __version__
from twotower.cli import main as entry
from twotower.core.errors import InputError


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``twotower WORDS`` with one verb, ``probe``, that does ``action``; gives status, stdout, stderr."""

    def run(*words: str, action=lambda: None, verbs=("probe",)):
        def command(count: int = 1, to: str = "") -> object:
            """Do what the test says."""
            return action()

        module = ModuleType("twotower.cli.probe")
        module.command = command
        monkeypatch.setitem(sys.modules, "twotower.cli.probe", module)
        monkeypatch.setattr(entry, "VERBS", list(verbs))
        with pytest.raises(SystemExit) as stop:
            entry.main(list(words))
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def heeds_sigterm():
    """A handler of SIGTERM as somebody who calls `main` may have; before, SIGTERM does what the system says."""

    @contextlib.contextmanager
    def listens(listener):
        signal.signal(signal.SIGTERM, listener)
        yield listener
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield listens
    signal.signal(signal.SIGTERM, before)


def raising(error: BaseException):
    def action():
        raise error

    return action


def test_done_is_0_and_silent(run):
    assert run("probe") == (0, "", "")


@pytest.mark.parametrize("action", [lambda: 3, raising(typer.Exit(3))])
def test_a_verb_sets_its_status(run, action):
    assert run("probe", action=action)[0] == 3


def test_bad_input_is_one_line_and_2(run):
    status, out, error = run("probe", action=raising(InputError("data.csv: no column\n 'user'")))
    assert (status, out, error) == (2, "", "error: data.csv: no column 'user'\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prob"], "no verb 'prob'; did you mean 'probe'?; see 'twotower --help'"),
        (["probe", "--cuont", "2"], "No such option: --cuont"),
        (["probe", "--count", "two"], "'--count'"),
        (["probe", "surplus"], "unexpected extra argument"),
        (["--wrong"], "No such option: --wrong"),
    ],
)
def test_wrong_use_is_one_line_and_2(run, words, expected):
    status, out, error = run(*words)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("action", [raising(KeyboardInterrupt()), raising(typer.Abort())])
def test_ctrl_c_is_130(run, action):
    assert run("probe", action=action) == (130, "", "stopped\n")


@pytest.mark.skipif(sys.platform == "win32", reason="ends a process at once")
def test_sigterm_tidies_up_as_ctrl_c_does_and_is_143(run, heeds_sigterm):
    tidied = []

    def ended():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not cut the tidying up off
            tidied.append(True)

    assert run("probe", action=ended) == (143, "", "stopped\n")
    assert tidied == [True]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with heeds_sigterm(lambda *_: None) as listener:
        assert run("probe", action=lambda: 0)[0] == 0
        assert signal.getsignal(signal.SIGTERM) is listener


def test_a_full_disk_is_one_line_and_1(run):
    status, out, error = run("probe", action=raising(OSError(28, "No space left on device", "out/model")))
    assert (status, out, error) == (1, "", "error: out/model: No space left on device\n")


@pytest.mark.parametrize(
    "error",
    [
        OSError("6081 requested and 4592 written"),  # NumPy
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail] . No space left on device"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_full_disk_is_known_whatever_library_says_it_and_the_target_is_named(run, error):
    ended = run("probe", "--to", "out", action=raising(error))
    assert ended == (1, "", "error: out: No space left on device\n")
    told = 'Could not write file "out/work.wal": No space left on device'
    assert run("probe", action=raising(duckdb.TransactionException(told)))[2].startswith(
        "error: out/work.wal: No space"
    )


def test_another_fault_stays_a_traceback(run):
    with pytest.raises(SafetensorError):
        run("probe", action=raising(SafetensorError("invalid header")))


def test_our_own_mistakes_keep_their_traceback(run):
    with pytest.raises(ZeroDivisionError):
        run("probe", action=lambda: 1 / 0)


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_verbs(run, words):
    status, out, _ = run(*words)
    assert status == 0
    assert "probe" in out
    assert "Do what the test says." in out


def test_version(run):
    assert run("--version") == (0, f"twotower {__version__}\n", "")


def test_a_call_imports_only_its_own_verb(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "twotower.cli.other", None)  # importing it fails
    assert run("probe", verbs=("probe", "other"))[0] == 0


def test_a_group_without_its_command_is_2(run, monkeypatch):
    group = typer.Typer(no_args_is_help=True)
    group.command("one")(lambda: None)
    group.command("two")(lambda: None)
    module = ModuleType("twotower.cli.group")
    module.app = group
    monkeypatch.setitem(sys.modules, "twotower.cli.group", module)
    status, _, error = run("group", verbs=("probe", "group"))
    assert status == 2
    assert error.endswith("see 'twotower group --help'\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", [["-m", "twotower"], ["-c", "from twotower.cli.main import VERBS, main; main()"]])
def test_as_a_process(command):
    done = subprocess.run([sys.executable, *command, "evaluat"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no verb 'evaluat'; did you mean 'evaluate'?; see 'twotower --help'\n"


def test_notices_are_shown_or_not_as_asked(run, monkeypatch):
    ours = logging.getLogger("twotower")
    monkeypatch.setattr(ours, "handlers", [])
    monkeypatch.setattr(ours, "propagate", False)

    def action() -> None:
        logging.getLogger("twotower.probe").info("step by step")
        logging.getLogger("twotower.probe").warning("take care of \x1b[31mthis")

    level = ours.level
    try:
        for word, lines in (("-v", 2), ("-q", 0)):
            status, out, errors = run(word, "probe", action=action)
            assert (status, out, len(errors.splitlines())) == (0, "", lines)
            assert "\x1b" not in errors
    finally:
        ours.setLevel(level)


def test_a_shell_is_told_the_verbs():
    environment = {**os.environ, "_TWOTOWER_COMPLETE": "complete_bash", "COMP_WORDS": "twotower ev", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "twotower"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["evaluate"]


def test_loud_and_quiet_at_once_are_refused(run):
    status, _, errors = run("-v", "-q", "probe")
    assert status == 2
    assert "not both" in errors


@pytest.mark.parametrize(
    "error",
    [MemoryError("1 TB"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")],
)
def test_memory_that_is_not_there_is_one_line_and_2(run, error):
    status, out, errors = run("probe", action=raising(error))
    assert (status, out) == (2, "")
    assert errors.startswith("error: more memory was asked for than is free")
    assert errors.count("\n") == 1


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "--import 'own_part_of_a_test': no such module, neither in this folder nor installed"),
        ("import nothing_of_this_name", "it imports 'nothing_of_this_name', which is not installed"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if text is not None:
        (tmp_path / "own_part_of_a_test.py").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as done:
        entry.main(["--import", "own_part_of_a_test", "recommend", "nowhere", "--user", "1"])
    error = capsys.readouterr().err
    assert done.value.code == 2
    assert said in error
    assert error.count("\n") == 1
