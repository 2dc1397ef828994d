"""Served bundle, and its replacement by another one while requests are answered."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twotower.core.errors import InputError
from twotower.serving.bundle import Bundle
from twotower.serving.http.limits import RefusedError
from twotower.serving.index_recall import index_recall
from twotower.serving.known import KnownUsers
from twotower.serving.pipeline import CANDIDATES, Pipeline
from twotower.serving.retriever import Retriever

log = logging.getLogger(__name__)

RECALL_FLOOR = 0.9


@dataclass(frozen=True, eq=False)
class Served:
    """Hold a loaded bundle, and the pre-ranker's where there is one; a request keeps it until it is answered."""

    folder: Path
    then: Path | None
    retriever: Retriever
    pipeline: Pipeline | None
    known: KnownUsers | None
    """Answers known users where there is one stage."""

    @property
    def asked(self) -> Retriever | Pipeline:
        """Return the retriever that recommends."""
        return self.retriever if self.pipeline is None else self.pipeline

    @property
    def ranker(self) -> Retriever:
        """Return the retriever that ranks candidates."""
        return self.retriever if self.pipeline is None else self.pipeline.ranker

    @property
    def model(self) -> str:
        """Return the name of the retriever's model."""
        return str(self.retriever.bundle.manifest["model"]["name"])

    @property
    def digest(self) -> str:
        """Return the first letters of the hash of the retriever's manifest, which identify a bundle."""
        return str(self.retriever.bundle.manifest.get("digest", ""))[:12]


@dataclass(frozen=True)
class Loader:
    """Load what is to be served, wholly: nothing of it is read from disk afterwards.

    Args:
        device: where models compute.
        candidates: handed from the retriever to the pre-ranker.
        allow_collapsed: whether a bundle whose own diagnosis is "collapsed" may be swapped in.
        recall_floor: least share of exact search's answers that the index of a bundle to be swapped in must find, for a
            sample of its users; 0: it is not asked.
    """

    device: str = "cpu"
    candidates: int = CANDIDATES
    allow_collapsed: bool = False
    recall_floor: float = RECALL_FLOOR

    def load(self, folder: Path, then: Path | None) -> Served:
        """Read and check a bundle, and the pre-ranker's, and answer a first question by each.

        Raises:
            InputError: if a bundle fails its hashes, or its catalogue or anything else in it cannot be read.
        """
        retriever = self._retriever(folder)
        if then is None:
            with _readable(folder):
                return Served(folder, None, retriever, None, KnownUsers(retriever))
        pipeline = Pipeline(retriever, self._retriever(then), candidates=self.candidates)
        return Served(folder, then, retriever, pipeline, None)

    def _retriever(self, folder: Path) -> Retriever:
        retriever = Retriever(Bundle.load(folder, self.device))
        with _readable(folder):
            retriever.preload()
            first = retriever.bundle.item_vocabulary.ids(retriever.bundle.item_ids[:1].tolist())
            retriever.rank(history=first, candidates=first)  # reads the stored states, which an index may not need
        return retriever

    def below_floor(self, served: Served) -> str:
        """Return in words that the retriever's index finds too little of what exact search does; empty: it does not."""
        found = index_recall(served.retriever.bundle) if self.recall_floor else None
        if found is None or found.recall >= self.recall_floor:
            return ""
        return (
            f"{served.folder}: its index finds {found.recall:.1%} of exact search's top {found.k} ({found.users:,} of "
            f"its users), below the floor of {self.recall_floor:.1%}; build it again with 'twotower index', or lower "
            "--recall-floor"
        )


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Say of whatever a damaged file makes a library raise that the bundle cannot be served."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: cannot be served ({type(error).__name__}: {why})") from error


class Slot:
    """Hold what is served. A request takes `served` once and keeps to it."""

    def __init__(self, served: Served, loader: Loader) -> None:
        self.served = served
        self._loader = loader
        self._root = served.folder.absolute().parent
        self._lock = threading.Lock()
        if verdict_of(served) == "collapsed":
            log.warning("%s: its own diagnosis says that its vectors have collapsed", served.folder)
        if problem := loader.below_floor(served):
            log.warning("%s", problem)

    def swap(self, bundle: str | None = None, then: str | None = None) -> Served:
        """Load another bundle, or the same folder again, and serve it from the next request on.

        Raises:
            RefusedError: 409 if it cannot be served or must not be; what was served stays.
        """
        if not self._lock.acquire(blocking=False):
            raise RefusedError(409, "another swap is under way; try again when it is done")
        try:
            folder = self.served.folder if bundle is None else self._beside(bundle)
            second = self.served.then if then is None else self._beside(then)
            new = self._loader.load(folder, second)
            if not self._loader.allow_collapsed and verdict_of(new) == "collapsed":
                raise InputError(f"{folder}: its diagnosis says that its vectors have collapsed")
            if problem := self._loader.below_floor(new):
                raise InputError(problem)
        except RefusedError:
            raise
        except (InputError, OSError) as error:
            raise RefusedError(409, f"not swapped, what was served stays: {error}") from error
        else:
            self.served = new
            return new
        finally:
            self._lock.release()

    def _beside(self, name: str) -> Path:
        """A folder beside the first bundle: no request may name another place.

        Raises:
            RefusedError: 400 if it lies elsewhere.
        """
        folder = Path(os.path.normpath(self._root / name)) if "\0" not in name else self._root
        if folder == self._root or not folder.is_relative_to(self._root):
            raise RefusedError(400, "a bundle to swap in lies in the folder of the first; give its name there")
        return folder


def verdict_of(served: Served) -> str | None:
    """Return what the bundle's own diagnosis says: "healthy", "suspect", "collapsed"; None: nothing."""
    report = served.retriever.bundle.diagnosis
    return str(report["verdict"]) if isinstance(report, dict) and "verdict" in report else None
