"""Registry of indexes. Add one of ours by its file and one line here; one of your own by `INDEXES.register`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.registry import Registry
from twotower.index.base import AnyIndex, ModelIndex, ScoringModel
from twotower.index.brute_force import BruteForceIndex
from twotower.index.exact import ExactIndex

INDEXES: Registry[type[Any]] = Registry(
    "index",
    "twotower.INDEXES",
    {
        "exact": "twotower.index.exact:ExactIndex",
        "brute_force": "twotower.index.brute_force:BruteForceIndex",
        "hnsw": "twotower.index.hnsw:HNSWIndex",
        "ivf_flat": "twotower.index.ivf:IVFFlatIndex",
        "ivf_pq": "twotower.index.ivf:IVFPQIndex",
        "milvus": "twotower.index.milvus:MilvusIndex",
        "nominate": "twotower.index.nominate_index:NominateIndex",
        "postings": "twotower.index.postings_index:PostingsIndex",
        "postings_qdrant": "twotower.index.postings_qdrant:PostingsQdrantIndex",
        "postings_qdrant_edge": "twotower.index.postings_qdrant:PostingsQdrantEdgeIndex",
        "qdrant": "twotower.index.qdrant_server:QdrantIndex",
        "qdrant_edge": "twotower.index.qdrant_edge:QdrantEdgeIndex",
        "sparse_codes": "twotower.index.sparse_codes:SparseCodesIndex",
        "tree": "twotower.index.tree_index:TreeIndex",
    },
    group="twotower.indexes",
)


def index_class(kind: str) -> type[Any]:
    """Return the class of an index's name.

    Raises:
        InputError: if no index has that name; names the closest.
    """
    return INDEXES.get(kind)


def index_kind(index: AnyIndex) -> str:
    """Return the name of an index, so that `load_index` finds its class again.

    Raises:
        InputError: if its class has no name.
    """
    return INDEXES.name_of(type(index))


def index_parameters(kind: str) -> dict[str, Any]:
    """Return the settings that an index takes and their defaults."""
    parameters = inspect.signature(index_class(kind).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_settings(kind: str, settings: dict[str, Any]) -> None:
    """Refuse settings that an index does not take, before anything is trained for it.

    Raises:
        InputError: if the kind or a setting is unknown (the closest is named), or a value is of the wrong kind.
    """
    known = index_parameters(kind)
    for name, value in settings.items():
        if name not in known:
            raise unknown_name(f"setting of index '{kind}'", f"index.{name}", [f"index.{k}" for k in known])
        default = known[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(default, int) and not isinstance(default, bool) and not (whole and value >= 0):
            raise InputError(f"index.{name} = {shown(value)}: a whole number of at least 0 is wanted")
        if isinstance(default, float) and not (whole or isinstance(value, float)):
            raise InputError(f"index.{name} = {shown(value)}: a number is wanted")
        if isinstance(default, str) and not isinstance(value, str):
            raise InputError(f"index.{name} = {shown(value)}: a text is wanted")


def build_index(kind: str, settings: dict[str, Any], model: ScoringModel) -> AnyIndex:
    """Return a new, empty index: ``Class(**settings)``, or ``Class(model, **settings)`` if it is a `ModelIndex`.

    Raises:
        InputError: as `check_settings`, or if a value is out of range.
    """
    check_settings(kind, settings)
    cls = index_class(kind)
    index: AnyIndex = cls(model, **settings) if issubclass(cls, ModelIndex) else cls(**settings)
    return index


def serves(kind: str, *, inner_product: bool) -> bool:
    """Return whether an index of this kind can answer for a model: any for inner products, else a `ModelIndex`."""
    return inner_product or issubclass(index_class(kind), ModelIndex)


def exact_index(model: ScoringModel) -> AnyIndex:
    """Return a new, empty index that finds the true best items of a model."""
    return ExactIndex() if model.inner_product else BruteForceIndex(model)


def load_index(kind: str, folder: Path, *, model: ScoringModel, device: torch.device | str = "cpu") -> AnyIndex:
    """Read the index that was saved in ``folder``.

    Raises:
        InputError: if the kind is unknown or the files are not its own.
    """
    cls = index_class(kind)
    given: dict[str, Any] = {"model": model} if issubclass(cls, ModelIndex) else {}
    index: AnyIndex = cls.load(folder, device=device, **given)
    return index
