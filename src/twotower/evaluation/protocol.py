"""Evaluation protocol: what is ranked against what, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twotower.core.errors import InputError, shown

LONGEST = 1_000_000
"""Items of a list that are evaluated, at most."""


def check_lengths(what: str, lengths: Sequence[int]) -> None:
    """Compare lengths of lists with what can be evaluated.

    Raises:
        InputError: if there are none, or one is below 1 or above a million.
    """
    if not lengths or min(lengths) < 1:
        raise InputError(f"{what} must be list lengths of at least 1, got {list(lengths)}")
    if max(lengths) > LONGEST:
        raise InputError(f"{what}: lists of {shown(max(lengths))} items are not evaluated; take at most {LONGEST:,}")


@dataclass(frozen=True)
class Protocol:
    """Configure how a model's answers are evaluated.

    Every user of the targets is asked for the best items among the candidates; the relevant ones are the distinct items
    of the user's positive truth events. Equal scores: the lower item row first. A truth that is no candidate (an
    unknown item, or one outside ``candidates``) cannot be found and counts as a miss; so does, with ``mask_seen``, one
    that the user has seen before. Both are counted in the result.
    """

    ks: tuple[int, ...] = (10, 20, 50)
    """Lengths at which lists are cut. One beyond the number of candidates is allowed: such lists are just short."""
    split: str = "test"
    """What the targets are called in reports."""
    mask_seen: bool = True
    """True: what the user has seen (`twotower.data.log.Log.seen`: items of the history, of whatever label) is left out
    of the answers."""
    candidates: tuple[int, ...] | None = None
    """Item rows to rank; None: every known item of the catalogue (rows 2 and up)."""

    def __post_init__(self) -> None:
        check_lengths("evaluation.ks", self.ks)
        if self.candidates is not None and not self.candidates:
            raise InputError("evaluation.candidates is empty: name at least one item, or leave it out for all")
