"""Remedies of a collapse, each with geometry and, where the bundle keeps events, recall before and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.audit.categories import fill_table, synthetic
from twotower.audit.keywords import IDF, LIBRARIES
from twotower.audit.remedy_recall import Served, recall_of
from twotower.audit.retrain import train_again
from twotower.audit.text import Readers, enrich_table
from twotower.core.devices import find_device
from twotower.core.errors import InputError, unknown_name
from twotower.core.folders import check_outside
from twotower.core.records import FIRST_KNOWN, UNKNOWN, Features, Items
from twotower.core.schema import Feature
from twotower.data.prepare.encode import prepare_table
from twotower.diagnosis import diagnose
from twotower.diagnosis.causes.drift import ColumnDrift, compare_values, is_missing, most_frequent
from twotower.models.encode import TILE, inference
from twotower.serving.bundle import Bundle
from twotower.serving.neighbours import flat

STRATEGIES = ("marginals", "clusters", "feature-dropout", "semantic")
LOST = 0.5
"""A feature is to be repaired when it lost at least this share of the rows that were sound in training."""
FIGURES = ("mean_cosine", "std_cosine", "rankme", "participation_ratio", "effective_dimensions")


@dataclass(frozen=True, repr=False)
class Remedy:
    """Hold what a remedy did, with the figures before and after."""

    strategy: str
    to: str
    """The repaired table, or the bundle of the model that was trained again."""
    rows: int
    known_rows: int
    """Rows of the table whose id the bundle knows: these keep the embedding of their id."""
    features: list[dict[str, Any]]
    """The features that came without values: name, reason, filled rows, and their drift before and after."""
    before: dict[str, Any]
    """Verdict, reasons and figures of the vectors of the table as it came, by the bundle as it was."""
    after: dict[str, Any]
    recall: dict[str, Any] | None
    """Of the run's own test split, were all known items served as the table is, before and after the remedy, and with
    all their features; None when the bundle keeps no events to be found."""
    notes: list[str]

    def __repr__(self) -> str:
        return f"Remedy({self.strategy}: {self.before['verdict']} before, {self.after['verdict']} after; {self.to})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with neither NaN nor infinity."""
        return asdict(self)


class Fault(NamedTuple):
    """Hold a feature of the table that came without its values."""

    feature: Feature
    reason: str
    """missing, unknown or constant."""
    drift: ColumnDrift
    rows: Tensor
    """Which rows of the table lack a value, bool [rows]."""


def remedy(
    bundle: Path | str,
    items: Path | str,
    *,
    strategy: str,
    to: Path | str,
    encoder: str = "",
    keywords: str = IDF,
    seed: int = 0,
    device: str = "auto",
) -> Remedy:
    """Apply a remedy for a table of items about to be served, and measure geometry and recall before and after.

    "marginals" and "clusters" fill categories that are missing, unknown or constant with synthetic ones, drawn from
    their shares in training, or those of most training items with like texts; ``to`` is the repaired table.
    "feature-dropout" trains the bundle's run again, on the events that the bundle keeps, with features left out at
    random; "semantic" trains a model that reads texts alone; ``to`` is the new bundle. With an ``encoder`` it reads a
    sentence encoder's vectors of the raw texts too, with ``keywords`` those that a library finds in them, and the table
    with these columns is written beside the new bundle.

    Source: George et al., "Diagnosing Embedding Space Collapse", sections VII-A and VII-B. Feature dropout is ours.

    Args:
        bundle: the folder.
        items: CSV, TSV, JSON lines or Parquet, with the columns that the bundle was trained on, or some of them.
        strategy: one of the four.
        to: what to write.
        encoder: for "semantic": a model of sentence-transformers, or "packaged" (`twotower.audit.text_encoder`).
        keywords: for "semantic": "idf", the words of highest idf; or "yake" (`twotower.audit.keywords`).
        seed: of every draw.
        device: where a strategy that trains again does so; the table is encoded on the CPU.

    Raises:
        InputError: if a file cannot be read, there is nothing to repair, or the strategy does not suit the bundle.
    """
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, STRATEGIES)
    if keywords not in LIBRARIES:
        raise unknown_name("kind of keywords", keywords, LIBRARIES)
    find_device(device)
    readers = Readers(encoder, keywords)
    if readers.columns() and strategy != "semantic":
        asked = "an encoder belongs" if encoder else "keywords belong"
        raise InputError(f"{asked} to the strategy 'semantic', not to '{strategy}'")
    loaded, table, to = Bundle.load(bundle), Path(items), Path(to)
    check_outside(to)
    if not loaded.schema.item_features:
        raise InputError(f"{loaded.folder}: its items have no features, so there is nothing to repair")
    ids, features = prepare_table(table, loaded.schema, loaded.folder / "vocabulary", "item")
    if len(ids) < 2:
        raise InputError(f"{table}: 1 row; a geometry needs at least two")
    known = loaded.item_vocabulary.known(ids)
    rows = torch.tensor([known.get(id, UNKNOWN) for id in ids])
    faults = find_faults(loaded, features, seed)
    before = geometry(loaded, rows, features, ids, seed)
    bare = Served({fault.feature.name: _in_its_place(fault, features) for fault in faults})
    notes: list[str] = []

    if strategy in ("feature-dropout", "semantic"):
        cured = train_again(loaded, strategy, to, readers, notes, device)
        now = features
        if readers.columns():
            beside = to.with_name(f"{to.name}.items.parquet")
            enrich_table(loaded, table, readers, beside)
            _, now = prepare_table(beside, cured.schema, cured.folder / "vocabulary", "item")
            notes.append(f"the table with the {' and '.join(readers.columns())} that the new bundle reads: {beside}")
        after = geometry(cured, rows, now, ids, seed)
        found = [_told(fault, 0, None) for fault in faults]
        cases = [("before", loaded, bare), ("after", cured, bare)]
        cases += [("before, all features", loaded, Served({})), ("after, all features", cured, Served({}))]
    else:
        faults = [fault for fault in faults if fault.feature.kind in ("categorical", "multi_categorical")]
        if not faults:
            raise InputError(f"{table}: no category is missing, unknown or constant, so there is none to make up")
        filled = features | {
            name: _merged(features[name], fault.rows, values)
            for fault, (name, values) in zip(
                faults, synthetic(loaded, faults, features, strategy, seed).items(), strict=True
            )
        }
        fill_table(loaded, table, to, faults, filled)
        after = geometry(loaded, rows, filled, ids, seed)
        found = [_told(fault, int(fault.rows.sum()), _drift(loaded, fault.feature, filled, seed)) for fault in faults]
        made_up = Served(bare.values | _for_catalogue(loaded, faults, bare, strategy, seed))
        cases = [("before", loaded, bare), ("after", loaded, made_up), ("before, all features", loaded, Served({}))]
    recall = recall_of(loaded, cases, notes, seed)
    return Remedy(strategy, str(to), len(ids), int((rows != UNKNOWN).sum()), found, before, after, recall, notes)


