"""Splits of events: the last of each user, those after a moment, or drawn ones are held out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.seeds import torch_generator
from twotower.data.log import Log
from twotower.data.split import Split, Targets
from twotower.data.split_parts import Count, Ratio, Share, checked_ratio, counts_so_far, targets_of
from twotower.data.ties import Policy, with_ties


def leave_one_out(log: Log, *, ties: Policy = "file", seed: int | None = None) -> Split:
    """Split each user: the last positive is the test, the one before it the validation; the rest trains.

    A user with two positives has no validation, one with a single positive is only trained on.

    Args:
        log: the log.
        ties: which of events that bear one time comes last: "file", as the file has them, or "drawn". The drawn order
            is that of histories too.
        seed: of the drawn order; None: 0. It goes with "drawn" alone.

    Raises:
        InputError: if no user has two positives, or ties are to be drawn and the log has no clock.
    """
    return last_n(log, n=1, ties=ties, seed=seed)


def last_n(log: Log, *, n: Count = 5, ties: Policy = "file", seed: int | None = None) -> Split:
    """Split each user: the last ``n`` positives are the test, the ``n`` before them the validation.

    What precedes them trains.

    A user needs more than 2n positives for both, more than n for the test alone; others are only trained on.

    Args:
        log: the log.
        n: events of each part.
        ties: as in `leave_one_out`.
        seed: as in `leave_one_out`.

    Raises:
        InputError: if ``n`` is below 1, no user has more than ``n`` positives, or ties are to be drawn and the log has
            no clock.
    """
    if not isinstance(n, int) or n < 1:
        raise InputError(f"last-n split: n must be a whole number of at least 1, got {shown(n)}")
    log = with_ties(log, ties, seed)
    positives = log.positives()
    users, count = positives.users(), positives.lengths
    if not (count > n).any():
        raise InputError(f"split: no user has more than {n} positive event{'s' * (n > 1)}, so nothing can be held out")
    positive = log.is_positive()
    every_place, every_total = counts_so_far(log, positive), count[log.users()]
    place, total = every_place[positive], count[users]
    trained = torch.where(count > 2 * n, count - 2 * n, torch.where(count > n, count - n, count))
    short = int(((count > 0) & (count <= n)).sum())
    return Split(
        log.select(every_place <= trained[log.users()]),
        Targets(
            log.select((every_total > 2 * n) & (every_place <= every_total - 2 * n)),
            positives.select((total > 2 * n) & (place > total - 2 * n) & (place <= total - n)),
        ),
        Targets(
            log.select((every_total > n) & (every_place <= every_total - n)),
            positives.select((total > n) & (place > total - n)),
        ),
        log.select(every_place <= torch.where(count > n, count - n, count)[log.users()]),
        "Time leaks: the last events of one user may be older than what other users train on, so popularity and taste "
        f"of the future are known. {short} users with {n} or fewer positives are only trained on.",
    )


def global_time(
    log: Log,
    *,
    validation_share: Share = 0.1,
    test_share: Share = 0.1,
    validation_from: int | None = None,
    test_from: int | None = None,
) -> Split:
    """Train before a moment, validate until a second one, test after it.

    Args:
        log: must have times.
        validation_share: the share of positives between the two moments; 0 to 1.
        test_share: the share of positives after the second moment; 0 to 1.
        validation_from: the first moment, in Unix seconds; takes the place of its share.
        test_from: the second moment, in Unix seconds; takes the place of its share.

    Raises:
        InputError: if the log has no clock, or one of the three parts has no positive.
    """
    if log.times is None:
        raise InputError("global-time split: the log has no times; name a time column, or take another split")
    _check_shares("global-time", (validation_share, test_share))
    positives = log.positives()
    assert positives.times is not None
    if validation_from is None or test_from is None:
        ordered = positives.times.sort().values
        cuts = [_moment(ordered, validation_share + test_share), _moment(ordered, test_share)]
        validation_from = cuts[0] if validation_from is None else validation_from
        test_from = cuts[1] if test_from is None else test_from
    early = positives.times < validation_from
    late = positives.times >= test_from
    if not early.any() or not late.any() or not (~early & ~late).any():
        raise InputError(
            f"global-time split: validation from {validation_from} and test from {test_from} leave a part without "
            "positives; choose other moments or shares"
        )
    return Split(
        log.select(log.times < validation_from),
        targets_of(log, log.times < validation_from, positives.select(~early & ~late)),
        targets_of(log, log.times < test_from, positives.select(late)),
        log.select(log.times < test_from),
        "Nothing of the future reaches training. Users and items first seen after the cut are cold, and the history "
        "of the test holds the validation period, which training has not seen.",
    )


def random_ratio(log: Log, *, ratio: Ratio = (8, 1, 1), seed: int = 0) -> Split:
    """Draw each event into training, validation or test on its own.

    Args:
        log: the log.
        ratio: events to train, validation and test, in any unit.
        seed: of the draw.

    Raises:
        InputError: if the ratio is out of range, or a part has no positive.
    """
    shares = checked_ratio("random-ratio", ratio)
    draw = torch.rand(log.num_events, generator=torch_generator(seed, "split", "random-ratio"), dtype=torch.float64)
    part = (draw >= shares[0]).long() + (draw >= shares[0] + shares[1]).long()
    part = part.to(log.items.device)
    positives, drawn = log.positives(), part[log.is_positive()]
    if any(not (drawn == which).any() for which in range(3)):
        raise InputError(f"random-ratio split: {positives.num_events} positives are too few to cut in three")
    return Split(
        log.select(part == 0),
        targets_of(log, part == 0, positives.select(drawn == 1)),
        targets_of(log, part < 2, positives.select(drawn == 2)),
        log.select(part < 2),
        "Time leaks fully: later events of the same user train the model that is asked for earlier ones, and the order "
        "of a history has holes. Users whose events all fall into one part are cold.",
    )


def _moment(ordered: Tensor, share: float) -> int:
    """The time from which on about ``share`` of the sorted times lie."""
    if not len(ordered):
        raise InputError("global-time split: the log has no positives")
    return int(ordered[min(len(ordered) - 1, int(len(ordered) * (1 - share)))])


def _check_shares(name: str, shares: Sequence[float]) -> None:
    if any(not 0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise InputError(f"{name} split: shares must lie between 0 and 1 and leave some for training, got {shares}")
