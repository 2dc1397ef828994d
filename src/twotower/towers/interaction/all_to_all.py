"""Self-attention over a history and an item together: a transformer whose tokens are both, for every pair."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.towers.sequence.base import check_heads


class PairBlock(nn.Module):
    """Apply pre-norm self-attention and feed-forward, each with a residual, over an item's tokens and a history's.

    The item's come first, and every place sees all that are there; the parts are those of `CausalBlock`. What a pair
    need not have for itself is computed once for a user or an item (see `first`), and the last block works for the
    item's tokens alone (see `at_item`): to the same numbers, up to rounding.
    """

    def __init__(self, *, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(
        self, x: Float[Tensor, "rows n places dim"], seen: Bool[Tensor, "rows places"]
    ) -> Float[Tensor, "rows n places dim"]:
        """Apply the block to every place of every pair; a place is attended to where it is ``seen``."""
        query, key, value = self._split(x)
        weights = _softmax(_scaled(query) @ key.transpose(-1, -2), seen[:, None, None, None])
        return self._fed(x + self._dropped(self.project_out((weights @ value).movedim(1, 3).flatten(3))))

    def first(
        self,
        users: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
        items: Float[Tensor, "some n tokens dim"],
    ) -> Float[Tensor, "rows n places dim"]:
        """Apply the block to pairs of tokens that do not know of each other yet; one row of items serves all users.

        A softmax over two parts is that of either, weighted by a softmax over their sums: so what an event finds in its
        own history is found once for all items, and mapped to the output once.
        """
        (rows, _, dim), (n, tokens) = users.shape, items.shape[1:3]
        of_events, to_events, event_values = self._split(users)
        of_items, to_items, item_values = self._split(items)
        of_events, of_items = _scaled(of_events), _scaled(of_items)
        within = (of_events @ to_events.transpose(-1, -2)).masked_fill(~present[:, None, None], _lowest(of_events))
        size, found = within.logsumexp(-1), within.softmax(-1) @ event_values
        across = (of_events @ to_items.flatten(2, 3).transpose(-1, -2)).unflatten(3, (n, tokens))
        size = size[..., None, None].expand(*across.shape[:-1], 1)
        weights = torch.cat([size, across], dim=-1).softmax(-1)
        outward = self.project_out.weight.T.reshape(self.heads, -1, dim)
        of_history = weights[..., 0].permute(0, 2, 3, 1) @ (found @ outward).transpose(1, 2)
        of_item = (item_values.flatten(2, 3) @ outward).unflatten(2, (n, tokens)).permute(0, 2, 1, 3, 4).flatten(2, 3)
        of_item = weights[..., 1:].permute(0, 3, 2, 1, 4).flatten(3) @ of_item
        events = users[:, None] + self._dropped(of_item + of_history.transpose(1, 2) + self.project_out.bias)

        between = (of_items.flatten(2, 3) @ to_events.transpose(-1, -2)).unflatten(2, (n, tokens))
        inside = (of_items @ to_items.transpose(-1, -2)).expand(rows, -1, -1, -1, -1)
        seen = torch.cat([present.new_ones(rows, tokens), present], dim=1)[:, None, None, None]
        weights = _softmax(torch.cat([inside, between], dim=-1), seen)
        values = (weights[..., tokens:].flatten(2, 3) @ event_values).unflatten(2, (n, tokens))
        values = values + weights[..., :tokens] @ item_values
        at_item = items + self._dropped(self.project_out(values.movedim(1, 3).flatten(3)))
        return self._fed(torch.cat([at_item, events], dim=2))

    def at_item(
        self, x: Float[Tensor, "rows n places dim"], seen: Bool[Tensor, "rows places"], tokens: int
    ) -> Float[Tensor, "rows n tokens dim"]:
        """Return the output at the item's tokens: a few queries are mapped to the places, not all places to them."""
        dim = x.shape[-1]
        normed = self.attention_norm(x)
        to_query, to_key, to_value = self.project_in.weight.view(3, self.heads, -1, dim)
        bias = self.project_in.bias.view(3, self.heads, -1)
        query = torch.einsum("rntd,hed->rnhte", normed[:, :, :tokens], to_query) + bias[0][:, None]
        # What the bias of keys adds is the same at every place, so that no softmax sees it.
        query = (_scaled(query) @ to_key).flatten(2, 3)
        weights = _softmax(query @ normed.transpose(-1, -2), seen[:, None, None])
        found = (weights @ normed).unflatten(2, (self.heads, tokens)) @ to_value.transpose(-1, -2) + bias[2][:, None]
        found = self.project_out(found.transpose(2, 3).flatten(3))
        return self._fed(x[:, :, :tokens] + self._dropped(found))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [rows, heads, …, dim / heads]."""
        split = self.project_in(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.movedim(-3, 0).movedim(-2, 2).unbind(0)
        return query, key, value

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    def _fed(self, x: Tensor) -> Tensor:
        return x + self._dropped(self.feed_forward(self.feed_forward_norm(x)))


class AllToAllEncoder(nn.Module):
    """Encode pairs of a history and an item by blocks of full attention, and score them by the item's last states.

    Args:
        dim: width of tokens.
        layers: blocks.
        heads: of the attention; must divide ``dim``.
        dropout: share of numbers set to 0 in training, after attention and after the feed-forward part.
    """

    def __init__(self, *, dim: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.blocks = nn.ModuleList(PairBlock(dim=dim, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.readout = nn.Linear(dim, 1)

    def numbers(self, places: int) -> int:
        """Return about how many numbers are held for a pair of so many tokens, outside training."""
        return places * (6 * self.dim + (places if len(self.blocks) > 2 else 6) * self.heads)

    def forward(
        self,
        users: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
        items: Float[Tensor, "some n tokens dim"],
    ) -> Float[Tensor, "rows n"]:
        """Score row i's items for user i; one row of items serves all users."""
        tokens = items.shape[2]
        seen = torch.cat([present.new_ones(len(present), tokens), present], dim=1)
        first, last = self.blocks[0], self.blocks[-1]
        assert isinstance(first, PairBlock)
        assert isinstance(last, PairBlock)
        x = together(users, items) if first is last else first.first(users, present, items)
        for block in list(self.blocks)[1:-1]:
            x = block(x, seen)
        states = self.norm(last.at_item(x, seen, tokens))
        scores: Tensor = self.readout(states.mean(2))[..., 0]
        return scores


def together(
    users: Float[Tensor, "rows length dim"], items: Float[Tensor, "some n tokens dim"]
) -> Float[Tensor, "rows n places dim"]:
    """Return the tokens of every pair, the item's first."""
    rows, n = len(users), items.shape[1]
    parts = items.expand(rows, -1, -1, -1), users[:, None].expand(-1, n, -1, -1)
    return torch.cat(parts, dim=2)


def _scaled(query: Tensor) -> Tensor:
    return query * query.shape[-1] ** -0.5


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


def _lowest(like: Tensor) -> float:
    """What stands for a place that is not there: finite, so that a history without any has no NaN."""
    return torch.finfo(like.dtype).min