def find_faults(bundle: Bundle, features: Features, seed: int) -> list[Fault]:
    """Return the discrete features of a table that lost values which training had."""
    faults = []
    for feature in bundle.schema.item_features:
        if not feature.is_discrete:
            continue
        values, drift = features[feature.name], _drift(bundle, feature, features, seed)
        rises = {name: rise for name, rise in drift.rises().items() if name in ("missing", "unknown", "constant")}
        reason = max(rises, key=lambda name: rises[name])
        if rises[reason] < LOST:
            continue
        silent = is_missing(feature, values)
        flat = values.reshape(len(values), -1)
        silent |= (flat <= UNKNOWN).all(1)
        if reason == "constant" and not bool(silent.all()):
            value, _ = most_frequent(feature, values)
            silent |= (flat.sort(1, descending=True).values == value.reshape(1, -1)).all(1)
        faults.append(Fault(feature, reason, drift, silent))
    return faults


def geometry(bundle: Bundle, rows: Tensor, features: Features, ids: list[str], seed: int) -> dict[str, Any]:
    """Return verdict, reasons and figures of the vectors that a bundle's model makes of a table.

    Raises:
        InputError: if the model has no item vectors.
    """
    tiles = [slice(start, start + TILE) for start in range(0, len(rows), TILE)]
    with inference(bundle.model):
        parts = [
            flat(bundle.model.encode_items(Items(rows[at], {name: column[at] for name, column in features.items()})))
            for at in tiles
        ]
    if parts[0].shape[1] < 2:
        raise InputError(f"{bundle.folder}: '{bundle.manifest['model']['name']}' has no item vectors to judge")
    found = diagnose(torch.cat(parts), ids=ids, seed=seed)
    return {
        "verdict": found.verdict,
        "reasons": [reason._asdict() for reason in found.reasons],
        "figures": {name: found.statistics[name] for name in FIGURES},
        "centred": {name: found.centred.get(name) for name in FIGURES},
    }


def _drift(bundle: Bundle, feature: Feature, features: Features, seed: int) -> ColumnDrift:
    training = bundle.dataset.item_features[feature.name][FIRST_KNOWN:]
    return compare_values(feature, features[feature.name], training, seed=seed)


def _in_its_place(fault: Fault, features: Features) -> Tensor:
    """What a row of the table holds in place of a value."""
    values = features[fault.feature.name]
    if fault.reason == "constant" and not bool(is_missing(fault.feature, values).all()):
        return most_frequent(fault.feature, values)[0]
    return torch.full_like(values[0], UNKNOWN if fault.reason == "unknown" else 0)


def _for_catalogue(bundle: Bundle, faults: list[Fault], bare: Served, strategy: str, seed: int) -> Features:
    """The same remedy for all known items, of which the recall is known."""
    catalogue = {name: column[FIRST_KNOWN:] for name, column in bundle.dataset.item_features.items()}
    catalogue |= {name: value.expand_as(catalogue[name]) for name, value in bare.values.items()}
    everywhere = torch.ones(bundle.schema.num_items - FIRST_KNOWN, dtype=torch.bool)
    return synthetic(bundle, [fault._replace(rows=everywhere) for fault in faults], catalogue, strategy, seed)


def _merged(values: Tensor, rows: Tensor, drawn: Tensor) -> Tensor:
    merged = values.clone()
    merged[rows] = drawn
    return merged


def _told(fault: Fault, filled: int, after: ColumnDrift | None) -> dict[str, Any]:
    return {
        "feature": fault.feature.name,
        "reason": fault.reason,
        "filled": filled,
        "before": fault.drift._asdict(),
        "after": None if after is None else after._asdict(),
    }
