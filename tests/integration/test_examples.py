"""The examples run as they stand, from a folder of their own."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """What an example prints, which is run once."""
    return functools.cache(lambda example: run(example, tmp_path_factory.mktemp(example.stem)))


def run(example: Path, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.stem for example in EXAMPLES])
def test_an_example_runs_and_says_what_it_found(example, shown):
    assert re.search(r"ndcg@10 \d\.\d{4}", shown(example)), shown(example)


def test_the_answers_of_the_examples_are_of_the_asker_s_taste(shown):
    [frame, model] = [example for example in EXAMPLES if example.stem in ("own_data_frame", "own_model")]
    for example in (frame, model):
        answers = [line.split()[0] for line in shown(example).splitlines() if re.match(r"(jazz|rock)-\d+", line)]
        assert len(answers) == 3
        assert all(answer.startswith("jazz") for answer in answers), answers
