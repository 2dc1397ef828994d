"""Mixed attention over the present session, a prediction of the next item, and the older history."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.ops.dropout import dropout
from twotower.towers.sequence.base import check_heads, check_settings

LONG = 20.0
"""The logarithm of a lag in seconds is divided by this: fifteen years are 1."""


class SessionBlock(nn.Module):
    """Apply pre-norm self-attention and feed-forward over the places of a session; each sees all that are present."""

    def __init__(self, *, dim: int, heads: int, dropout: float, feed_forward: int) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project_in, self.project_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        wide = feed_forward * dim
        self.feed_forward = nn.Sequential(nn.Linear(dim, wide), nn.GELU(), nn.Linear(wide, dim))

    def forward(
        self, x: Float[Tensor, "sessions length dim"], mask: Bool[Tensor, "sessions length"]
    ) -> Float[Tensor, "sessions length dim"]:
        """Apply the block to every place."""
        sessions, length, dim = x.shape
        split = self.project_in(self.attention_norm(x)).view(sessions, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        mixed = self.project_out(mixed.transpose(1, 2).reshape(sessions, length, dim))
        x = x + dropout(mixed, self.dropout, self.training)
        return x + dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout, self.training)


class ActivationUnit(nn.Module):
    """Weight older events by how they fit the present: a small network of event, present and the time between them.

    The network reads [x, x − h, x ⊙ h, h] and, of the lag, log(1 + seconds) / 20 and a 1; without a clock both are 0.
    Weights are a softmax of its answers over the older events; without older events the sum is 0.

    Source: Zhou et al., "Deep interest network", KDD 2018, section 4.3, as in Wang et al. (T2Diff), WWW 2025, equations
    20 and 21. Difference: there the answers are divided by their sum, which may be 0.

    Args:
        dim: width of events.
        hidden: width of the network's inner layer.
    """

    def __init__(self, *, dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(4 * dim + 2, hidden)
        self.second = nn.Linear(hidden, 1)

    def forward(
        self,
        present: Float[Tensor, "users places dim"],
        events: Float[Tensor, "users length dim"],
        older: Bool[Tensor, "users places length"],
        lags: Int[Tensor, "users places length"] | None,
    ) -> Float[Tensor, "users places dim"]:
        """Return the weighted sum of the older events, for each place."""
        users, places, dim = present.shape
        of_event, of_difference, of_product, of_present, of_lag = self.first.weight.split([dim, dim, dim, dim, 2], 1)
        # The parts of the first layer that know one side alone are computed once a side.
        crossed = (present[:, :, None] * of_product).flatten(1, 2) @ events.mT
        inner = crossed.view(users, places, -1, events.shape[1])
        inner = inner + (events @ (of_event + of_difference).T).mT[:, None]
        inner = inner + (F.linear(present, of_present - of_difference, self.first.bias))[..., None]
        if lags is not None:
            long = lags.abs().to(inner.dtype).log1p() / LONG
            inner = inner + long[:, :, None] * of_lag[:, :1] + of_lag[:, 1:]
        logits = (F.silu(inner) * self.second.weight.T).sum(2) + self.second.bias
        weights = logits.masked_fill(~older, torch.finfo(logits.dtype).min).softmax(-1) * older
        return weights @ events


class MixedAttention(nn.Module):
    """Encode a user from the present session, a prediction of the next item, and the older history.

        h_s = mean(Transformer([session, guess]));  h_l = older history weighed by h_s;  state = FFN([h_l, h_s])

    The session of an event is that event and those before it, ``session`` at most; with a ``gap`` it ends where more
    time has passed between two events. All earlier ones are older history. A clock that goes back counts like one that
    goes forward, in gaps as in lags. The moment that lags are taken to is that of the latest event, since the next
    one's is not known when the model is asked.

    Source: Wang et al. (T2Diff), WWW 2025, equations 19 to 22. Differences: sizes, which the paper does not give, are
    ours; blocks are pre-norm, with learnt vectors for places counted from the guess backwards; a layer norm in the end.

    Args:
        dim: width of events and of states.
        session: events of a session, at most.
        gap: seconds between two events that part sessions; 0: sessions by number alone.
        layers: of the transformer.
        heads: of its attention; must divide ``dim``.
        dropout: share of numbers set to 0 in training.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
    """

    def __init__(
        self,
        *,
        dim: int,
        session: int = 20,
        gap: int = 0,
        layers: int = 1,
        heads: int = 2,
        dropout: float = 0.2,
        feed_forward: int = 1,
    ) -> None:
        super().__init__()
        check_settings(share=dropout, dim=dim, session=session, layers=layers, heads=heads, feed_forward=feed_forward)
        check_heads(dim, heads)
        if gap < 0:
            raise ValueError(f"session_gap must be at least 0 seconds, got {gap}")
        self.session, self.gap, self.dropout = session, gap, dropout
        self.positions = nn.Parameter(torch.randn(session + 1, dim) * dim**-0.5)
        self.blocks = nn.ModuleList(
            SessionBlock(dim=dim, heads=heads, dropout=dropout, feed_forward=feed_forward) for _ in range(layers)
        )
        self.session_norm = nn.LayerNorm(dim)
        self.unit = ActivationUnit(dim=dim)
        self.join = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        guesses: Float[Tensor, "users places dim"] | None,
        places: Int[Tensor, "users places"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users places dim"]:
        """Return the state after each of the given places; nothing behind that place is read.

        Args:
            events: vectors of the items, padded at the end.
            guesses: of the item that follows each asked place; None: the session stands alone.
            places: which are asked.
            times: Unix seconds of the events; None: the log has no clock.

        Raises:
            InputError: if sessions are parted by time and there is no clock.
        """
        users, length, dim = events.shape
        in_session = self._in_session(places, length, times)
        users_at = torch.arange(users, device=events.device)[:, None, None]
        slots = places[:, :, None] + torch.arange(1 - self.session, 1, device=events.device)
        at = slots.clamp(min=0)
        there = (slots >= 0) & in_session.gather(2, at)
        x = events[users_at, at]
        if guesses is not None:
            x = torch.cat([x, guesses[:, :, None]], dim=2)
            there = F.pad(there, (0, 1), value=True)
        x, there = x.flatten(0, 1), there.flatten(0, 1)
        x = dropout(x + self.positions[: x.shape[1]], self.dropout, self.training)
        for block in self.blocks:
            x = block(x, there)
        mean = (self.session_norm(x) * there[:, :, None]).sum(1) / there.sum(1, keepdim=True)
        present = mean.view(users, -1, dim)
        every = torch.arange(length, device=events.device)
        older = (every <= places[:, :, None]) & ~in_session
        lags = None if times is None else times.gather(1, places)[:, :, None] - times[:, None]
        older_sum = self.unit(present, events, older, lags)
        state: Tensor = self.norm(self.join(torch.cat([older_sum, present], dim=-1)))
        return state

    def _in_session(self, places: Tensor, length: int, times: Tensor | None) -> Tensor:
        """Which events are in the session of each asked place: [users, places, length]."""
        every = torch.arange(length, device=places.device)
        recent = (every <= places[:, :, None]) & (every > places[:, :, None] - self.session)
        if not self.gap:
            return recent
        if times is None:
            raise InputError(
                f"sessions parted by a gap of {self.gap} seconds need times, and this log has none: "
                "set model.session_gap = 0 (sessions by number of events)"
            )
        parted = F.pad((times.diff(dim=1).abs() > self.gap).cumsum(1), (1, 0))
        return recent & (parted[:, None] == parted.gather(1, places)[:, :, None])
