"""Lists of a model's own codes: what such a model gives, and which of its codes have a list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Schema

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


@runtime_checkable
class HasWeights(Protocol):
    """Hold the weights that turn users into states and score them: any PyTorch module with a schema does."""

    schema: Schema

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""
        ...


TELLING = 16
"""Numbers beside items from which on they tell one training from another."""


def weights_key(name: str, weights: Iterable[tuple[str, Tensor]]) -> str:
    """Return a text that changes with the name, and with any number of the weights, which are sorted by theirs."""
    key = hashlib.sha256(name.encode())
    for of, part in sorted(weights, key=lambda pair: pair[0]):
        key.update(of.encode() + part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return key.hexdigest()


def named_rows(model: HasWeights) -> dict[str, int]:
    """Return how many rows each weight has that `model_key` reads, which differ between two trainings.

    Tables with a row an item are left out, since items may be added to a bundle later, except where a model has next
    to nothing else.
    """
    weights = _weights(model)
    rows = {name: len(part) if part.ndim else 0 for name, part in weights.items()}
    beside = {name: number for name, number in rows.items() if number != model.schema.num_items}
    return beside if sum(weights[name].numel() for name in beside) >= TELLING else rows


def model_key(model: HasWeights, rows: Mapping[str, int]) -> str:
    """Return a text that no other training of the model has: of its weights of these names, each up to these rows.

    Rows of padding and of the unknown id are left out, since that of unknown items changes when items are added. What
    the model lacks of the names is left out, too: the key is another one then.
    """
    parts = ((name, part, rows[name]) for name, part in _weights(model).items() if name in rows)
    return weights_key(type(model).__name__, ((name, _known(part, number)) for name, part, number in parts))


def check_key(folder: Path, saved: str | None, own: str | None) -> None:
    """Refuse lists that were saved with another key than the model's own; None: there is none to compare.

    Raises:
        InputError: names the folder.
    """
    if saved is not None and own is not None and saved != own:
        raise InputError(f"{folder}: lists of another model, or of before its last training; build them again")


def _weights(model: HasWeights) -> dict[str, Tensor]:
    return {name: part for name, part in model.state_dict().items() if isinstance(part, Tensor)}


def _known(part: Tensor, rows: int) -> Tensor:
    """Rows of known ids, as many as there were, of a table; any other weight as it is."""
    return part[FIRST_KNOWN:rows] if part.ndim > 1 and rows > FIRST_KNOWN else part


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
