"""FAISS, imported when an index first needs it: training with exact search loads none of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any


def engine() -> Any:
    """Return the module ``faiss``; its own type hints do not cover what an index calls."""
    return import_module("faiss")


@contextlib.contextmanager
def one_thread() -> Iterator[Any]:
    """Yield ``faiss`` set to one thread in the calling thread, so that the same calls give the same answers."""
    faiss = engine()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)
