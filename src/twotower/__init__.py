"""Retrieval and pre-ranking with two-tower models, from a raw log to a served, inspected, reproducible recommender."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ON_DEMAND = {
    "diagnose": "twotower.diagnosis",
    "load": "twotower.serving.retriever",
}
"""Functions of the package itself, by the module that is imported when they are first asked for."""


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module 'twotower' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_DEMAND})
