"""Splitters: ways to cut a log in three, each with its leaks.

Truths are positives only, training and histories keep labels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.registry import Registry
from twotower.core.seeds import torch_generator
from twotower.data.log import Log
from twotower.data.split import Split, Targets
from twotower.data.ties import POLICIES, Policy, with_ties

HeldOut = Literal["drawn", "last"]
"""Which users `by_user` holds out."""


def split_log(log: Log, kind: str, **options: Any) -> Split:
    """Cut ``log`` by the split of that name; ``options`` are the arguments of its function.

    Raises:
        InputError: if the kind or an option is unknown, or nobody has enough events.

    Examples:
        >>> log = Log(torch.tensor([0, 0, 0, 3, 4]), torch.tensor([2, 3, 4, 2]))
        >>> cut = split_log(log, "leave-one-out")
        >>> cut.train.items.tolist(), cut.validation.truth.items.tolist(), cut.test.truth.items.tolist()
        ([2, 2], [3], [4])
    """
    check_split(kind, **options)
    return SPLITTERS.get(_dashed(kind))(log, **options)


def check_split(kind: str = "", **options: Any) -> None:
    """Refuse a split of unknown kind, with an unknown option or a value of the wrong kind.

    Raises:
        InputError: names the closest known one, or what is wanted.
    """
    if _dashed(kind) not in SPLITTERS:
        raise unknown_name("kind", kind, SPLITTERS, "split")
    parameters = inspect.signature(SPLITTERS.get(_dashed(kind))).parameters
    known = [name for name in parameters if name != "log"]
    for name, value in options.items():
        if name not in known:
            raise unknown_name("option", name, known, f"split '{_dashed(kind)}'")
        wanted, fits = _KINDS.get(str(parameters[name].annotation), ("", lambda value: True))
        if not fits(value):
            raise InputError(f"split '{_dashed(kind)}': {name} must be {wanted}, got {shown(value)}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "int": ("a whole number", _is_whole),
    "int | None": ("a whole number", lambda value: value is None or _is_whole(value)),
    "float": ("a finite number", _is_number),
    "Policy": (" or ".join(f'"{policy}"' for policy in POLICIES), lambda value: value in POLICIES),
    "HeldOut": ('"drawn" or "last"', lambda value: value in ("drawn", "last")),
    "Sequence[int | float]": (
        "three positive numbers, as [8, 1, 1]",
        lambda value: isinstance(value, list | tuple) and all(map(_is_number, value)),
    ),
}
"""By the annotation of a splitter's option: what is wanted, and whether a value is that."""


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


def last_n(log: Log, *, n: int = 5, ties: Policy = "file", seed: int | None = None) -> Split:
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
    place, total = _places(log)[_positive(log)], count[users]
    trained = torch.where(count > 2 * n, count - 2 * n, torch.where(count > n, count - n, count))
    every_place, every_total = _places(log), count[log.users()]
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
        log.select(_places(log) <= torch.where(count > n, count - n, count)[log.users()]),
        "Time leaks: the last events of one user may be older than what other users train on, so popularity and taste "
        f"of the future are known. {short} users with {n} or fewer positives are only trained on.",
    )


def global_time(
    log: Log,
    *,
    validation_share: float = 0.1,
    test_share: float = 0.1,
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
        _targets(log, log.times < validation_from, positives.select(~early & ~late)),
        _targets(log, log.times < test_from, positives.select(late)),
        log.select(log.times < test_from),
        "Nothing of the future reaches training. Users and items first seen after the cut are cold, and the history "
        "of the test holds the validation period, which training has not seen.",
    )


