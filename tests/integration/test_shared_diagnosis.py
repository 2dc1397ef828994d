"""A diagnosis shared out over ranks: the report of one process, told once; ranks that differ or go end in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_processes
import torch
from rank_processes import as_torchrun_does, ranks

import twotower.cli.diagnose
import twotower.training.distributed
import twotower.training.interrupt  # noqa: F401 - what ranks read, read once
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.diagnosis import diagnose
from twotower.ops import cosines
from twotower.ops.cosines import directions, nearest, scan_pairs
from twotower.ops.share import ALONE, Share

pytestmark = pytest.mark.ranks
ROWS = 1_300
"""Above the number that is sorted in float64, so that cosines are counted."""


def on_ranks(size: int, folder: Path, work: Callable[[Share], Any]) -> list[Any]:
    """What ``work`` gives, or raises, on each of so many processes."""
    return rank_processes.on_ranks(size, folder, lambda world: work(Share(world.rank, world.size)))


def arrays(tensors: Any) -> list[Any]:
    """Tensors as they go through a pipe: those of torch ask their process for the numbers, which may have ended."""
    return [tensor.numpy() for tensor in tensors]


def space(rows: int = ROWS, dim: int = 12) -> torch.Tensor:
    """Vectors about a common direction, with directions of unequal spread."""
    draw = torch.Generator().manual_seed(5)
    return torch.randn(rows, dim, generator=draw, dtype=torch.float64) * torch.linspace(0.2, 1.0, dim).double() + 0.3


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch) -> None:
    """Tiles of a hundred rows, so that there are several to share out."""
    monkeypatch.setattr(cosines, "_COUNTED_NUMBERS", 100 * ROWS)
    monkeypatch.setattr(cosines, "_TILE_NUMBERS", 100 * ROWS)


def same(found: Any, expected: Any) -> None:
    """Plain values alike, numbers to rounding."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            same(value, expected[name])
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-6, abs=1e-7) if isinstance(found, float) else expected)


@pytest.mark.parametrize(
    ("size", "exact_rows", "rows"), [(2, 100_000, ROWS), (3, 100_000, 400), (2, 600, 400), (3, 600, ROWS)]
)
def test_ranks_give_the_report_of_one_process(size, exact_rows, rows, tmp_path):
    vectors, seen = space(rows), torch.arange(rows) % 7
    expected = diagnose(vectors, popularity=seen, seed=3, exact_rows=exact_rows).to_json()
    for found in on_ranks(
        size,
        tmp_path,
        lambda share: diagnose(vectors, popularity=seen, seed=3, exact_rows=exact_rows, share=share).to_json(),
    ):
        same(found, expected)


@pytest.mark.parametrize("size", [2, 3])
def test_a_shared_scan_is_that_of_one_process_to_the_bit(size, tmp_path):
    unit = torch.nn.functional.normalize(space())
    whole = scan_pairs(directions(unit, dtype=torch.float32), 20)

    def work(share: Share) -> list[Any]:
        return arrays(scan_pairs(directions(unit, dtype=torch.float32), 20, share=share))

    for found in on_ranks(size, tmp_path, work):
        assert all(np.array_equal(one, other) for one, other in zip(found, arrays(whole), strict=True))


@pytest.mark.parametrize("size", [2, 3])
def test_each_rank_compares_its_part_of_the_pairs_alone(size, tmp_path, monkeypatch):
    plain, counted = cosines.top_k, []
    monkeypatch.setattr(cosines, "top_k", lambda scores, k: (counted.append(len(scores)), plain(scores, k))[1])
    unit = torch.nn.functional.normalize(space())

    def work(share: Share) -> int:
        scan_pairs(directions(unit, dtype=torch.float32), 20, share=share)
        return sum(counted)

    done = on_ranks(size, tmp_path, work)
    assert sum(done) == ROWS
    assert max(done) - min(done) <= 100  # one tile


@pytest.mark.parametrize("queries", [1, 7])
def test_fewer_queries_than_ranks_are_answered_on_all(queries, tmp_path):
    unit = torch.nn.functional.normalize(space(50))
    own = torch.arange(queries)
    values, rows = nearest(unit[:queries], iter(unit.split(20)), 60, skip=own)

    def work(share: Share) -> list[Any]:
        return arrays(nearest(unit[:queries], iter(unit.split(20)), 60, skip=own, share=share))

    for found in on_ranks(3, tmp_path, work):
        assert found[0] == pytest.approx(values.numpy(), rel=1e-12)
        assert np.array_equal(found[1], rows)  # padded with -1


