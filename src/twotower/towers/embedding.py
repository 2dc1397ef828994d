"""Embedding of features: one vector a feature, the first layer of every tower that reads features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.core.records import FIRST_KNOWN, UNKNOWN, Features
from twotower.core.schema import Feature
from twotower.towers.table import DenseTable, Table

NEAREST = 10
"""Learnt ids that stand in for one without training events."""
POWER = 0.25
"""Of their training events, by which they weigh: what is known of an often used id is surer, and users are near it."""
MOST_COMPARED = 1 << 14
"""Learnt ids among which they are looked for."""
BLOCK = 1 << 24
"""Cosines held at a time."""


class FeatureEmbedding(nn.Module):
    """Embed each feature as a vector of width ``dim``, so that fields can be concatenated, weighted or dropped.

    Discrete features look a table up (padding is the zero vector, unknown has a row of its own that learns); rows with
    several values take the mean of those present. A number is standardised by the schema's mean and std, then mapped by
    one linear layer; a missing one is the zero vector. A vector goes through one linear layer; NaN counts as missing.

    Source: the embedding layer of Covington et al., RecSys 2016, section 3; the pooling is its mean.

    Args:
        features: of one side.
        dim: width of each vector.
        std: as of `DenseTable`, for the tables of discrete features.
    """

    def __init__(self, features: tuple[Feature, ...], *, dim: int, std: float | None = None) -> None:
        super().__init__()
        self.features = features
        self.dim = dim
        # A list, since a feature may bear a name that a module cannot, such as "type" or one with a dot.
        self.layers = nn.ModuleList(
            DenseTable(feature.size, dim, std=std) if feature.is_discrete else nn.Linear(feature.size, dim)
            for feature in features
        )

    @property
    def width(self) -> int:
        """Return the numbers a row once its fields are concatenated."""
        return self.dim * len(self.features)

    def forward(self, values: Features) -> Float[Tensor, "rows fields dim"]:
        """Return one vector a field, in the order of the schema."""
        fields = [
            self._field(layer, feature, values[feature.name])
            for layer, feature in zip(self.layers, self.features, strict=True)
        ]
        return torch.stack(fields, dim=1)

    def _field(self, layer: nn.Module, feature: Feature, value: Tensor) -> Tensor:
        if feature.is_discrete:
            assert isinstance(layer, DenseTable)
            found: Tensor = layer(value) if value.ndim == 1 else layer.mean(value)
            return found
        if feature.kind == "numeric":
            value = ((value - feature.mean) / feature.std)[:, None]
        known = value.isfinite().all(dim=1, keepdim=True)
        return torch.where(known, layer(torch.where(known, value, 0.0)), 0.0)


def dropped_fields(fields: Float[Tensor, "rows fields dim"], share: float) -> Float[Tensor, "rows fields dim"]:
    """Set a share of fields, each by itself, to missing, so that no feature becomes one that a model cannot miss."""
    if not share:
        return fields
    return fields * (torch.rand(fields.shape[:2], device=fields.device) >= share)[:, :, None]


@torch.no_grad()
def settle_unknown(table: Table, events: Int[Tensor, " rows"]) -> None:
    """Give the unknown id, which training does not show, the mean of the rows of ids with training events.

    Args:
        table: with a row an id, which is changed in place.
        events: training events of each id.
    """
    learnt = _learnt(events).nonzero()[:, 0]
    if len(learnt):
        mean = torch.zeros(1, table.dim, device=events.device)
        for part in learnt.split(BLOCK // table.dim):  # never a second table
            mean = mean + table(part).mean(dim=0, keepdim=True) * (len(part) / len(learnt))
        table.put(torch.tensor([UNKNOWN], device=events.device), mean)


@torch.no_grad()
def settle_new(
    table: Table, new: Bool[Tensor, " rows"], events: Int[Tensor, " rows"], fields: Float[Tensor, "rows width"]
) -> None:
    """Set the rows of ids without training events to the mean of the `NEAREST` trained ids by cosine of features.

    Alike is the cosine of the features' embeddings, less their mean over learnt ids. A learnt id weighs by it, and by
    its events to the power of `POWER`. An id like none takes the row of the unknown id. (Own rows are as random as they
    were drawn, and would rank new items by chance; one row for all of them leaves them where no user is.)

    Args:
        table: with a row an id, which is changed in place.
        new: the ids that are given a row.
        events: training events of each id; of many learnt ids an even choice is compared with.
        fields: embedded features of each id, laid end to end.
    """
    learnt = _learnt(events).nonzero()[:, 0]
    wanted = new.nonzero()[:, 0]
    if not len(learnt) or not len(wanted):
        return
    learnt = learnt[:: -(-len(learnt) // MOST_COMPARED)]
    centre = fields[learnt].mean(dim=0)
    known = F.normalize(fields[learnt] - centre, dim=1)
    unknown = table(torch.tensor([UNKNOWN], device=events.device))
    for part in wanted.split(max(1, BLOCK // len(learnt))):
        alike = F.normalize(fields[part] - centre, dim=1) @ known.T
        best = alike.topk(min(NEAREST, len(learnt)), dim=1)
        shares = best.values.clamp(min=0.0) * events[learnt[best.indices]] ** POWER
        total = shares.sum(1, keepdim=True)
        rows = (table(learnt[best.indices]) * shares[:, :, None]).sum(1) / total.clamp(min=1e-6)
        table.put(part, torch.where(total > 1e-6, rows, unknown))


def _learnt(events: Tensor) -> Tensor:
    found = events > 0
    found[:FIRST_KNOWN] = False
    return found
