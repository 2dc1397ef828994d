"""Shell completion: the words that a shell is told, by the protocol of typer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("twotower tr", {"train"}), ("twotower train --resu", {"--resume"}), ("twotower data pre", {"prepare"})],
)
def test_a_shell_is_told_how_a_word_goes_on(typed, expected):
    asked = {
        "_TWOTOWER_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
        "OMP_NUM_THREADS": "1",
    }
    program = "from twotower.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert set(done.stdout.split()) == expected, done.stderr
