"""Table of FIT on exposures: clicks against the same user's unclicked exposures.

Source: Xiong et al., SIGIR 2025, section 5.1.1, on Taobao: "we collect users' historical click behaviors prior to the
exposure time of each pageview record"; 50 at most, users without any are left out. Here on KuaiRand-Pure: every
exposure since 25 April 2022 is a row, a click its label; what came before is history alone. The latest 15 % of the rows
test, the 15 % before them validate, so the split is the same for every seed. Random unseen items, as in ``fit``, are
told from clicks by popularity alone; these are not.

Its data set is ``benchmarks/kuairand_exposures.py``'s: the standard log with each user's last 50 views before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.pairs import PairRows, PairSplit
from twotower.experiment.labelled_pairs import HISTORY, PAIRS
from twotower.experiment.run import Data, ModelSection, Run
from twotower.models.registry import all_settings
from twotower.reproduce.fit import MODELS, choices, fit_table, pair_run
from twotower.reproduce.fit_extras import POPULARITY
from twotower.reproduce.fit_measure import measure_split
from twotower.reproduce.sets import without_text
from twotower.reproduce.study import Measured

SINCE = 1_650_816_000
"""0:00 of 25 April 2022 in Beijing, in Unix seconds; clicks before it are history alone."""
TEST_SHARE = VALIDATION_SHARE = 0.15
COLUMNS = ("auc", "relaimpr", "log_loss", "gauc", "seconds_per_epoch")
LEAKS = "nothing of the future reaches training; items and users first seen after the cut are cold"


class ExposureSplit(PairSplit):
    """Hold exposures in three parts by time."""

    def learnt(self) -> Log:
        """Return the clicks among the training rows."""
        clicked = self.train.labels >= 0.5
        users, items = self.train.users[clicked], self.train.items[clicked]
        offsets = torch.zeros(len(self.train.log.offsets), dtype=torch.int64, device=items.device)
        torch.cumsum(users.bincount(minlength=len(offsets) - 1), 0, out=offsets[1:])
        return Log(offsets, items)


def exposure_pairs(dataset: Dataset, *, history_length: int, since: int = SINCE) -> ExposureSplit:
    """Return every exposure since a moment as a row: its label, and the positives before it as history.

    Args:
        dataset: a log with times and labels of both kinds.
        history_length: latest items of a history; rows without any are left out.
        since: in Unix seconds; earlier events are history alone.

    Raises:
        InputError: if the log has no clock or no labels, or a part would have rows of one kind alone.
    """
    log = dataset.log
    if log.times is None or log.labels is None:
        raise InputError(f"data set '{dataset.name}': exposures need times and labels; prepare with label.keep = 'all'")
    positive = log.labels >= 0.5
    before = torch.cumsum(positive, 0) - positive.long()
    users, clicks = log.users(), log.positives()
    asked = (log.times >= since) & (before > clicks.offsets[users])
    events = asked.nonzero()[:, 0]
    ordered = log.times[events].sort().values
    if not len(ordered):
        raise InputError(f"data set '{dataset.name}': no exposure since {since} has a history")
    shares = (TEST_SHARE + VALIDATION_SHARE, TEST_SHARE)
    first, second = (ordered[int(len(ordered) * (1.0 - share))] for share in shares)
    rows = PairRows(
        dataset,
        clicks,
        users=users[events],
        ends=before[events],
        items=log.items[events],
        labels=positive[events].float(),
        history_length=history_length,
    )
    times = log.times[events]

    def part(mask: Tensor) -> PairRows:
        found = rows.take(mask.nonzero()[:, 0])
        if not 0.0 < float(found.labels.mean()) < 1.0:
            raise InputError(f"data set '{dataset.name}': exposures of one part are all of one kind")
        return found

    return ExposureSplit(
        part(times < first),
        part((times >= first) & (times < second)),
        part(times >= second),
        part(times < second),
        LEAKS,
    )


def measure(run: Run, dataset: Dataset, folder: Path | None = None) -> Measured:
    """Train one run on exposures and evaluate the latest ones."""
    dataset = without_text(dataset)
    length = all_settings(run.model.name, run.model.settings).get("history_length", HISTORY)
    return measure_split(run, dataset, exposure_pairs(dataset, history_length=length), folder, requests=False)


def rows(data: str) -> Mapping[str, Sequence[Run]]:
    """Return every model with the same grid as in ``fit``."""
    return {
        name: [_exposures(run) for run in choices(model, settings, "exposures")]
        for name, (model, settings) in MODELS.items()
    }


def _exposures(run: Run) -> Run:
    return replace(run, data=Data(split=PAIRS, split_options={"reading": "exposures"}))


TABLES = (
    fit_table(
        "fit-exposures",
        "FIT and its baselines, clicks against the user's own unclicked exposures",
        rows,
        popularity=replace(_exposures(pair_run(POPULARITY, {}, reading="exposures")), model=ModelSection(POPULARITY)),
        data=("kuairand-pure",),
        measure=measure,
        columns=COLUMNS,
    ),
)
