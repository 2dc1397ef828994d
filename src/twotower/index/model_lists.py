"""Lists of a model's own codes: what such a model gives, and which of its codes have a list."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError

EVERY = 16_384
"""Codes that all have a list; of more, such as combinations of several codebooks, those that users have."""
USERS = 10_000
"""Users whose codes are looked at."""


@runtime_checkable
class HasLists(Protocol):
    """Turn a user into few codes: its user states have ``codes`` (-1: none) and ``weights``, [users, n] each."""

    @property
    def num_lists(self) -> int:
        """Return how many codes there are, each with a list."""
        ...

    def list_scores(self, codes: Tensor, items: Tensor) -> Tensor:
        """Return the scores of codes (int64 [codes]) with items: [codes, items]."""
        ...


@runtime_checkable
class NamesLists(Protocol):
    """Give its lists a key that those of no other training have."""

    def lists_key(self) -> str:
        """Return a text that changes with all that the scores of codes are computed with, items aside."""
        ...


class ListedCodes:
    """Number the lists of codes: every code has one, or those that some users have where there are many codes.

    Args:
        total: codes of the model.

    Attributes:
        codes: those with a list, ascending (int64); None: all, or no users were read.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.codes: Tensor | None = None

    def __len__(self) -> int:
        """Return how many lists there are."""
        return self.total if self.codes is None else len(self.codes)

    @property
    def users_wanted(self) -> int:
        """Return how many users it reads, at most: none where every code has a list."""
        return 0 if self.total <= EVERY else USERS

    def read_users(self, codes: Int[Tensor, "users codes"]) -> None:
        """Give the codes of users a list, if there are too many for all; -1 is none."""
        if self.users_wanted:
            codes = codes.detach().cpu().unique()
            self.codes = codes[codes >= 0]

    def check_read(self) -> None:
        """Refuse to make lists before users were read, where those say which.

        Raises:
            InputError: if no code has a list.
        """
        if self.users_wanted and (self.codes is None or not len(self.codes)):
            raise InputError(
                f"index 'postings': of {self.total} codes only those that users have get a list, and it has read no "
                "users with codes"
            )

    def numbers(self, codes: Tensor) -> Tensor:
        """Return the number of each code's list, -1 where it has none.

        Raises:
            InputError: if only some codes have a list, and the model has no such code.
        """
        if self.codes is None:
            return codes
        wrong = codes[(codes >= self.total) | (codes < -1)]
        if len(wrong):
            raise InputError(f"postings: code {int(wrong[0])}, but the model has {self.total}: another model's?")
        at = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[at] == codes, at, -1)

    def of(self, lists: Tensor) -> Tensor:
        """Return the codes of these lists, by their numbers."""
        return lists if self.codes is None else self.codes[lists]
