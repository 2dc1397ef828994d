"""The raw columns of one user who is not in the bundle, as the features that the user tower reads."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import duckdb
import torch

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.records import Features
from twotower.data.prepare.encode import missing, prepare_table
from twotower.data.prepare.vocabulary import feature_path, read_columns
from twotower.serving.bundle import Bundle

log = logging.getLogger(__name__)


def newcomer_features(bundle: Bundle, columns: Mapping[str, Any]) -> Features:
    """Encode the raw columns of one user as the training data was; a feature that is not given is missing.

    Raises:
        InputError: if a column is none of those that the features came from, or its value cannot be read.
    """
    schema, vocabulary = bundle.schema, bundle.folder / "vocabulary"
    if not schema.user_features:
        if columns:
            log.warning("the data has no user features: those given are left aside")
        return {}
    with duckdb.connect() as connection:
        readers = read_columns(connection, vocabulary, "user")
    sources: dict[str, tuple[str, ...]] = {}
    for feature in schema.user_features:
        spec = readers.features.get(feature.name)
        named = () if spec is None else spec.columns or (spec.column or spec.name,)
        sources[feature.name] = tuple(dict.fromkeys((*named, feature.name)))
    known = {column for named in sources.values() for column in named}
    for name in columns:
        if name not in known:
            raise unknown_name("user feature", name, known)
    features = {f.name: torch.from_numpy(missing(f, 1)) for f in schema.user_features}
    given = [f for f in schema.user_features if any(columns.get(column) is not None for column in sources[f.name])]
    if left := [f.name for f in schema.user_features if f not in given]:
        log.warning("user features that were not given are missing: %s", ", ".join(left))
    if not given:
        return features
    for feature in given:
        if feature.is_discrete and not feature_path(vocabulary, "user", feature.name).is_file():
            raise InputError(f"feature '{feature.name}': the bundle has no table of its values, so none can be given")
    try:
        row = {key: value for key, value in columns.items() if value is not None}
        wanted = replace(schema, user_features=tuple(given))
        encoded = prepare_table([{readers.id: "new", **row}], wanted, vocabulary, "user")
    except duckdb.Error as error:
        raise InputError(f"features: {' '.join(str(error).split())[:160]}") from None
    for feature in given:
        value = next(columns[name] for name in sources[feature.name] if columns.get(name) is not None)
        nothing = isinstance(value, float) and math.isnan(value)
        if feature.kind == "numeric" and not nothing and not encoded[1][feature.name].isfinite().all():
            raise InputError(f"user feature {shown(feature.name)}: {shown(value)} is no number")
    return features | encoded[1]
