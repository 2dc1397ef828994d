"""Base of models that are trained on sequences: vectors of items, by id and features, and of events, by time."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.records import Encoded, Items
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.ops.drawn import drawn_of_each
from twotower.towers.item_features import FeatureSum
from twotower.towers.sequence.time_gaps import TimeGaps
from twotower.towers.tables import build_table

STD = 0.02
"""Standard deviation of the entries of the item table when training starts."""


class SequenceModel(Model):
    """Hold the item table, the features of items and the time between events, for any encoder of a sequence.

    Args:
        schema: of the data.
        dim: width of vectors.
        item_features: whether the vector of an item is that of its id plus those of its features, as a candidate and in
            histories alike.
        time_gaps: whether the vector of an event is told how long after the one before it came; see `TimeGaps`. A
            history without times is read without.
        table: how ids become vectors, with ``table_buckets`` and ``table_hashes``: see `build_table`.
        targets: places of a window that a training step asks for, drawn anew each time; 0: all of them.
    """

    batches = "sequences"

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int,
        item_features: bool = False,
        time_gaps: bool = False,
        table: str = "dense",
        table_buckets: int = 0,
        table_hashes: int = 2,
        targets: int = 0,
    ) -> None:
        super().__init__()
        if targets < 0:
            raise ValueError(f"targets must be at least 0 (all places of a window), got {targets}")
        if item_features and not schema.item_features:
            raise ValueError("item_features = true, but the items of this data have no features; leave it out")
        if time_gaps and not schema.has_times:
            raise ValueError("time_gaps = true needs times, and this log has none; leave it out")
        self.schema = schema
        self.item_table = build_table(table, schema.num_items, dim, buckets=table_buckets, hashes=table_hashes, std=STD)
        self.item_features = FeatureSum(schema, dim=dim, std=STD) if item_features else None
        self.wants_items = item_features
        self.gaps = TimeGaps(dim=dim) if time_gaps else None
        self.targets = targets
        self.draws_rows = targets > 0

    def asked_for(self, encoded: Encoded) -> Encoded:
        """Return the rows that a training step asks for: all, or of each window as many as ``targets`` says.

        Own losses stay those of all places.
        """
        if not (self.targets and self.training) or encoded.user_rows is None:
            return encoded
        rows = drawn_of_each(encoded.user_rows, self.targets)
        items = None if encoded.items is None else encoded.items[rows]
        return Encoded(encoded.users[rows], items, encoded.item_ids[rows], encoded.losses, encoded.user_rows[rows])

    def attach_items(self, items: Items) -> None:
        """Keep the features of all items, where they are read."""
        if self.item_features is not None:
            self.item_features.attach(items)

    def item_vectors(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return the vector of each item, by its id and features."""
        rows: Tensor = self.item_table(items.ids)
        return rows if self.item_features is None else rows + self.item_features(items)

    def embedded(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the items' vectors as an encoder reads them: √dim times their own."""
        rows: Tensor = self.item_table(ids)
        if self.item_features is not None:
            rows = rows + self.item_features.of_ids(ids)
        return rows * self.item_table.dim**0.5

    def events(
        self, history: Int[Tensor, "rows length"], times: Int[Tensor, "rows length"] | None
    ) -> Float[Tensor, "rows length dim"]:
        """Return the vectors of events: of their items, and of the time since the event before."""
        return self.timed(self.embedded(history), times)

    def timed(
        self, vectors: Float[Tensor, "rows length dim"], times: Int[Tensor, "rows length"] | None
    ) -> Float[Tensor, "rows length dim"]:
        """Return vectors of items with the time since the event before, where that is read and there is a clock."""
        return vectors if self.gaps is None or times is None else vectors + self.gaps(times)
