"""Tracking of the geometry of item vectors in training, so that a collapse is seen when it begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.diagnosis.quick import glance
from twotower.diagnosis.thresholds import load_thresholds
from twotower.models.base import Model
from twotower.models.encode import encode_items, inference
from twotower.training.callbacks import EpochRecord, Silent, StopTraining
from twotower.training.config import GEOMETRY

MOST_ITEMS = 10_000
"""Items that are looked at, evenly spaced over the catalogue."""
TILE = 8192
BARS = "▁▂▃▄▅▆▇█"

log = logging.getLogger(__name__)


class Tracking(Silent):
    """Add figures of the item vectors to the record of each evaluation; warn, or end training, when they collapse.

    It must stand before the callbacks that write records. The verdict is that of `twotower.diagnosis` for cone and
    rank; an item vector at the start of training is random, which is no collapse.

    Args:
        dataset: whose known items are encoded.
        mode: "record", "warn" or "stop".
        metric: records without it are those of epochs without an evaluation and stay as they are; None: all are added
            to.
        thresholds: a TOML file to lay over the shipped thresholds.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        mode: str = "warn",
        metric: str | None = None,
        thresholds: Path | str | None = None,
    ) -> None:
        if mode not in GEOMETRY[1:]:
            raise InputError(f"tracking: mode must be one of {', '.join(GEOMETRY[1:])}, got '{mode}'")
        count = dataset.schema.num_items - FIRST_KNOWN
        if count < 2:
            raise InputError(f"data set '{dataset.name}': {count} known item(s); a geometry needs at least two")
        self.dataset, self.mode, self.metric = dataset, mode, metric
        self.thresholds = load_thresholds(thresholds)
        self.ids = dataset.known_items()[:: -(-count // MOST_ITEMS)]

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Add the figures to the record.

        Raises:
            StopTraining: with mode "stop", when the vectors have collapsed.
            InputError: if the model's item states are not vectors.
        """
        if self.metric is not None and self.metric not in record.metrics:
            return
        with inference(model):
            states = encode_items(model, self.dataset, self.ids, TILE)
        if not isinstance(states, Tensor) or states.ndim != 2:
            raise InputError("training.geometry: this model's item states are no vectors; set it to 'off'")
        figures, verdict, reasons = glance(states.float(), self.thresholds)
        record.geometry.update({name: value for name, value in figures.items() if value is not None})
        if verdict != "collapsed" or self.mode == "record":
            return
        text = f"epoch {record.epoch}: item vectors have collapsed: {reasons[0].sentence}"
        log.warning("%s", text)
        if self.mode == "stop":
            raise StopTraining(text)


def curve(records: Sequence[EpochRecord], name: str = "mean_cosine") -> str:
    """Draw a figure over the evaluations as one line, from its first to its last value; empty without any.

    Examples:
        >>> curve([EpochRecord(1, 9, 0.5, 0.1, 2.0, geometry={"mean_cosine": value}) for value in (0.1, 0.2, 0.8)])
        '0.10 ▁▂█ 0.80'
    """
    values = [record.geometry[name] for record in records if name in record.geometry]
    if not values:
        return ""
    low, high = min(values), max(values)
    step = (high - low) / (len(BARS) - 1) or 1.0
    bars = "".join(BARS[round((value - low) / step)] for value in values)
    return f"{values[0]:.2f} {bars} {values[-1]:.2f}"
