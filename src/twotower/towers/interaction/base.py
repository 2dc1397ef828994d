"""Interaction unit protocol: a history reduced to one vector, given a query."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class InteractionUnit(nn.Module):
    """Reduce a history to one vector, given a query that represents the candidate item.

    A subclass sets ``width`` and gives `forward`; where part of its work does not depend on the query it also gives
    `shared`, and where its weight for a history item depends on that item and the query alone, see `PairwiseUnit`.

    Source: FIT (Xiong et al., SIGIR 2025), section 4.3.1: arbitrary networks fit here.
    """

    width: int
    """Numbers that come out for one query."""

    def forward(
        self,
        queries: Float[Tensor, "rows query_dim"],
        history: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows width"]:
        """Return the vector of row i's history for row i's query; only the places that are ``present`` count."""
        raise TypeError(f"{type(self).__name__} does not read a history")

    def shared(
        self,
        queries: Float[Tensor, "queries query_dim"],
        history: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows queries width"]:
        """Return the vector of every row's history for every query."""
        rows, count = len(history), len(queries)
        out = self(
            queries.repeat(rows, 1),
            history.repeat_interleave(count, dim=0),
            present.repeat_interleave(count, dim=0),
        )
        return out.unflatten(0, (rows, count))


class PairwiseUnit(InteractionUnit):
    """Weight each history item by that item and the query alone, then sum.

    Its logits are a table [items, queries] once the queries are fixed, so that a served request looks them up.
    """

    padding_logit: float = 0.0
    """The logit of a history item that is not there."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim

    def row_logits(
        self, keys: Float[Tensor, "pairs dim"], queries: Float[Tensor, "pairs dim"]
    ) -> Float[Tensor, " pairs"]:
        """Return the logits of row i of keys with row i of queries."""
        raise TypeError(f"{type(self).__name__} does not weigh a history")

    def all_logits(
        self, keys: Float[Tensor, "keys dim"], queries: Float[Tensor, "queries dim"]
    ) -> Float[Tensor, "keys queries"]:
        """Return the logits of every key with every query."""
        pairs = (len(keys), len(queries))
        flat = self.row_logits(
            keys[:, None].expand(*pairs, -1).flatten(0, 1), queries[None].expand(*pairs, -1).flatten(0, 1)
        )
        return flat.view(pairs)

    def weights(self, logits: Float[Tensor, "rows length queries"]) -> Float[Tensor, "rows length queries"]:
        """Return the weight of each history item; 0 at `padding_logit`."""
        return logits

    def pool(
        self, logits: Float[Tensor, "rows length queries"], history: Float[Tensor, "rows length dim"]
    ) -> Float[Tensor, "rows queries dim"]:
        """Return the weighted sum of the history, for each query."""
        return self.weights(logits).mT @ history

    def forward(
        self,
        queries: Float[Tensor, "rows query_dim"],
        history: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows width"]:
        """Return the vector of row i's history for row i's query.

        Padded places are never computed, nor counted by batch statistics.
        """
        place = present.flatten().nonzero()[:, 0]
        return self.packed(queries, history.flatten(0, 1).index_select(0, place), place, present.shape[1])

    def packed(
        self,
        queries: Float[Tensor, "rows query_dim"],
        keys: Float[Tensor, "places dim"],
        place: Int[Tensor, " places"],
        length: int,
    ) -> Float[Tensor, "rows width"]:
        """Return the vector of row i's history for row i's query, given only the items that are present.

        Args:
            queries: one a row.
            keys: items of all histories.
            place: where each stands in the flat [rows · length] of all histories.
            length: places of one history.
        """
        row = place // length
        found = self.row_logits(keys, queries.index_select(0, row))
        logits = found.new_full((len(queries) * length,), self.padding_logit).index_copy(0, place, found)
        weights = self.weights(logits.view(len(queries), length, 1)).flatten().index_select(0, place)
        return keys.new_zeros(len(queries), self.width).index_add(0, row, keys * weights[:, None])

    def shared(
        self,
        queries: Float[Tensor, "queries query_dim"],
        history: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows queries width"]:
        """Return the vector of every row's history for every query."""
        logits = self.all_logits(history.flatten(0, 1), queries).unflatten(0, present.shape)
        return self.pool(logits.masked_fill(~present[:, :, None], self.padding_logit), history)
