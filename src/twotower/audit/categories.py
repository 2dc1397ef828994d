"""Synthetic categories for a bundle: from its training items to the cells of a table."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.audit.table import Cells, write_filled
from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, Features
from twotower.core.schema import Feature
from twotower.core.seeds import derive, torch_generator
from twotower.data.prepare.database import database, parquet
from twotower.data.prepare.spec import FeatureSpec
from twotower.data.prepare.vocabulary import feature_path, read_columns
from twotower.diagnosis.causes.drift import is_missing
from twotower.diagnosis.remedies import assign_by_cluster, draw_marginals
from twotower.serving.bundle import Bundle
from twotower.towers.latent_text import fit_text, text_vectors

TEXT_DIM = 64
"""Axes that a text is reduced to before it is clustered."""


@runtime_checkable
class Lacking(Protocol):
    """Hold a feature, and the rows of a table that lack it."""

    @property
    def feature(self) -> Feature: ...
    @property
    def rows(self) -> Tensor: ...


def synthetic(
    bundle: Bundle, faults: Sequence[Lacking], features: Features, strategy: str, seed: int
) -> dict[str, Tensor]:
    """Return values for the rows that lack them, by feature: [lacking rows], or [lacking rows, width].

    Raises:
        InputError: if "clusters" has no text to go by, or training had no value of a feature.
    """
    vectors = _texts(bundle, features, seed) if strategy == "clusters" else None
    drawn = {}
    for fault in faults:
        name = fault.feature.name
        training = bundle.dataset.item_features[name][FIRST_KNOWN:]
        present = ~is_missing(fault.feature, training)
        generator = torch_generator(seed, "remedy", name)
        if vectors is None:
            drawn[name] = draw_marginals(training[present], int(fault.rows.sum()), generator)
        else:
            known, now = vectors
            drawn[name] = assign_by_cluster(training[present], known[present], now[fault.rows], generator)
    return drawn


def _texts(bundle: Bundle, features: Features, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors of all texts of the training items, and of the table's."""
    known, now = [], []
    for feature in bundle.schema.item_features:
        if feature.kind == "text":
            training = bundle.dataset.item_features[feature.name][FIRST_KNOWN:]
            space = fit_text(training, feature.size, TEXT_DIM, seed=derive(seed, "text", feature.name))
            known.append(text_vectors(space, training))
            now.append(text_vectors(space, features[feature.name]))
    if not known:
        raise InputError(f"{bundle.folder}: its items have no text to cluster by; use --strategy marginals")
    if not any(bool(part.any()) for part in now):
        raise InputError("no item of the table has a text with a word that training knew; use --strategy marginals")
    return torch.cat(known, dim=1), torch.cat(now, dim=1)


def fill_table(bundle: Bundle, table: Path, to: Path, faults: Sequence[Lacking], filled: Features) -> None:
    """Write the table with the cells of ``filled`` where rows lacked them."""
    vocabulary = bundle.folder / "vocabulary"
    columns: dict[str, tuple[Cells, str]] = {}
    with tempfile.TemporaryDirectory(prefix="twotower-") as folder, database(Path(folder)) as connection:
        stored = read_columns(connection, vocabulary, "item").features
        for fault in faults:
            feature = fault.feature
            spec = stored.get(feature.name, FeatureSpec(feature.name, feature.kind))
            path = feature_path(vocabulary, "item", feature.name)
            words = dict(connection.execute(f"SELECT row, value FROM {parquet(path)}").fetchall())
            values = filled[feature.name].reshape(len(fault.rows), -1).tolist()
            cells: Cells = [
                [words[value] for value in row if value in words] if lacks else None
                for row, lacks in zip(values, fault.rows.tolist(), strict=True)
            ]
            separator = "" if feature.kind == "categorical" else spec.separator or "|"
            columns[spec.column or feature.name] = (cells, separator)
    write_filled(table, to, columns, vocabulary=vocabulary)
