"""Parts of every kind from another package: by class through `twotower.train`, opened elsewhere, found as plug-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

OWN_PARTS = '''
"""Seven parts of somebody else's package."""

import torch
from torch import nn

import twotower
from twotower.index.exact import ExactIndex
from twotower.metrics.ranking import ranking_metrics
from twotower.sampling.uniform import Uniform


@twotower.SAMPLERS.register("three_uniform")
def three_uniform(context):
    return Uniform(context.num_items, 3, context.generator("three_uniform"))


@twotower.LOSSES.register("hinge")
class Hinge(nn.Module):
    def forward(self, positive_scores, negative_scores, negative_log_q, negative_mask):
        gap = (1.0 - positive_scores[:, None] + negative_scores).clamp(min=0.0)
        return (gap * negative_mask).sum() / negative_mask.sum().clamp(min=1)


@twotower.SCORERS.register("half_dot")
class HalfDot(nn.Module):
    inner_product = True

    def prepare(self, vectors):
        return vectors

    def forward(self, users, items):
        return users @ items.T

    def pairs(self, users, items):
        users = users[:, None] if items.ndim > users.ndim else users
        return (users * items).sum(-1)


@twotower.TOWERS.register("linear")
def linear(width, dim, *, hidden, dropout, batch_norm):
    return nn.Linear(width, dim)


@twotower.INDEXES.register("noted_exact")
class NotedExact(ExactIndex):
    """Exact search."""


@twotower.SPLITTERS.register("last_one")
def last_one(log):
    return twotower.SPLITTERS.get("last-n")(log, n=1)


@twotower.METRICS.register("first_rank")
def first_rank(ranks, queries, num_queries, k):
    return ranking_metrics(ranks, queries, num_queries, [k])[f"mrr@{k}"] * 2.0
'''

TRAIN = """
import sys
import twotower
from own_parts import Hinge, HalfDot, NotedExact, last_one, linear, three_uniform

common = {"epochs": 1, "dim": 4, "device": "cpu"}
whole = twotower.train(
    "two_tower", sys.argv[1], to="whole", loss=Hinge, sampler=three_uniform, score=HalfDot, tower=linear,
    index=NotedExact, split=last_one, **common
)
run, model = whole.run, whole.model
print(run.objective.loss, run.sampling.sources[0].name, run.model.settings["score"], run.model.settings["tower"])
print(run.index.kind, run.data.split, type(model.scorer).__name__, type(model.user_mlp).__name__)
print(whole.test.metrics["first_rank@10"] == 2.0 * whole.test.metrics["mrr@10"])
twotower.train("two_tower", sys.argv[1], to="scored", score=HalfDot, tower=linear, **common)
twotower.train("two_tower", sys.argv[1], to="learnt", loss=Hinge, sampler=three_uniform, split=last_one, **common)
"""

REFUSED = """
import twotower
for name, use in (
    ("whole", twotower.load), ("scored", twotower.load), ("learnt", twotower.evaluate), ("learnt", twotower.load)
):
    try:
        print(name, type(use(name)).__name__)
    except twotower.InputError as error:
        print(error)
"""

COMMAND = """
from twotower.cli.main import main
try:
    main(["--import", "own_parts", "evaluate", "learnt", "--json"])
except SystemExit as ended:
    assert not ended.code
"""

PLUGGED = """
import sys
import twotower
assert "own_parts" not in sys.modules
own = sorted(set(twotower.SCORERS) - {"cosine", "dot", "mlp"})
print(own, len(twotower.load("scored").recommend(history=["2"], k=1)))
print("own_parts" in sys.modules)
"""

ENTRY_POINTS = """
[twotower.scorers]
half_dot = own_parts:HalfDot
[twotower.towers]
linear = own_parts:linear
"""


class Elsewhere:
    """A folder with somebody's package, and processes that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "own_parts.py").write_text(OWN_PARTS, encoding="utf-8")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.folder), *sys.path]),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            cwd=self.folder,
            check=False,
        )

    def plug_in(self, entry_points: str) -> None:
        """What installing somebody's package leaves in an environment."""
        told = self.folder / "own_parts-1.0.dist-info"
        told.mkdir(exist_ok=True)
        (told / "METADATA").write_text("Metadata-Version: 2.1\nName: own-parts\nVersion: 1.0\n", encoding="utf-8")
        (told / "entry_points.txt").write_text(entry_points, encoding="utf-8")


@pytest.fixture
def elsewhere(tmp_path) -> Elsewhere:
    return Elsewhere(tmp_path)


@pytest.mark.slow
def test_parts_of_every_kind_are_used_by_class_and_missed_by_name_in_a_new_process(elsewhere, prepared_folder):
    made = elsewhere.run("-c", TRAIN, str(prepared_folder))
    assert made.stdout.splitlines() == [
        "hinge three_uniform half_dot linear",
        "noted_exact last_one HalfDot Linear",
        "True",
    ], made.stderr
    # One process: what is refused, what the command line opens by its import, and what opens after it.
    refused = elsewhere.run("-c", f"{REFUSED}\n{COMMAND}\n{REFUSED}")
    ending = "is not registered here; import own_parts before you load it (command line: twotower --import own_parts …)"
    lines = refused.stdout.splitlines()
    assert lines[:4] == [
        f"whole: its index 'noted_exact' {ending}",
        f"scored: its score 'half_dot' {ending}",
        f"learnt: its loss 'hinge' {ending}",
        "learnt Retriever",
    ], refused.stderr
    assert json.loads("".join(lines[4:-4]))["metrics"], refused.stderr
    assert lines[-4:] == ["whole Retriever", "scored Retriever", "learnt Result", "learnt Retriever"]

    shared = elsewhere.run(
        *("-m", "twotower", "--import=own_parts", "recommend", "scored", "--all", "--to", "l.parquet", "--workers", "2")
    )
    assert (elsewhere.folder / "l.parquet").is_file(), shared.stderr

    elsewhere.plug_in(ENTRY_POINTS)
    found = elsewhere.run("-c", PLUGGED)
    assert found.stdout.splitlines() == ["['half_dot'] 1", "True"], found.stderr
    listed = elsewhere.run("-m", "twotower", "recommend", "scored", "--user", "nobody")
    assert "nobody" in listed.stderr, "the command line finds plug-ins too"
    assert "half_dot" not in listed.stderr
