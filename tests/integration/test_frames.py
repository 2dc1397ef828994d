"""From a frame to a bundle, as the page of the documentation does it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "from-a-data-frame.md"


@pytest.mark.slow
def test_the_page_on_data_frames_runs_and_prints_what_it_shows(tmp_path):
    pytest.importorskip("pandas")
    text = PAGE.read_text(encoding="utf-8")
    program, shown = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "text"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout == shown
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["films-bundle", "films-bundle.run"]
