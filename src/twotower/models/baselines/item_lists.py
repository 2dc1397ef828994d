"""Item-to-item lists counted from the log: items that occur near those of the history, without learning."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import ClosedForm
from twotower.ops.topk import top_k

BLOCK = 1 << 24
"""Numbers held at a time while lists are cut."""


class ItemLists(ClosedForm):
    """Score item j by Σ decay^age · list_i(j) over the latest events i of the history, the latest of age 0.

        list_i(j) = n_ij / (sqrt(n_i n_j) + shrink),  n_ij = Σ 1 / d over pairs at most ``window`` events apart

    d is the distance of a pair, n_i how many events item i has. With ``ahead`` a pair counts for the earlier item
    alone, so that its list holds what came after it; with ``flat`` every pair within the window counts 1. Each list
    keeps its ``longest`` best (equal: the lower
    id). Users without a history score every item 0. Ours, as a yardstick: item-to-item counts as in Linden et al.,
    "Amazon.com recommendations", IEEE Internet Computing 2003, within a window and in the order of time.

    Args:
        window: events on either side that count as near.
        decay: weight of an event against the one after it.
        longest: items of a list, at most.
        history_length: latest events of the history that are read.
        shrink: added to the denominator, in events: makes values that rest on few events smaller.
        ahead: whether only what follows an item counts for it, and not what precedes it.
        flat: whether a pair counts 1 at any distance within the window, and not 1 / d.
    """

    has_vectors = False
    inner_product = False
    no_onnx = "its user state is the history itself, scored by a table of item pairs: there is no tower to encode with"
    listed: Tensor
    values: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        window: int = 10,
        decay: float = 0.8,
        longest: int = 200,
        history_length: int = 20,
        shrink: float = 0.0,
        ahead: bool = False,
        flat: bool = False,
    ) -> None:
        super().__init__()
        if min(window, longest, history_length) < 1 or not (0.0 < decay <= 1.0 and 0.0 <= shrink < float("inf")):
            raise ValueError(
                "window, longest and history_length must be at least 1, decay in (0, 1], and shrink finite and at "
                f"least 0, got {window}, {longest}, {history_length}, {decay} and {shrink}"
            )
        self.schema, self.window, self.decay, self.history_length = schema, window, decay, history_length
        self.shrink, self.ahead, self.flat = shrink, ahead, flat
        width = min(longest, schema.num_items)
        self.register_buffer("listed", torch.zeros(schema.num_items, width, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(schema.num_items, width))

    def fit_log(self, log: Log) -> None:
        """Count pairs, one distance after the other, and keep the best of each item."""
        from scipy.sparse import csr_array

        log = log.positives().to("cpu")
        log = log.select(log.items >= FIRST_KNOWN)
        items, size = log.items.numpy(), self.schema.num_items
        users = np.repeat(np.arange(len(log.offsets) - 1), np.diff(log.offsets.numpy()))
        near = csr_array((size, size), dtype=np.float64)
        for distance in range(1, self.window + 1):
            together = users[distance:] == users[:-distance]
            one, other = items[:-distance][together], items[distance:][together]
            counted = np.full(len(one), 1.0 if self.flat else 1.0 / distance)
            near = near + csr_array((counted, (one, other)), shape=(size, size))
        near = csr_array(near if self.ahead else near + near.T)
        roots = np.sqrt(np.maximum(np.bincount(items, minlength=size), 1))
        step = max(1, BLOCK // size)
        for start in range(0, size, step):
            part = slice(start, min(start + step, size))
            scores = near[part].toarray() / (np.outer(roots[part], roots) + self.shrink)
            scores[np.arange(len(scores)), np.arange(part.start, part.stop)] = 0.0
            table = torch.from_numpy(scores)
            found = top_k(table.masked_fill_(table == 0.0, -torch.inf), self.listed.shape[1])
            self.listed[part] = found.ids.clamp(min=PADDING).to(self.listed)
            self.values[part] = found.scores.clamp(min=0.0).to(self.values)

    def encode_users(self, users: Users) -> Int[Tensor, "rows length"]:
        """Return the latest items of the history, the latest first; 0 where there are none."""
        history = users.history
        lengths = (history != PADDING).sum(1, keepdim=True)
        at = lengths - 1 - torch.arange(self.history_length or 0, device=history.device)
        found = history.gather(1, at.clamp(min=0)) if history.shape[1] else torch.zeros_like(at)
        return torch.where(at >= 0, found, PADDING)

    def encode_items(self, items: Items) -> Int[Tensor, " rows"]:
        """Return the item's id."""
        return items.ids

    def score(self, users: Int[Tensor, "users length"], items: Int[Tensor, " items"]) -> Float[Tensor, "users items"]:
        """Score by the lists of the history, weighted by age and added up where they name one of ``items``."""
        column = torch.full((self.schema.num_items,), len(items), device=items.device)
        column[items] = torch.arange(len(items), device=items.device)
        scores = self.values.new_zeros(len(users), len(items) + 1)
        for age, latest in enumerate(users.unbind(1)):
            scores.scatter_add_(1, column[self.listed[latest]], self.decay**age * self.values[latest])
        return scores[:, : len(items)]

    def score_rows(
        self, users: Int[Tensor, "rows length"], items: Int[Tensor, "rows *chosen"]
    ) -> Float[Tensor, "rows *chosen"]:
        """Score chosen pairs in the same way."""
        chosen = items.reshape(len(items), -1)
        scores = self.values.new_zeros(chosen.shape)
        for age, latest in enumerate(users.unbind(1)):
            listed, values = self.listed[latest], self.decay**age * self.values[latest]
            for column, score in zip(chosen.unbind(1), scores.unbind(1), strict=True):
                score += (values * (listed == column[:, None])).sum(dim=1)
        return scores.view(items.shape)

    def contributions(
        self, history: Int[Tensor, " history"], items: Int[Tensor, " items"]
    ) -> Float[Tensor, "history items"]:
        """Return what each of these events, the latest first, adds to each of ``items``."""
        ages = torch.arange(len(history), device=history.device)
        return self.score(history[:, None], items) * (self.decay**ages)[:, None]