def by_user(
    log: Log,
    *,
    ratio: Sequence[int | float] = (8, 1, 1),
    fold_in: float = 0.8,
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


def cold_users(log: Log, *, ratio: Sequence[int | float] = (7, 2, 1), seed: int = 0) -> Split:
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


def _by_user(name: str, log: Log, ratio: Sequence[int | float], fold_in: float, seed: int, *, drawn: bool) -> Split:
    """Whole users held out; the first ``fold_in`` share of their positives is known, all but one at most."""
    shares = _check_ratio(name, ratio)
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
    folded = _places(log) <= torch.minimum(known, count - 1)[log.users()]
    if not fold_in:
        folded = torch.zeros_like(folded)  # what stands before the first positive, shown and not taken, is unknown too
    asked, held, group = ~folded[_positive(log)], part[users], part[log.users()]
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


def random_ratio(log: Log, *, ratio: Sequence[int | float] = (8, 1, 1), seed: int = 0) -> Split:
    """Draw each event into training, validation or test on its own.

    Args:
        log: the log.
        ratio: events to train, validation and test, in any unit.
        seed: of the draw.

    Raises:
        InputError: if the ratio is out of range, or a part has no positive.
    """
    shares = _check_ratio("random-ratio", ratio)
    draw = torch.rand(log.num_events, generator=torch_generator(seed, "split", "random-ratio"), dtype=torch.float64)
    part = (draw >= shares[0]).long() + (draw >= shares[0] + shares[1]).long()
    part = part.to(log.items.device)
    positives, drawn = log.positives(), part[_positive(log)]
    if any(not (drawn == which).any() for which in range(3)):
        raise InputError(f"random-ratio split: {positives.num_events} positives are too few to cut in three")
    return Split(
        log.select(part == 0),
        _targets(log, part == 0, positives.select(drawn == 1)),
        _targets(log, part < 2, positives.select(drawn == 2)),
        log.select(part < 2),
        "Time leaks fully: later events of the same user train the model that is asked for earlier ones, and the order "
        "of a history has holes. Users whose events all fall into one part are cold.",
    )


SPLITTERS: Registry[Callable[..., Split]] = Registry(
    "split",
    "twotower.SPLITTERS",
    {
        "leave-one-out": leave_one_out,
        "last-n": last_n,
        "global-time": global_time,
        "by-user": by_user,
        "cold-users": cold_users,
        "random-ratio": random_ratio,
    },
    group="twotower.splitters",
)
"""Functions of a log and of options by keyword. Add one of ours by its function and one line here."""


def _dashed(kind: str) -> str:
    """The name with dashes, as ours are written; one of your own as it was registered."""
    return str(kind) if str(kind) in SPLITTERS else str(kind).replace("_", "-")


def _positive(log: Log) -> Tensor:
    """True where an event is a positive: bool [events]."""
    return torch.ones_like(log.items, dtype=torch.bool) if log.labels is None else log.labels >= 0.5


def _places(log: Log) -> Tensor:
    """How many of the user's positives there are up to and with each event: int64 [events]."""
    before = torch.zeros(log.num_events + 1, dtype=torch.int64, device=log.items.device)
    torch.cumsum(_positive(log), 0, out=before[1:])
    return before[1:] - before[log.offsets[:-1]][log.users()]


def _targets(log: Log, known: Tensor, truth: Log) -> Targets:
    """Targets whose history holds the known events, of whatever label, of users who are asked about."""
    return Targets(log.select(known & (truth.lengths > 0)[log.users()]), truth)


def _moment(ordered: Tensor, share: float) -> int:
    """The time from which on about ``share`` of the sorted times lie."""
    if not len(ordered):
        raise InputError("global-time split: the log has no positives")
    return int(ordered[min(len(ordered) - 1, int(len(ordered) * (1 - share)))])


def _check_shares(name: str, shares: Sequence[float]) -> None:
    if any(not 0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise InputError(f"{name} split: shares must lie between 0 and 1 and leave some for training, got {shares}")


def _check_ratio(name: str, ratio: Sequence[int | float]) -> tuple[float, float, float]:
    parts = list(ratio) if isinstance(ratio, Sequence) and not isinstance(ratio, str) else []
    if len(parts) != 3 or not all(isinstance(part, int | float) and part > 0 for part in parts):
        raise InputError(f"{name} split: ratio must be three positive numbers, as [8, 1, 1], got {shown(ratio)}")
    return parts[0] / sum(parts), parts[1] / sum(parts), parts[2] / sum(parts)
