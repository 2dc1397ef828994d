"""Enlarged models: the same model over a vocabulary that grew, with a row more for each new user, item or value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, UNKNOWN
from twotower.core.schema import Schema
from twotower.models.base import Model, new_item_model
from twotower.models.registry import build_model

QUOTIENTS = "quotients"
"""Rows of a table of quotients and remainders, of which more ids may need more."""
KNOWN_IDS = "known_ids"
"""How many ids a table of shared rows was trained on: those beyond are read as the unknown one."""


def enlarged(model: Model, name: str, parameters: dict[str, Any], schema: Schema, *, as_unknown: bool = True) -> Model:
    """Return a copy of ``model`` for ``schema``, whose rows begin with those of the model's own; these stay bit by bit.

    Models that read the features of all items are to be handed them (`attach_items`) where items are new.

    Args:
        model: stays as it is.
        name: of the model, as in a bundle's manifest.
        parameters: of the model, likewise.
        schema: with at least the model's users, items and values of features, in the same order.
        as_unknown: each new row is that of the unknown id or value, so that the copy scores as the model does. False:
            rows of users begin at the mean of the known ones, and so do those of items, except where the item tower
            reads features: a new item is then an unknown one that its features distinguish.

    Raises:
        InputError: if a new row is not all that the model would need, as for matrices of items by items.
    """
    before = model.schema
    with torch.random.fork_rng([]):
        grown = build_model(name, schema, parameters)
    ids = {(before.num_users, schema.num_users)}
    means = set(ids)
    ids.add((before.num_items, schema.num_items))
    if new_item_model(model) is None:
        means.add((before.num_items, schema.num_items))
    for side in ("user", "item"):
        sizes = {feature.name: feature.size for feature in before.features(side)}
        ids |= {(sizes[feature.name], feature.size) for feature in schema.features(side) if feature.is_discrete}
    weights: dict[str, Tensor] = model.state_dict()
    for key, wanted in grown.state_dict().items():
        have = weights.get(key)
        if key.endswith(KNOWN_IDS) and not as_unknown:  # of a table of shared rows: new ids are to be trained, too
            weights[key] = wanted
        if have is None or have.shape == wanted.shape:
            continue
        pair = (len(have), len(wanted)) if have.ndim and wanted.ndim else (0, 0)
        quotients = key.endswith(QUOTIENTS) and pair[0] < pair[1]
        if have.shape[1:] != wanted.shape[1:] or not (pair in ids or quotients):
            raise _cannot(name)
        mean = not (as_unknown or quotients) and pair in means
        mean = mean and have.is_floating_point() and len(have) > FIRST_KNOWN
        row = have[FIRST_KNOWN:].mean(dim=0) if mean else have[UNKNOWN]
        weights[key] = torch.cat([have, row.expand(pair[1] - pair[0], *have.shape[1:])])
    try:
        grown.load_state_dict(weights)
    except RuntimeError:
        raise _cannot(name) from None
    device = next((tensor.device for tensor in weights.values()), torch.device("cpu"))
    return grown.to(device).eval()


def _cannot(name: str) -> InputError:
    return InputError(f"model '{name}' keeps more of its items than a row of a table; train it again to add items")
