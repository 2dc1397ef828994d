"""Shelf: what the explorer serves from, the bundle of the service and perhaps one beside it."""

from __future__ import annotations

import threading
import weakref
from typing import Any, Literal, NamedTuple

from twotower.core.errors import InputError
from twotower.serving.http.explorer.choices import choices
from twotower.serving.http.explorer.space import Space
from twotower.serving.http.explorer.titles import Titles
from twotower.serving.http.swap import Served, Slot, verdict_of
from twotower.serving.retriever import Retriever

Which = Literal["first", "second"]
"""The bundle of the service, or the one beside it."""

METRICS = ("ndcg@10", "recall@10", "coverage@10")
"""What is shown of a bundle's measurements, where it has them."""


class Drawn(NamedTuple):
    """Hold what is computed of a bundle once: titles, the columns to filter by, and its map or why there is none."""

    titles: Titles
    columns: list[dict[str, Any]]
    space: Space | None
    no_space: str


class Shelf:
    """Hold the bundles that a page may ask, and what is computed of each once.

    Args:
        slot: of the service: its bundle is the first, whichever that is at the time of a request.
        beside: the second; it stays the same until the service ends.
    """

    def __init__(self, slot: Slot, beside: Served | None) -> None:
        self._slot, self._beside = slot, beside
        self._lock = threading.Lock()
        self._drawn: weakref.WeakKeyDictionary[Served, Drawn] = weakref.WeakKeyDictionary()
        for served in self.all().values():
            self.drawn(served)

    def all(self) -> dict[Which, Served]:
        """Return the bundles there are."""
        first: dict[Which, Served] = {"first": self._slot.served}
        return first if self._beside is None else {**first, "second": self._beside}

    def take(self, which: Which) -> Served:
        """Return one of the bundles.

        Raises:
            InputError: if there is no second one.
        """
        found = self.all().get(which)
        if found is None:
            raise InputError("bundle = 'second': this service has one bundle; start it with --beside for another")
        return found

    def drawn(self, served: Served) -> Drawn:
        """Return what is computed of a bundle once: at the start, or at the first question after a swap."""
        with self._lock:
            if served not in self._drawn:
                self._drawn[served] = _draw(served.retriever)
            return self._drawn[served]


def explains(served: Served) -> Retriever:
    """Return what the order of a list comes from: the pre-ranker where there is one with a say."""
    pipeline = served.pipeline
    return served.retriever if pipeline is None or pipeline.weight == 0.0 else pipeline.ranker


def about(served: Served, drawn: Drawn) -> dict[str, Any]:
    """Return what a person may want to know of a bundle: what it is, how it did, what its diagnosis says."""
    bundle = served.retriever.bundle
    manifest, report = bundle.manifest, bundle.diagnosis or {}
    then = None if served.pipeline is None else served.pipeline.ranker.bundle.manifest["model"]["name"]
    bounds = manifest.get("intervals") or {}
    return {
        "folder": served.folder.absolute().name,
        "model": served.model,
        "then": then,
        "data": str(manifest["data"]),
        "bundle": served.digest,
        "created": str(manifest["created"]),
        "items": len(bundle.item_ids),
        "index": str(manifest["index"] or "exact"),
        "map": drawn.space is not None,
        "columns": drawn.columns,
        "verdict": verdict_of(served),
        "reasons": [str(reason["sentence"]) for reason in report.get("reasons", [])],
        "metrics": [
            {"name": name, "value": bundle.metrics[name], "interval": list(bounds[name]) if name in bounds else None}
            for name in METRICS
            if isinstance(bundle.metrics.get(name), float)
        ],
    }


def _draw(retriever: Retriever) -> Drawn:
    bundle = retriever.bundle
    titles, columns = Titles(bundle), choices(retriever.finder.filters.columns)
    try:
        return Drawn(titles, columns, Space(bundle), "")
    except InputError:
        return Drawn(titles, columns, None, "No map: this model has no item vectors.")
