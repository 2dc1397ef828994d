"""Splitters: ways to cut a log in three, each with its leaks.

Truths are positives only, training and histories keep labels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.registry import Registry
from twotower.data.log import Log
from twotower.data.split import Split
from twotower.data.split_by_event import global_time, last_n, leave_one_out, random_ratio
from twotower.data.split_by_user import by_user, cold_users
from twotower.data.ties import POLICIES

__all__ = [
    "SPLITTERS",
    "by_user",
    "check_split",
    "cold_users",
    "global_time",
    "last_n",
    "leave_one_out",
    "random_ratio",
    "split_log",
]


def split_log(log: Log, kind: str, **options: Any) -> Split:
    """Cut ``log`` by the split of that name; ``options`` are the arguments of its function.

    Raises:
        InputError: if the kind or an option is unknown, or nobody has enough events.

    Examples:
        >>> import torch
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


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "int | None": ("a whole number", lambda value: value is None or _is_whole(value)),
    "float": ("a finite number", _is_number),
    "Policy": (" or ".join(f'"{policy}"' for policy in POLICIES), lambda value: value in POLICIES),
    "HeldOut": ('"drawn" or "last"', lambda value: value in ("drawn", "last")),
    "Count": ("a whole number of at least 1", lambda value: _is_whole(value) and _is_positive(value)),
    "Share": ("a number between 0 and 1", lambda value: _is_positive(value) and value < 1),
    "Ratio": (
        "three positive numbers, as [8, 1, 1]",
        lambda value: isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_positive, value)),
    ),
}
"""By the annotation of a splitter's option: what is wanted, and whether a value is that."""


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
