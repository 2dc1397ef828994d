"""Tables of FIT's user tower: what can be computed before the request, without changing the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.records import PADDING, Users
from twotower.towers.interaction.base import PairwiseUnit
from twotower.towers.table import mean_of_rows

if TYPE_CHECKING:
    from twotower.models.fit.model import FIT

ITEM_TILE = 1024
"""Items whose attention is computed at a time."""


class UserTables(NamedTuple):
    """Hold results that depend on weights alone; batch normalisation is folded into the maps it follows.

    ``items`` [items, width (+ queries)] holds the fields of every item and, where the unit has such, its attention
    logit under every hard query: a request gathers the rows of its history. ``from_query`` [queries, hidden] is the
    query's share of the first layer with its bias, ``from_fields`` and ``from_history`` map the other two inputs, and
    ``layers`` are the weights and biases after it. Without meta queries there is the bias alone.
    """

    items: Tensor
    queries: Tensor | None
    from_query: Tensor
    from_fields: Tensor
    from_history: Tensor
    layers: list[tuple[Tensor, Tensor]]


def user_tables(model: FIT) -> UserTables:
    """Compute everything that no request changes.

    For a unit that weighs each history item by that item and the query alone (`PairwiseUnit`), the attention network
    itself need not run in a request at all: its logits are one number an item and query.
    """
    every = torch.arange(model.schema.num_items, device=model.query_temperature.device)
    items = torch.cat([model.item_fields.of_ids(tile) for tile in every.split(ITEM_TILE)])
    items = items * (every != PADDING)[:, None]
    stack = model.user_stack
    folded = [_folded(linear, norm) for linear, norm in zip(stack.linears, stack.norms, strict=True)]
    weight, bias = folded[0]
    from_fields, from_history, *from_query = weight.split(model.input_widths, dim=1)
    queries, constant = None, bias[None]
    if model.meta is not None:
        queries = model.meta.hard()
        constant = F.linear(queries, from_query[0], bias)
    if isinstance(model.unit, PairwiseUnit) and queries is not None:
        logits = torch.cat([model.unit.all_logits(tile, queries) for tile in items.split(ITEM_TILE)])
        logits[PADDING] = model.unit.padding_logit
        items = torch.cat([items, logits], dim=1)
    heads = model.user_heads.linear
    layers = [*folded[1:], (heads.weight, heads.bias)]
    return UserTables(items, queries, constant, from_fields, from_history, layers)


def served_heads(model: FIT, tables: UserTables, users: Users) -> Float[Tensor, "users queries heads dim"]:
    """Return the same as `FIT.encode_users` in evaluation mode, from the tables."""
    interest = _interest(model, tables, users.history)
    shared = tables.from_query.expand(len(interest), -1, -1)
    if model.user_fields.count:
        shared = shared + F.linear(model.user_fields(users).flatten(1), tables.from_fields)[:, None]
    hidden = torch.addmm(shared.flatten(0, 1), interest.flatten(0, 1), tables.from_history.T).relu_()
    device = hidden.device.type
    plain = device == "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled(device)
    for weight, bias in tables.layers[:-1]:
        # The other form knows neither derivative nor autocast, but the product's kernel does the ReLU too.
        hidden = F.linear(hidden, weight, bias).relu_() if plain else torch._addmm_activation(bias, hidden, weight.T)
    hidden = F.linear(hidden, *tables.layers[-1]).unflatten(0, (len(interest), len(tables.from_query)))
    heads = hidden.unflatten(-1, (model.user_heads.heads, -1))
    return F.normalize(heads, dim=-1) if model.user_heads.normalise else heads


def _interest(model: FIT, tables: UserTables, history: Tensor) -> Float[Tensor, "users queries width"]:
    """What the history says under each query; one mean where there is none."""
    if model.unit is None or tables.queries is None:
        return mean_of_rows(tables.items, history)[:, None]
    rows = F.embedding(history, tables.items)
    if not isinstance(model.unit, PairwiseUnit):
        return model.unit.shared(tables.queries, rows, history != PADDING)
    width = model.item_fields.width
    return model.unit.pool(rows[:, :, width:], rows[:, :, :width])


def _folded(linear: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear map followed by batch normalisation with its running averages."""
    assert isinstance(linear, nn.Linear)
    if not isinstance(norm, nn.BatchNorm1d):
        return linear.weight, linear.bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return linear.weight * scale[:, None], (linear.bias - norm.running_mean) * scale + norm.bias
