"""The examples run as they stand, from a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def run(example: Path, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.stem for example in EXAMPLES])
def test_an_example_runs_and_says_what_it_found(example, tmp_path):
    shown = run(example, tmp_path)
    assert re.search(r"ndcg@10 \d\.\d{4}", shown), shown


def test_the_answers_of_the_examples_are_of_the_asker_s_taste(tmp_path):
    [frame, model] = [example for example in EXAMPLES if example.stem in ("own_data_frame", "own_model")]
    for example in (frame, model):
        answers = [
            line.split()[0] for line in run(example, tmp_path).splitlines() if re.match(r"(jazz|rock)-\d+", line)
        ]
        assert len(answers) == 3
        assert all(answer.startswith("jazz") for answer in answers), answers
