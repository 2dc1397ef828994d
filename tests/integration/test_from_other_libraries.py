"""The pages "from RecBole, RecTools, TFRS": our half of each runs as it is printed, and names what exists."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from twotower.data.splitters import SPLITTERS
from twotower.experiment.run import Run
from twotower.experiment.sources import SAMPLERS
from twotower.losses.registry import LOSSES
from twotower.metrics.ranking import RANKING_METRICS
from twotower.models.registry import MODELS, model_parameters
from twotower.training.config import FREQUENCIES, HARD

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "how-to").glob("from-[rt]*.md"))


def write_log(folder: Path) -> None:
    """Twenty users of two tastes: as a CSV file, and as RecBole's atomic file."""
    draw = random.Random(5)
    rows = [
        (f"u{user}", f"{'jazz' if user % 2 else 'rock'}-{item}", 1_700_000_000 + 3_600 * step)
        for user in range(1, 21)
        for step, item in enumerate(draw.sample(range(12), 8))
    ]
    lines = [f"{user},{item},2024-01-{1 + step % 8:02d}" for step, (user, item, _) in enumerate(rows)]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,datetime", *lines]) + "\n", encoding="utf-8")
    atomic = folder / "dataset" / "mylog" / "mylog.inter"
    atomic.parent.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *(f"{u}\t{i}\t{time}" for u, i, time in rows)]
    atomic.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_there_are_three_pages():
    assert [page.stem for page in PAGES] == ["from-recbole", "from-rectools", "from-tfrs"]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_our_half_of_a_page_runs(page, tmp_path):
    pytest.importorskip("pandas")
    write_log(tmp_path)
    blocks = re.findall(r'```python title="twotower[^"]*"\n(.*?)```', page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ndcg@10" in done.stdout
    answers = re.findall(r"^(jazz|rock)-\d+ -?\d+\.\d+$", done.stdout, re.MULTILINE)
    assert len(answers) == 3, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_names_what_exists(page):
    ours = "\n".join(
        line.rsplit("|", 2)[1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")
    )
    keys = {key.name for part in fields(Run) for key in fields(type(getattr(Run(), part.name)))}
    keys |= {key for name in MODELS for key in model_parameters(name)}
    keys |= {"loss", "sampler", "to", "user", "item", "time", "value", "label", "users", "items", "k", "exclude"}
    keys |= {"include_seen", "history", "number"}  # the last is a setting of a source of negatives
    assert set(re.findall(r"(?<!section\.)\b([a-z_]+)=", ours)) <= keys
    named = {"loss": LOSSES, "sampler": SAMPLERS, "split": SPLITTERS, "frequency": FREQUENCIES, "hard": HARD}
    for key, known in named.items():
        assert set(re.findall(rf'\b{key}="([^"]+)"', ours)) <= set(known)
    assert {name.split("@")[0] for name in re.findall(r"`([a-z_]+@\d+)`", ours)} <= set(RANKING_METRICS)
    models = {*re.findall(r'`"([a-z_0-9]+)"`', ours), *re.findall(r'train\("([a-z_0-9]+)"', ours)}
    assert models <= {*MODELS, *LOSSES}
