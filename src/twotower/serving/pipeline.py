"""Pipeline of two stages in one call: a retriever finds candidates, a pre-ranker orders them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from operator import index
from pathlib import Path
from typing import Any

import torch

from twotower.core.errors import InputError, shown
from twotower.core.records import TopK
from twotower.data.log import NO_ITEM
from twotower.models.mixture import mix
from twotower.serving.asking import asker_of
from twotower.serving.bundle import Bundle
from twotower.serving.pairs import Judgement, judgement_of
from twotower.serving.retriever import Answer, Retriever

log = logging.getLogger(__name__)

CANDIDATES = 2_000
"""Handed from the first stage to the second, where nothing else is said and no judgement known."""


class Pipeline:
    """Combine any retriever and any pre-ranker over one catalogue.

    Args:
        retriever: finds candidates through its index.
        ranker: scores each of them by its whole model.
        candidates: handed from the first to the second; None: as many as the pair was judged on, else 2,000.
        weight: of the pre-ranker's score beside the first stage's, in [0, 1] (`twotower.models.mixture.mix`); None: as
            the pair was judged (`twotower.experiment.pair.judge_pair`), and where it never was, the pre-ranker's order
            and a warning.

    Raises:
        InputError: if ``candidates`` is no whole number or below 1, ``weight`` is outside [0, 1], or the two bundles
            number other items.
    """

    def __init__(
        self,
        retriever: Retriever,
        ranker: Retriever,
        *,
        candidates: int | None = None,
        weight: float | None = None,
    ) -> None:
        try:
            wanted = 1 if candidates is None else index(candidates)
        except TypeError:
            wanted = 0
        if wanted < 1:
            raise InputError(f"candidates must be a whole number of at least 1, got {shown(candidates)}")
        if weight is not None and not 0.0 <= weight <= 1.0:
            raise InputError(f"weight must be from 0 to 1, got {shown(weight)}")
        check_same_catalogue(retriever.bundle, ranker.bundle)
        self.retriever, self.ranker = retriever, ranker
        judged = judgement_of(retriever.bundle, ranker.bundle)
        if weight is None:
            self._warn(judged)
            weight = 1.0 if judged is None else judged.weight
        self.weight = float(weight)
        self.candidates = wanted if candidates is not None else CANDIDATES if judged is None else judged.candidates

    def _warn(self, judged: Judgement | None) -> None:
        first, second = self.retriever.bundle.folder, self.ranker.bundle.folder
        if judged is None:
            told = f"was never judged, and may order worse than the first: twotower evaluate {first} --then {second}"
        else:
            told = judged.warning()
        if told:
            log.warning("%s behind %s: %s", second, first, told)

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
        include_seen: bool | None = None,
        filter: str | None = None,
        only: Iterable[object] | None = None,
    ) -> list[Answer]:
        """Recommend the best ``k`` of the retriever's candidates by the pre-ranker, best first.

        Scores are the pre-ranker's, or those of the mixture where its weight is neither 0 nor 1 (at 0 the first
        stage's).

        Who asks and what is left out are said as to `Retriever.recommend`.

        Raises:
            InputError: as `Retriever.recommend` and `Retriever.rank`; if ``k`` is above the number of candidates.
        """
        if k > self.candidates:
            raise InputError(f"k = {k} of {self.candidates} candidates: ask for fewer, or for more candidates")
        asker = asker_of(self.ranker.bundle, user, history, features)
        most = min(self.candidates, len(self.retriever.bundle.item_ids))
        asked = asker_of(self.retriever.bundle, user, history, features)
        allowed = self.retriever.finder.filters.allowed(filter, only)
        if allowed is not None:
            most = min(most, max(allowed.number, 1))
        first = self.retriever.finder.found_for(asked, most, exclude, include_seen=include_seen, allowed=allowed)
        there = first.ids[0] != NO_ITEM
        device = self.ranker.bundle.device
        found = TopK(first.scores[:, there].to(device), first.ids[:, there].to(device))
        items = found.ids[0]
        if not len(items):
            return []
        wanted, ranker = min(k, len(items)), self.ranker.finder
        if self.weight == 1.0:
            return ranker.answers(ranker.ordered(asker, items, wanted))[0]
        second = ranker.ordered(asker, items, len(items))
        return ranker.answers(mix(found, second, self.weight, wanted))[0]

    def preload(self) -> None:
        """Load at once what the first requests would wait for."""
        self.retriever.preload()
        self.ranker.preload()


def load_pipeline(
    retriever: Path | str, ranker: Path | str, device: torch.device | str = "cpu", *, candidates: int | None = None
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
                f"{first.folder} and {second.folder} number items differently: '{one}' in the one is "
                f"'{other}' in the other; {advice}"
            )
