"""Two stages in one call: a retriever finds candidates among all items, a pre-ranker puts them in order."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from pathlib import Path

import torch

from twotower.core.errors import InputError
from twotower.data.log import NO_ITEM
from twotower.serving.bundle import Bundle
from twotower.serving.retriever import Answer, Retriever

CANDIDATES = 2_000
"""Handed from the first stage to the second, where nothing else is said."""


class Pipeline:
    """Any retriever, then any pre-ranker, over one catalogue.

    Args:
        retriever: finds candidates through its index.
        ranker: scores each of them by its whole model.
        candidates: handed from the first to the second.

    Raises:
        InputError: if ``candidates`` is no whole number or below 1, or the two bundles number other items.
    """

    def __init__(self, retriever: Retriever, ranker: Retriever, *, candidates: int = CANDIDATES) -> None:
        try:
            wanted = index(candidates)
        except TypeError:
            wanted = 0
        if wanted < 1:
            raise InputError(f"candidates must be a whole number of at least 1, got {candidates!r}")
        check_same_catalogue(retriever.bundle, ranker.bundle)
        self.retriever, self.ranker, self.candidates = retriever, ranker, wanted

    def recommend(
        self,
        user: object = None,
        *,
        history: Iterable[object] | None = None,
        k: int = 10,
        exclude: Iterable[object] = (),
        include_seen: bool | None = None,
    ) -> list[Answer]:
        """The pre-ranker's best ``k`` of the retriever's candidates, best first; scores are the pre-ranker's.

        Who asks and what is left out are said as to `Retriever.recommend`.

        Raises:
            InputError: as `Retriever.recommend` and `Retriever.rank`; if ``k`` is above the number of candidates.
        """
        if k > self.candidates:
            raise InputError(f"k = {k} of {self.candidates} candidates: ask for fewer, or for more candidates")
        asker = self.ranker.asker(user, history)
        most = min(self.candidates, len(self.retriever.bundle.item_ids))
        first = self.retriever.found(self.retriever.asker(user, history), most, exclude, include_seen=include_seen)
        items = first.ids[0][first.ids[0] != NO_ITEM].to(self.ranker.bundle.device)
        return self.ranker.answers(self.ranker.ordered(asker, items, min(k, len(items)))) if len(items) else []

    def preload(self) -> None:
        """Do at once what the first questions would wait for."""
        self.retriever.preload()
        self.ranker.preload()


def load_pipeline(
    retriever: Path | str, ranker: Path | str, device: torch.device | str = "cpu", *, candidates: int = CANDIDATES
) -> Pipeline:
    """The pipeline of two bundles.

    Raises:
        InputError: if a folder is no bundle, the two number other items, or ``candidates`` is not a whole number of at
            least 1.
    """
    first, second = (Retriever(Bundle.load(folder, device)) for folder in (retriever, ranker))
    return Pipeline(first, second, candidates=candidates)


def check_same_catalogue(first: Bundle, second: Bundle) -> None:
    """Refuse two bundles whose item rows stand for other items.

    Raises:
        InputError: says what differs.
    """
    name = "vocabulary/items.parquet"
    if first.manifest["hashes"].get(name) == second.manifest["hashes"].get(name):
        return
    advice = "train both on the same prepared data"
    if not torch.equal(first.item_ids.cpu(), second.item_ids.cpu()):
        counts = f"{len(first.item_ids)} and {len(second.item_ids)} items"
        raise InputError(f"{first.folder} and {second.folder} are of other catalogues ({counts}); {advice}")
    rows = first.item_ids.tolist()
    for one, other in zip(first.item_vocabulary.ids(rows), second.item_vocabulary.ids(rows), strict=True):
        if one != other:
            raise InputError(
                f"{first.folder} and {second.folder} number items otherwise: '{one}' is '{other}' there; {advice}"
            )
