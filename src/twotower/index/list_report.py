"""Figures of lists of codes: how many, how long, and how much memory they take."""

from __future__ import annotations

from typing import NamedTuple

from twotower.index.postings import Postings


class ListReport(NamedTuple):
    """Hold figures of lists.

    How many codes, items of a list (mean and most), share of pairs that are not listed, bytes of the lists for each
    item."""

    codes: int
    mean_length: float
    longest: int
    sparsity: float
    bytes_per_item: float


def report_lists(lists: Postings) -> ListReport:
    """Count codes, items of a list and bytes."""
    lengths = lists.lengths
    return ListReport(
        lists.num_codes,
        float(lengths.mean()),
        int(lengths.max()),
        lists.sparsity,
        lists.num_bytes / max(1, len(lists.ids)),
    )
