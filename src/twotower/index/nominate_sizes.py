"""Sizes of the lists of ``nominate``: what a setting of 0 means, by the number of users and of items."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from twotower.core.records import State
from twotower.core.states import rows
from twotower.index.short_lists import default_longest

log = logging.getLogger(__name__)

FEW_ITEMS = 10_000
CODES = 1024, 2048
"""Lists by default: up to `FEW_ITEMS` items, and beyond."""
USERS_A_CODE = 10
MEMBERS = 8
"""Users whose mean score a list is made by, where the mean of user states is no user state."""


class Sizes(NamedTuple):
    """Hold how many lists there are, their items at most, and the users whose mean score a list is made by."""

    codes: int
    longest: int
    members: int


def sizes_of(settings: Mapping[str, int], users: State, items: int) -> Sizes:
    """Return the sizes that settings mean; more codes than users are a warning, and a list for each user.

    Args:
        settings: ``codes``, ``longest`` and ``members`` of the index; 0: by the number of users and of items.
        users: states of the users that were read.
        items: how many there are.
    """
    number = rows(users)
    codes = settings["codes"] or max(1, min(CODES[items > FEW_ITEMS], number // 4))
    if codes > number:
        log.warning("index.codes = %d for %d users: %d lists are made", codes, number, number)
        codes = number
    vectors = isinstance(users, Tensor) and users.ndim == 2 and users.is_floating_point()
    members = settings["members"] or (0 if vectors else MEMBERS)
    return Sizes(codes, settings["longest"] or default_longest(items), members)


def users_to_read(codes: int) -> int:
    """Return how many users are read for so many codes, at most: ten a code; 0 codes: as many as there may be."""
    return USERS_A_CODE * (codes or CODES[-1])
