"""Table of FIT under the protocol of DIEN: one positive a user, and the users split.

Source: Zhou et al., AAAI 2019 (DIEN), whose sentence FIT's section 5.1.1 repeats: the last of T behaviours is to be
told from an item that the user never met, given the ones before. Read so, a user gives one positive and one negative,
and users are split: 10 % test, and of the others 20 % validate, drawn anew for every seed.

The paper does not say how the negative is drawn. ``fit-users`` draws uniformly among the items of the log;
``fit-users-popular`` by their number of events, as the lists of DIEN's public code do. Scores are scaled by a learnt
temperature. Batches of 256, since there are 4,349 training pairs on MovieLens-1M, and negatives are drawn once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.pairs import PairRows, PairSplit
from twotower.data.unseen import Unseen
from twotower.experiment.labelled_pairs import HISTORY, PAIRS
from twotower.experiment.run import Data, ModelSection, Run
from twotower.models.registry import all_settings
from twotower.reproduce.fit import MODELS, fit_table, pair_run
from twotower.reproduce.fit_extras import POPULARITY
from twotower.reproduce.fit_measure import measure_split
from twotower.reproduce.sets import without_text
from twotower.reproduce.study import Measured

RATES = (1e-3, 3e-3, 1e-2)
TEST_SHARE, VALIDATION_SHARE = 0.1, 0.2
NEGATIVES = ("uniform", "popular")
LEAKS = "no event of a test user is a training row, but they count in the draws of negatives and in popularity"
ROWS = ("two_tower", "two_tower_fields", "two_tower_din", "fit")
DRAWS = 200
"""Times that negatives are drawn again until none was met."""


def user_pairs(dataset: Dataset, *, negatives: str, history_length: int, seed: int) -> PairSplit:
    """Return one positive and one negative a user: its last event, and an item that it never met.

    Args:
        dataset: of any log; users with fewer than two positives give no row.
        negatives: "uniform" over the items of the log, or "popular": by their number of events.
        history_length: latest items of a history.
        seed: of the negatives and of the split.

    Raises:
        InputError: if there are fewer than ten users, or one has met every item.
    """
    log = dataset.log.positives()
    able = log.lengths >= 2
    users = able.nonzero()[:, 0]
    if len(users) < 10:
        raise InputError(f"data set '{dataset.name}': {len(users)} users with two positives are too few to split")
    device = log.items.device
    ends = log.offsets[users + 1] - 1
    pool = log.items.unique()
    unseen = Unseen(dataset.log.offsets, dataset.log.items, pool[pool >= FIRST_KNOWN], dataset.schema.num_items)
    unseen.check(users)
    generator = torch_generator(seed, "pairs", "users", device=device)
    drawn = unseen.draw(users, generator) if negatives == "uniform" else _popular(dataset, users, generator)
    rows = PairRows(
        dataset,
        log,
        users=users.repeat_interleave(2),
        ends=ends.repeat_interleave(2),
        items=torch.stack([log.items[ends], drawn], dim=1).flatten(),
        labels=torch.tensor([1.0, 0.0], device=device).repeat(len(users)),
        history_length=history_length,
    )
    order = torch.randperm(len(users), generator=torch_generator(seed, "pairs", "split")).to(device)
    tested = round(TEST_SHARE * len(users))
    held = tested + round(VALIDATION_SHARE * (len(users) - tested))

    def part(places: Tensor) -> PairRows:
        return rows.take((2 * places.sort().values[:, None] + torch.arange(2, device=device)).flatten())

    return PairSplit(part(order[held:]), part(order[tested:held]), part(order[:tested]), part(order[tested:]), LEAKS)


def _popular(dataset: Dataset, users: Tensor, generator: torch.Generator) -> Tensor:
    """One item a user, by number of events, among those that it never met."""
    log, size = dataset.log, dataset.schema.num_items
    met = (log.users() * size + log.items).unique()
    events = log.positives().items
    events = events[events >= FIRST_KNOWN]

    def any_of(count: int) -> Tensor:
        return events[torch.randint(len(events), (count,), generator=generator, device=events.device)]

    items = any_of(len(users))
    for _ in range(DRAWS):
        again = torch.isin(users * size + items, met)
        if not again.any():
            return items
        items[again] = any_of(int(again.sum()))
    raise InputError(f"data set '{dataset.name}': a user has met nearly every item, so no negative can be drawn for it")


def measure(run: Run, dataset: Dataset, folder: Path | None = None) -> Measured:
    """Train one run on the pairs of some users and evaluate those of others."""
    dataset = without_text(dataset)
    length = all_settings(run.model.name, run.model.settings).get("history_length", HISTORY)
    negatives = str(run.data.split_options["negatives"])
    split = user_pairs(dataset, negatives=negatives, history_length=length, seed=run.training.seed)
    return measure_split(run, dataset, split, folder)


def users_run(run: Run, negatives: str) -> Run:
    """Return a run of labelled pairs under this protocol."""
    data = Data(split=PAIRS, split_options={"reading": "users", "negatives": negatives})
    return replace(run, data=data, training=replace(run.training, epochs=40, batch_size=256, patience=4))


def rows(negatives: str, data: str) -> Mapping[str, Sequence[Run]]:
    """Return the rows, each with the same three rates; no user ids, since test users are not trained on."""
    return {
        name: [users_run(pair_run(*MODELS[name], reading="users", rate=rate), negatives) for rate in RATES]
        for name in ROWS
    }


def _popularity(negatives: str) -> Run:
    return replace(users_run(pair_run(POPULARITY, {}, reading="users"), negatives), model=ModelSection(POPULARITY))


TABLES = tuple(
    fit_table(
        "fit-users" if negatives == "uniform" else f"fit-users-{negatives}",
        f"FIT and two-towers, one pair a user, users split, {negatives} negatives",
        partial(rows, negatives),
        popularity=_popularity(negatives),
        data=("ml-1m",),
        measure=measure,
        seeds=10,
    )
    for negatives in NEGATIVES
)