@pytest.mark.parametrize("differs", ["vectors", "popularity", "seed"])
def test_ranks_with_other_vectors_than_rank_0_are_refused_on_all(differs, tmp_path):
    vectors, seen = space(400), torch.arange(400) + 1

    def work(share: Share) -> str:
        other = {differs} if share.rank == 1 else set()
        moved = vectors.clone()
        moved[399, 3] += 1e-9 * ("vectors" in other)
        popularity = seen + ("popularity" in other)
        return diagnose(moved, popularity=popularity, seed=int("seed" in other), share=share).verdict

    for found in on_ranks(3, tmp_path, work):
        assert isinstance(found, InputError)
        assert str(found) == "rank 1 has other vectors, popularity or settings than rank 0: start all ranks alike"


def test_a_rank_that_is_gone_is_one_line_for_the_others(tmp_path):
    def work(share: Share) -> Any:
        if share.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return diagnose(space(400), share=share)

    found, gone = on_ranks(2, tmp_path, work)
    assert gone is None
    assert isinstance(found, ConnectionError)
    assert str(found) == "a rank that shares the work is gone; all ranks end: start them again"


def test_one_process_shares_nothing():
    assert ALONE.block(7) == slice(0, 7)
    assert all(ALONE.has(tile) for tile in range(5))
    assert torch.equal(ALONE.summed(torch.arange(3)), torch.arange(3))


# By the command line


def told(folder: Path, *words: list[str]) -> tuple[list[int], list[str], list[str]]:
    """Statuses, standard output and errors of ranks that are given these words."""
    ended = as_torchrun_does(len(words), folder, lambda rank: main(["diagnose", *words[rank]]), 90.0)
    return [one.status for one in ended], [one.stdout for one in ended], [one.stderr for one in ended]


@pytest.fixture
def file(tmp_path) -> Path:
    np.save(tmp_path / "vectors.npy", space(60).numpy())
    return tmp_path / "vectors.npy"


def test_rank_0_alone_prints_and_writes(file, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["diagnose", str(file), "--json"])
    expected = json.loads(capsys.readouterr().out)
    pages = [tmp_path / f"page{rank}.html" for rank in range(2)]
    statuses, out, err = told(tmp_path, *([str(file), "--json", "--html", str(page)] for page in pages))
    assert statuses == [0, 0], err
    same(json.loads(out[0]), expected)
    assert out[1] == ""
    assert [page.is_file() for page in pages] == [True, False]


def test_a_collapsed_space_is_the_status_of_rank_0_alone(tmp_path):
    np.save(tmp_path / "vectors.npy", space(400).numpy() + 30.0)
    statuses, out, err = told(tmp_path, *[[str(tmp_path / "vectors.npy")]] * 2)
    assert statuses == [3, 0], err
    assert out[0].startswith("COLLAPSED")
    assert out[1] == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.npy"], "nothing.npy"),
        (["vectors.npy", "--device", "cuda"], "--device says where the model of --bundle runs"),
        (["vectors.npy", "--bundle", "bundle"], "with --bundle a diagnosis runs in one process: leave torchrun out"),
    ],
)
def test_what_one_process_refuses_ranks_refuse_in_one_line(words, said, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    statuses, out, err = told(tmp_path, words, words)
    assert statuses == [2, 2], err
    assert out == ["", ""]
    (line,) = [line for line in "".join(err).splitlines() if line.startswith("error: ")]
    assert said in line


def test_a_rank_that_does_not_come_is_one_line_about_the_diagnosis(file, tmp_path):
    with ranks(tmp_path, lambda: main(["diagnose", str(file), "--wait", "2"]), size=2) as started:
        (ended,) = started.ended()
    assert ended.status == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(
        "error: a rank of the diagnosis (is gone|did not answer in time); all ranks end: start them again", line
    )


@pytest.mark.slow
def test_torchrun_diagnoses_on_two_ranks(file):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "twotower"]
    done = subprocess.run([*words, "diagnose", str(file), "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statistics"]["vectors"] == 60
