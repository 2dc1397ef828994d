"""Installs the wheel into an empty environment, outside the repository, and does what the page "install" says.

    python benchmarks/try_install.py dist/twotower-*.whl

The environment lies in a temporary folder and goes with it. PyTorch is the one of constraints.txt.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-to" / "install.md"


def blocks(language: str) -> list[str]:
    """The blocks of code of a language on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def main(wheel: Path) -> None:
    """Make the environment, install, run the page's Python and each command of ours on it."""
    with tempfile.TemporaryDirectory(prefix="twotower-install-") as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        python = str(programs / "python")
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

        def run(*words: str) -> str:
            print("$", *words, flush=True)
            done = subprocess.run(words, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            print(done.stdout, end="", flush=True)
            return done.stdout

        run(python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel.resolve()))
        where = run(python, "-c", "import twotower; print(twotower.__file__)")
        assert str(folder) in where, "another twotower answered"
        for place, code in enumerate(blocks("python")):
            (folder / f"page{place}.py").write_text(code, encoding="utf-8")
            run(python, f"page{place}.py")
        ours = [line.split() for block in blocks("sh") for line in block.splitlines() if line.startswith("twotower ")]
        assert ours, "the page has no command of ours"
        for words in [["twotower", "--version"], *ours]:
            run(str(programs / words[0]), *words[1:])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
