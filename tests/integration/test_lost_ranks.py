"""Ranks of one training that die, hang, are stopped or differ: one clear line, a status, and a state to go on from."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import rank_processes
import torch.distributed as dist
from rank_processes import FORK, Ended, as_torchrun_does

import twotower.cli.results
import twotower.cli.train
import twotower.diagnosis
import twotower.experiment.recipes
import twotower.experiment.train  # noqa: F401 - what ranks read, read once
from twotower.cli.main import main
from twotower.serving.retriever import load
from twotower.training.collectives import in_time
from twotower.training.distributed import World
from twotower.training.interrupt import ends_when_told

pytestmark = pytest.mark.ranks
SETTINGS = [
    "model.dim=8",
    "model.field_dim=4",
    "model.hidden=[8]",
    "model.history_dropout=0.0",
    "training.patience=0",
    "training.device=cpu",
]
SETTINGS += ["objective.loss=sampled_softmax", "training.batch_size=50", "training.checkpoint_seconds=0"]


@contextlib.contextmanager
def ranks(folder: Path, *words: list[str]):
    """Ranks with words of their own."""
    with rank_processes.ranks(folder, *[lambda said=said: main(said) for said in words]) as started:
        yield started


@pytest.fixture(scope="module")
def data(small_set) -> Path:
    return small_set


def training(data: Path, to: Path, *more: str, epochs: int = 2) -> list[str]:
    words = ["train", "--model", "two_tower", "--data", str(data), "--to", str(to), *more]
    for setting in [*SETTINGS, f"training.epochs={epochs}"]:
        words += ["--set", setting]
    return words


def lines(ended: list[Ended]) -> list[str]:
    """The errors of all ranks."""
    return [line for one in ended for line in one.stderr.splitlines() if line.startswith("error:")]


def wait_for_steps(to: Path, seconds: float = 60.0) -> None:
    """Until a checkpoint beyond the first is there."""
    path, until, first = to.with_name(to.name + ".run") / "train.safetensors", time.monotonic() + seconds, 0.0
    while time.monotonic() < until:
        if path.is_file():
            first = first or path.stat().st_mtime
            if path.stat().st_mtime > first:
                return
        time.sleep(0.005)
    raise AssertionError("no checkpoint came")


def curve(to: Path) -> list[dict[str, float]]:
    kept = [json.loads(line) for line in (to.with_name(to.name + ".run") / "train.jsonl").read_text().splitlines()]
    return [{name: value for name, value in one.items() if name != "seconds"} for one in kept]


def test_one_bundle_is_written_and_one_answer_printed(data, tmp_path):
    with ranks(tmp_path / "out", *[training(data, tmp_path / "b", "--json")] * 2) as started:
        first, second = started.ended()
    assert (first.status, second.status) == (0, 0), first.stderr + second.stderr
    assert second == Ended(0, "", "")
    assert f"bundle: {tmp_path / 'b'}" in first.stderr
    assert load(tmp_path / "b").bundle.metrics == pytest.approx(json.loads(first.stdout)["metrics"])
    assert [path.name for path in (tmp_path / "b.run").glob("*.safetensors")] == ["train.safetensors"]


@pytest.mark.parametrize(
    ("killed", "table"), [pytest.param(0, "dense", marks=pytest.mark.slow), (1, "dense"), (1, "sharded")]
)
def test_a_killed_rank_ends_all_with_one_line_and_a_state_to_go_on_from(killed, table, data, tmp_path):
    table = ["--set", f"model.table={table}"]
    with ranks(tmp_path / "whole", *[[*training(data, tmp_path / "a", epochs=4), *table]] * 2) as started:
        assert [one.status for one in started.ended()] == [0, 0]
    words = [*training(data, tmp_path / "b", epochs=4), *table]
    with ranks(tmp_path / "lost", *[words] * 3) as started:
        wait_for_steps(tmp_path / "b")
        started.send(signal.SIGKILL, killed)
        ended = started.ended(30.0)
    assert [one.status for rank, one in enumerate(ended) if rank != killed] == [1, 1]
    (line,) = lines(ended)
    assert line == (
        "error: a rank of the training is gone; all ranks end; the same command with --resume goes on from the last "
        "checkpoint"
    )
    assert "Traceback" not in "".join(one.stderr for one in ended)
    assert not (tmp_path / "b").exists()
    with ranks(tmp_path / "again", *[[*words, "--resume"]] * 2) as started:
        assert [one.status for one in started.ended()] == [0, 0]
    for one, other in zip(curve(tmp_path / "b"), curve(tmp_path / "a"), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=5e-3)


def test_a_rank_that_hangs_ends_the_others_in_the_time_that_was_given(data, tmp_path):
    words = training(data, tmp_path / "b", "--wait", "2", epochs=500)
    with ranks(tmp_path / "out", *[words] * 3) as started:
        wait_for_steps(tmp_path / "b")
        started.send(signal.SIGSTOP, 1)
        ended = started.ended(20.0, 0, 2)
    assert [ended[rank].status for rank in (0, 2)] == [1, 1], ended
    (line,) = lines(ended)
    assert "--resume goes on from the last checkpoint" in line
    assert (tmp_path / "b.run" / "train.safetensors").is_file()


def test_ctrl_c_ends_all_ranks_with_one_notice_and_the_run_goes_on_alone(data, tmp_path):
    words = training(data, tmp_path / "b", epochs=4)
    with ranks(tmp_path / "out", *[words] * 2) as started:
        wait_for_steps(tmp_path / "b")
        started.send(signal.SIGINT)
        started.send(signal.SIGTERM)  # torchrun sends on what the terminal has sent
        first, second = started.ended()
    assert (first.status, second.status) == (130, 130), first.stderr + second.stderr
    assert "with --resume goes on" in first.stderr
    assert second.stderr == ""
    with ranks(tmp_path / "again", [*words, "--resume"]) as started:
        assert started.ended()[0].status == 0
    assert len(curve(tmp_path / "b")) == 4


def test_no_rank_goes_on_before_all_have_met(tmp_path):
    def work(rank: int) -> bool:
        known = dist.init_process_group

        def slowly(*given: object, **named: object) -> None:
            known(*given, **named)
            time.sleep(0.5 * rank)
            (tmp_path / f"met{rank}").touch()

        dist.init_process_group = slowly
        World.current(30.0)
        return (tmp_path / "met1").is_file()

    assert [one.value for one in as_torchrun_does(2, tmp_path, work)] == [True, True]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "training.seed=9"], "rank 1 has another run file than rank 0"),
        (["--set", "training.sed=9"], "rank 1: "),
        (["--data", "nowhere"], "rank 1: "),
    ],
)
def test_ranks_that_were_not_started_alike_end_with_one_line(more, said, data, tmp_path):
    words = training(data, tmp_path / "b")
    with ranks(tmp_path / "out", words, [*words, *more]) as started:
        ended = started.ended()
    assert [one.status for one in ended] == [2, 2]
    (line,) = lines(ended)
    assert line.startswith(f"error: {said}")
    assert len("".join(one.stderr for one in ended).splitlines()) == 1
    assert not (tmp_path / "b.run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [6, pytest.param(20, marks=pytest.mark.long)])
def test_kills_at_any_moment_lose_nothing(number, data, tmp_path):
    with ranks(tmp_path / "whole", *[training(data, tmp_path / "a", epochs=10)] * 2) as started:
        begun = time.monotonic()
        assert [one.status for one in started.ended(240.0)] == [0, 0]
        seconds = time.monotonic() - begun
    chance, kills, rounds = random.Random(5), 0, 0
    while kills < number:
        rounds += 1
        to = tmp_path / f"b{rounds}"
        while not to.exists():
            again = ["--resume"] if to.with_name(to.name + ".run").is_dir() else []
            words = training(data, to, "--wait", "8", *again, epochs=10)
            size = chance.choice((2, 3))
            with ranks(tmp_path / "out", *[words] * size) as started:
                time.sleep(chance.uniform(0.0, seconds))
                killed = chance.randrange(size)
                alive = [one.is_alive() for one in started.ranks]
                started.send(signal.SIGKILL, killed)
                if chance.random() < 0.5:  # as torchrun does
                    started.send(signal.SIGTERM, *[rank for rank in range(size) if rank != killed])
                ended = started.ended(40.0)
            assert "Traceback" not in "".join(one.stderr for one in ended), ended
            if all(alive) and not to.exists():
                kills += 1
                told = {one.status for rank, one in enumerate(ended) if rank != killed}
                # Ranks beside the first end well once all is judged; before they are ranks, SIGTERM just ends them.
                assert told <= {1} or told <= {1, -signal.SIGTERM} or (told == {0} and killed == 0), ended
                assert len(lines(ended)) == (1 if told == {1} else 0) or -signal.SIGTERM in told, ended
        load(to)
        for one, other in zip(curve(to), curve(tmp_path / "a"), strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=2e-2)


@pytest.mark.slow
def test_torchrun_trains_and_tells_of_a_killed_rank_once(data, tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "twotower"]
    words += training(data, tmp_path / "b", epochs=300)
    started = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path / "b", 120.0)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    if not children.is_file():
        pytest.skip("needs /proc")
    os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)
    _, errors = started.communicate(timeout=60.0)
    assert started.returncode == 1
    assert sum(line.startswith("error: ") for line in errors.splitlines()) == 1, errors


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many', and must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
    ],
)
def test_variables_that_torchrun_would_not_set_are_refused(variables, said, data, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(training(data, tmp_path / "b"))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_process_that_cannot_heed_sigterm_is_cut_off_after_its_grace(tmp_path):
    def blocked() -> None:
        with ends_when_told("told", lambda: (tmp_path / "told").touch(), grace=0.2):
            (tmp_path / "begun").touch()
            dist.FileStore(str(tmp_path / "store"), 2).get("never")

    process = FORK.Process(target=blocked)
    process.start()
    while not (tmp_path / "begun").is_file():
        time.sleep(0.01)
    time.sleep(0.1)
    process.terminate()
    process.join(10.0)
    assert process.exitcode == 1
    assert (tmp_path / "told").is_file()


def test_work_that_waits_for_ever_is_given_up_in_time():
    store = dist.HashStore()
    with pytest.raises(ConnectionError, match="did not answer in time"):
        in_time(lambda: store.wait(["never"], timedelta(seconds=3)), 0.1)
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 / 0, 5.0)


def test_sigterm_ends_a_block_with_an_error_and_leaves_no_handler():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ConnectionError, match="told"), ends_when_told("told", lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.0)
    assert signal.getsignal(signal.SIGTERM) is before
