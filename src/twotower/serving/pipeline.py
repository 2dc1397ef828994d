"""Pipeline of two stages in one call: a retriever finds candidates, a pre-ranker orders them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index
from pathlib import Path
from typing import Any

import torch

from twotower.core.errors import InputError, shown
from twotower.data.log import NO_ITEM
from twotower.serving.bundle import Bundle
from twotower.serving.retriever import Answer, Retriever

CANDIDATES = 2_000
"""Handed from the first stage to the second, where nothing else is said."""


class Pipeline:
    """Combine any retriever and any pre-ranker over one catalogue.

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
            raise InputError(f"candidates must be a whole number of at least 1, got {shown(candidates)}")
        check_same_catalogue(retriever.bundle, ranker.bundle)
        self.retriever, self.ranker, self.candidates = retriever, ranker, wanted

    def __repr__(self) -> str:
        return f"Pipeline({self.retriever!r}, then {self.ranker!r} among {self.candidates:,})"

    def recommend(
        self,
        user: object = None,
        *,
        history: Iterable[object] | None = None,
        features: Mapping[str, Any] | None = None,
        k: int = 10,
        exclude: Iterable[object] = (),
        include_seen: bool = False,
    ) -> list[Answer]:
        """Recommend the pre-ranker's best ``k`` of the retriever's candidates, best first, with its scores.

        Who asks and what is left out are said as to `Retriever.recommend`.

        Raises:
            InputError: as `Retriever.recommend` and `Retriever.rank`; if ``k`` is above the number of candidates.
        """
        if k > self.candidates:
            raise InputError(f"k = {k} of {self.candidates} candidates: ask for fewer, or for more candidates")
        asker = self.ranker.asker(user, history, features)
        most = min(self.candidates, len(self.retriever.bundle.item_ids))
        asked = self.retriever.asker(user, history, features)
        first = self.retriever.found(asked, most, exclude, include_seen=include_seen)
        items = first.ids[0][first.ids[0] != NO_ITEM].to(self.ranker.bundle.device)
        return self.ranker.answers(self.ranker.ordered(asker, items, min(k, len(items)))) if len(items) else []

    def preload(self) -> None:
        """Load at once what the first requests would wait for."""
        self.retriever.preload()
        self.ranker.preload()


def load_pipeline(
    retriever: Path | str, ranker: Path | str, device: torch.device | str = "cpu", *, candidates: int = CANDIDATES
) -> Pipeline:
    """Load the pipeline of two bundles.

    Raises:
        InputError: if a folder is no bundle, the two number other items, or ``candidates`` is not a whole number of at
            least 1.
    """
    first, second = (Retriever(Bundle.load(folder, device)) for folder in (retriever, ranker))
    return Pipeline(first, second, candidates=candidates)


def check_same_catalogue(first: Bundle, second: Bundle) -> None:
    """Refuse two bundles whose item rows represent other items.

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
