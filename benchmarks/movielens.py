"""MovieLens as a prepared data set for benchmarks: from the shared Parquet copy, or made up at the same size."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import common
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log

SIZES = {"ml-100k": (943, 1_682, 106), "ml-1m": (6_040, 3_706, 165)}
"""Users, items, mean events a user."""


def load(name: str, prepared: Path | None = None) -> tuple[Dataset, bool]:
    """The data set, and whether it is the real one.

    Without ``prepared`` it is prepared from the shared copy into a temporary folder; where there is none, a random log
    of the same size stands in, which serves for speed and not for quality.
    """
    if prepared is not None:
        return Dataset.load(prepared), True
    copy = common.SHARED_DATA / name
    if copy.is_dir():
        from twotower.data import sources
        from twotower.data.prepare.prepare import prepare
        from twotower.data.prepare.spec import Spec

        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw"
            sources.get(name, raw, from_path=copy)
            prepare(Spec.from_toml(raw / "spec.toml"), raw / "prepared")
            return Dataset.load(raw / "prepared", verify=False), True
    return random_log(name), False


def random_log(name: str) -> Dataset:
    """Random events with skewed lengths and popularity, of the size of the data set."""
    users, items, mean = SIZES[name]
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.rand(users, generator=generator).log().neg() * (mean - 20) + 20).long()
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), lengths.cumsum(0)])
    weights = 1.0 / torch.arange(1, items + 1)
    drawn = torch.multinomial(weights, int(lengths.sum()), replacement=True, generator=generator) + 2
    schema = Schema(users + 2, items + 2, (), (), has_times=False)
    return Dataset(schema, Log(offsets, drawn), {}, {}, {"name": f"random-{name}"})
