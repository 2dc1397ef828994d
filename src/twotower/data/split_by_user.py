"""Splits of users: some are held out whole, and known by the first part of their events or by features alone."""

from __future__ import annotations

from typing import Literal

import torch

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.data.log import Log
from twotower.data.split import Split, Targets
from twotower.data.split_parts import Ratio, Share, checked_ratio, counts_so_far

HeldOut = Literal["drawn", "last"]
"""Which users `by_user` holds out."""


def by_user(
    log: Log,
    *,
    ratio: Ratio = (8, 1, 1),
    fold_in: Share = 0.8,
    held_out: HeldOut = "drawn",
    seed: int | None = None,
) -> Split:
    """Hold out whole users; the first part of their positives is the history, the rest is to be found.

    Source: SparCode (SIGIR 2023), section 4.1, splits users 8:1:1; it leaves open what of a held-out user is known.
    Here the first ``fold_in`` share in time, at least one event and not all. Users with a single positive train.

    Args:
        log: the log.
        ratio: users to train, validation and test, in any unit.
        fold_in: share of a held-out user's positives that is history; above 0, below 1.
        held_out: "drawn", or "last": the users of the last rows, the test behind the validation, as where users are
            sessions whose ids stand in the order of time.
        seed: of the draw; None: 0. It goes with "drawn" alone.

    Raises:
        InputError: if an argument is out of range, or a part has no user.
    """
    if not 0 < fold_in < 1:
        raise InputError(f"by-user split: fold_in must lie between 0 and 1, got {fold_in}; nothing known: cold-users")
    if held_out == "last" and seed is not None:
        raise InputError(f'by-user split: seed = {seed} is of held_out = "drawn"; set that, or leave the seed out')
    return _by_user("by-user", log, ratio, fold_in, seed or 0, drawn=held_out == "drawn")


def cold_users(log: Log, *, ratio: Ratio = (7, 2, 1), seed: int = 0) -> Split:
    """Hold out whole users, known by their features alone; all of their positives are to be found.

    Source: Briand et al., KDD 2021, section 4.1 (70,000 warm users, 20,000 and 10,000 cold ones), and so table 1 of
    SparCode (SIGIR 2023). There the authors gave one partition; here one is drawn a seed.

    Args:
        log: the log.
        ratio: users to train, validation and test, in any unit.
        seed: of the draw.

    Raises:
        InputError: if the ratio is out of range, or a part has no user.
    """
    return _by_user("cold-users", log, ratio, 0.0, seed, drawn=True)


def _by_user(name: str, log: Log, ratio: Ratio, fold_in: float, seed: int, *, drawn: bool) -> Split:
    """Whole users held out; the first ``fold_in`` share of their positives is known, all but one at most."""
    shares = checked_ratio(name, ratio)
    positives = log.positives()
    count = positives.lengths
    needed = 2 if fold_in else 1
    able = (count >= needed).nonzero()[:, 0]
    if drawn:
        able = able[torch.randperm(len(able), generator=torch_generator(seed, "split", name)).to(able.device)]
    first, second = round(len(able) * shares[0]), round(len(able) * (shares[0] + shares[1]))
    if not 0 < first < second < len(able):
        least = "two or more positives" if fold_in else "a positive"
        raise InputError(f"{name} split: {len(able)} users with {least} are too few to cut in three")
    part = torch.zeros_like(count)
    part[able[first:second]], part[able[second:]] = 1, 2
    known = (count * fold_in).floor().long().clamp(min=1) if fold_in else torch.zeros_like(count)
    users = positives.users()
    positive = log.is_positive()
    folded = counts_so_far(log, positive) <= torch.minimum(known, count - 1)[log.users()]
    if not fold_in:
        folded = torch.zeros_like(folded)  # what stands before the first positive, shown and not taken, is unknown too
    asked, held, group = ~folded[positive], part[users], part[log.users()]
    if fold_in:
        more = f"{int((count == 1).sum())} users with one positive are only trained on."
    else:
        more = "Of those who are asked about, features alone are known; popular items of the test's time are known too."
    return Split(
        log.select(group == 0),
        Targets(log.select((group == 1) & folded), positives.select((held == 1) & asked)),
        Targets(log.select((group == 2) & folded), positives.select((held == 2) & asked)),
        log.select(group < 2),
        "No event of a held-out user is trained on, so an id of a user tells nothing. Time leaks: training users' "
        f"events may be later than what is asked. {more}",
    )
