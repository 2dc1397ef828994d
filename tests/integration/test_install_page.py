"""The page "install into your own project": its code runs, its names exist; `make wheel` does it with the wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import typer

from twotower.cli.main import build_app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs_as_it_stands(tmp_path):
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"ndcg@10 \d\.\d{4}", done.stdout), done.stdout
    assert len(re.findall(r"^item-\d+ -?\d+\.\d{3}$", done.stdout, re.MULTILINE)) == 3


def test_the_commands_of_the_page_parse():
    app = typer.main.get_command(build_app())
    commands = re.findall(r"^twotower (\S+) (.+)$", PAGE, re.MULTILINE)
    assert [verb for verb, _ in commands] == ["evaluate", "recommend"]
    for verb, words in commands:
        app.commands[verb].make_context(verb, words.split())  # type: ignore[attr-defined]


def test_the_extras_of_the_page_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)
    assert len(named) >= 4
    assert set(named) <= extras.keys()


def test_make_wheel_tries_the_page_in_an_empty_environment():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nwheel:")[2].partition("\n\n")[0]
    assert "benchmarks/try_install.py dist/*.whl" in recipe
    script = (ROOT / "benchmarks" / "try_install.py").read_text(encoding="utf-8")
    assert '"how-to" / "install.md"' in script
