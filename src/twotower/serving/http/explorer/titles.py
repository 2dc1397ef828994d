"""Titles: how items are named to a person, and which ones a few letters find."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import torch

from twotower.serving.bundle import Bundle
from twotower.serving.columns import NAMES_FIRST, cell, telling
from twotower.serving.vocabulary import Record

TITLE_WIDTH = 120
MORE_WIDTH = 60
ROWS_FOR_COLUMNS = 200
"""Items that are looked at to tell which columns name them."""


class Titles:
    """Hold the titles of a bundle's catalogue, those of many events first.

    Args:
        bundle: its vocabulary of items is read whole.
    """

    def __init__(self, bundle: Bundle) -> None:
        rows = bundle.item_ids.cpu()
        counts = torch.bincount(bundle.dataset.log.items.cpu(), minlength=bundle.schema.num_items)[rows]
        order = counts.argsort(descending=True, stable=True)
        records = bundle.item_vocabulary.records(rows[order].tolist())
        columns = telling((record.columns for record in records[:ROWS_FOR_COLUMNS]), 3)
        self._title = next((name for name in columns if name.lower() in NAMES_FIRST), None)
        self._more = [name for name in columns if name != self._title][:2]
        self._records = records
        self._keys = [folded(f"{self._named(record.columns) or ''} {record.id}") for record in records]
        self._place = {record.id: place for place, record in enumerate(records)}

    def search(self, text: str, k: int) -> list[Record]:
        """Return at most ``k`` items: the one of that id, then those whose title begins so, then those with all words.

        Within each, those of more events come first; without any text, those of the most events.
        """
        whole = folded(text)
        words = whole.split()
        exact = [self._place[text]] if text in self._place else []
        begin: list[int] = []
        hold: list[int] = []
        first = words[0] if words else ""
        # one plain test an item: most of a large catalogue goes no further
        for place in (place for place, key in enumerate(self._keys) if first in key):
            if len(begin) >= k:
                break
            if self._keys[place].startswith(whole):
                begin.append(place)
            elif len(hold) < k and all(word in self._keys[place] for word in words):
                hold.append(place)
        return [self._records[place] for place in dict.fromkeys(exact + begin + hold)][:k]

    def shown(self, id: str, columns: Mapping[str, Any]) -> dict[str, str]:
        """Return what a person is shown of an item: its id, its title and a few words more."""
        more = " · ".join(text for name in self._more if (text := cell(columns.get(name), MORE_WIDTH)))
        return {"id": id, "title": self._named(columns) or id, "more": more}

    def _named(self, columns: Mapping[str, Any]) -> str:
        return "" if self._title is None else cell(columns.get(self._title), TITLE_WIDTH)


def folded(text: str) -> str:
    """Return a text for comparison: lower case, without accents, spaces single.

    Examples:
        >>> folded("  Amélie  (2001)")
        'amelie (2001)'
    """
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return " ".join(plain.casefold().split())
