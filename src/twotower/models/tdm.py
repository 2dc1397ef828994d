"""TDM (tree-based deep model): a tree over the items, whose nodes are scored like items, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import InputError, unknown_name
from twotower.core.records import FIRST_KNOWN, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import Model
from twotower.models.first_items import cooccurrence_vectors
from twotower.ops.balanced_tree import levels_of, nodes_of, order_by_likeness
from twotower.scorers.tiles import in_tiles
from twotower.towers.embedding import FeatureEmbedding
from twotower.towers.node_scorer import NodeScorer, ReadHistory
from twotower.towers.table import DenseTable

FIRST_TREES = ("cooccurrence", "category", "popularity")
NUMBERS = 1 << 22
"""Numbers that a scorer holds at a time outside training: 16 MiB in float32."""
COMPARED = 4096
"""Items whose distances to all nodes are held at a time."""


class TDM(Model):
    """Score items and the nodes of a tree over them by one network that reads the history and the node.

    Items are leaves of a balanced tree. The run's loss and sampling train the leaves; the model adds a loss for every
    level above them: a softmax of the node above the row's item against ``negatives`` others of its level, drawn evenly
    for all rows of a batch. A request goes down the tree by a beam search (the index `tree`), which scores some nodes
    of each level and no others, so that the score may be any network.

    Tree and model are learnt in turn: the first tree comes from the training log, and after every ``round_epochs``
    epochs, ``rounds`` times, a new one from the items' vectors as they then are. A new tree's nodes begin at the mean
    of their items.

    Source: Zhu et al., KDD 2018. Differences: a softmax a level in place of a binary cross-entropy; balanced 2-means
    throughout; the trees are made within one training, which goes on with the moments of the optimiser. Only ids of
    history items are read; items add the mean of their features.

    Args:
        dim: width of items and nodes.
        scorer: "attention" (the paper's), "mlp" or "dot": see `NodeScorer`.
        parts: of the history, by age.
        hidden: widths of the scorer's hidden layers.
        branches: children of a node.
        first_tree: what puts items side by side at first: "cooccurrence" (balanced 2-means of the eigenvectors of
            co-occurrence), "category" (the first categorical feature, then popularity) or "popularity".
        negatives: nodes that are drawn in each level; a level with no more is taken whole.
        node_weight: of the mean loss of the levels above the leaves.
        rounds: trees that are made of learnt vectors.
        round_epochs: epochs before each.
        dropout: share of the numbers of a history's items set to 0 in training.
        history_length: latest items of the history that are read.

    Raises:
        InputError: if there is no categorical feature for a first tree by category.
    """

    has_vectors = False
    inner_product = False
    user_kind = ReadHistory
    no_onnx = "it is answered by a search down its tree, which ONNX Runtime does not make"
    leaf_nodes: Tensor
    rounds_done: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 32,
        scorer: str = "mlp",
        parts: int = 2,
        hidden: Sequence[int] = (32,),
        branches: int = 2,
        first_tree: str = "cooccurrence",
        negatives: int = 16,
        node_weight: float = 1.0,
        rounds: int = 1,
        round_epochs: float = 2.0,
        dropout: float = 0.1,
        history_length: int = 20,
    ) -> None:
        super().__init__()
        if min(dim, negatives, history_length) < 1 or branches < 2:
            raise ValueError("dim, negatives and history_length must be at least 1, branches at least 2")
        if not 0.0 <= node_weight < float("inf") or not 0.0 < round_epochs < float("inf"):
            raise ValueError("node_weight must be finite and at least 0, round_epochs finite and above 0")
        if first_tree not in FIRST_TREES:
            raise unknown_name("model.first_tree", first_tree, FIRST_TREES)
        self.category = next((one.name for one in schema.item_features if one.kind == "categorical"), None)
        if first_tree == "category" and self.category is None:
            raise InputError("model.first_tree = 'category' wants a categorical feature of items; take 'popularity'")
        self.schema, self.history_length = schema, history_length
        self.branches, self.first_tree, self.negatives = branches, first_tree, negatives
        self.node_weight, self.rounds, self.round_epochs = node_weight, rounds, round_epochs
        self.items = max(1, schema.num_items - FIRST_KNOWN)
        self.item_table = DenseTable(schema.num_items, dim)
        self.item_fields = FeatureEmbedding(schema.item_features, dim=dim)
        sizes = [branches**level for level in range(1, levels_of(self.items, branches) + 1)]
        drawn = torch.randn(sum(sizes), dim) * dim**-0.5
        self.node_levels = nn.ParameterList(nn.Parameter(part.clone()) for part in drawn.split(sizes))
        self.scorer = NodeScorer(dim, form=scorer, parts=parts, length=history_length, hidden=hidden, dropout=dropout)
        self.register_buffer("leaf_nodes", torch.full((schema.num_items,), -1))
        self.register_buffer("rounds_done", torch.zeros((), dtype=torch.int64))
        self._categories: Tensor | None = None
        self._checked = 0
        self._plant(torch.arange(self.items))

    @property
    def levels(self) -> int:
        """Return how many levels of nodes there are between the root and the items."""
        return len(self.node_levels)

    @property
    def node_table(self) -> Float[Tensor, "nodes dim"]:
        """Return the vectors of all nodes, level by level."""
        return torch.cat(list(self.node_levels))

    def encode_users(self, users: Users) -> ReadHistory:
        """Return the latest items of each user's history as the scorer reads them."""
        return self.scorer.read(self.item_table, users.history)

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return the leaf of each item: its id's vector and the mean of its features'."""
        vectors = self.item_table(items.ids)
        if self.item_fields.features and items.features is not None:
            vectors = vectors + self.item_fields(items.features).mean(1)
        return vectors

    def forward(self, batch: Batch) -> Encoded:
        """Encode users and items, and compute the loss of the levels above the leaves."""
        items = None if batch.items.features is None else self.encode_items(batch.items)
        users = self.encode_users(batch.users)
        loss = self.node_weight * self.node_loss(users, batch.items.ids)
        return Encoded(users, items, batch.items.ids, {"nodes": loss})

    def score(self, users: ReadHistory, items: Float[Tensor, "items dim"]) -> Float[Tensor, "users items"]:
        """Score every user with every item, or node."""
        if self.training:
            return self.scorer(users, items[None])
        pairs = max(1, NUMBERS // self.scorer.numbers)
        return in_tiles(lambda some, others: self.scorer(some, others[None]), users, items, pairs=pairs)

    def score_rows(self, users: ReadHistory, items: Float[Tensor, "rows *n dim"]) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items or nodes."""
        return self.scorer(users, items) if items.ndim == 3 else self.scorer(users, items[:, None])[:, 0]

    def node_loss(self, users: ReadHistory, ids: Int[Tensor, " rows"]) -> Tensor:
        """Return the mean over rows and levels of −log softmax of the node above the row's item, in nats.

        A node that was drawn counts for as many as its level has for each draw; the row's own never counts as another.
        """
        drawn, own, log_weight, level_of = self.draw(ids)
        table = self.node_table
        ours = self.scorer(users, table[own.clamp(min=0)])
        others = self.scorer(users, table[drawn][None]) + log_weight
        losses = []
        for level in range(self.levels):
            part = level_of == level
            one = ours[:, level : level + 1]
            rest = others[:, part].masked_fill(drawn[part] == own[:, level : level + 1], -torch.inf)
            losses.append(torch.cat([one, rest], dim=1).logsumexp(1) - one[:, 0])
        placed = (own[:, 0] >= 0).to(ours.dtype)
        return (torch.stack(losses).mean(0) * placed).sum() / placed.sum().clamp(min=1.0)

    def draw(self, ids: Int[Tensor, " rows"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw nodes of every level for a batch whose rows have items ``ids``.

        Returns:
            The rows of the node table that are drawn, int64 [drawn]; those above each row's item, [rows, levels], -1
            for an item that has no place; the log of how many nodes each drawn one counts for, and its level - 1.
        """
        last, own, drawn, weights, levels = self.leaf_nodes[ids], [], [], [], []
        starts = [0, *accumulate(len(nodes) for nodes in self.node_levels)]
        for level in range(1, self.levels + 1):
            first, size = starts[level - 1], self.branches**level
            above = first + last // self.branches ** (self.levels - level)
            own.append(torch.where(last >= 0, above, -1))
            number = min(size, self.negatives)
            one = torch.arange(size) if number == size else torch.randint(size, (number,), device=ids.device)
            drawn.append(first + one.to(ids.device))
            weights.append(self.node_levels[0].new_full((number,), size / number).log())
            levels.append(torch.full((number,), level - 1, device=ids.device))
        return torch.cat(drawn), torch.stack(own, dim=1), torch.cat(weights), torch.cat(levels)

    def node_states(self, level: int) -> Float[Tensor, "nodes dim"]:
        """Return the vectors of the nodes of a level, from 1 below the root."""
        nodes: Tensor = self.node_levels[level - 1]
        return nodes

    def nodes_above(self, ids: Int[Tensor, " items"], states: Float[Tensor, "items dim"]) -> Int[Tensor, " items"]:
        """Return the node of the last level above each item; of an item without a place, the nearest by its vector."""
        known = ids < len(self.leaf_nodes)
        found = self.leaf_nodes[torch.where(known, ids, 0)].masked_fill(~known, -1)
        new, nodes = (found < 0).nonzero()[:, 0], self.node_states(self.levels)
        for part in new.split(COMPARED):
            found[part] = torch.cdist(states[part].to(nodes.dtype), nodes).argmin(1)
        return found

    def attach_items(self, items: Items) -> None:
        """Keep the category of each item, for a first tree by category."""
        if self.category is not None and items.features is not None:
            self._categories = items.features[self.category]

    @torch.no_grad()
    def start_from(self, log: Log) -> None:
        """Take the first tree from the training log."""
        events = log.items.bincount(minlength=self.schema.num_items)[FIRST_KNOWN:]
        if self.first_tree == "cooccurrence":
            vectors = cooccurrence_vectors(log, self.schema.num_items, self.item_table.dim)
            self._plant(order_by_likeness(vectors[FIRST_KNOWN:], torch.Generator().manual_seed(0)))
            return
        order = events.argsort(descending=True, stable=True)
        if self.first_tree == "category":
            assert self._categories is not None, "handed over before training"
            order = order[self._categories[FIRST_KNOWN:].to(order.device)[order].argsort(stable=True)]
        self._plant(order)

    def set_progress(self, epochs: float) -> None:
        """Follow training: make a new tree of the items' vectors when a round is over."""
        due = min(self.rounds, int(epochs / self.round_epochs))
        if due > self._checked:
            if due > int(self.rounds_done):
                self.new_tree(due)
            self._checked = due

    @property
    def selectable(self) -> bool:
        """Return True: every tree may be served."""
        return True

    @torch.no_grad()
    def new_tree(self, number: int) -> None:
        """Make tree ``number`` by clustering the items' vectors; its nodes begin at the mean of their items."""
        vectors = self.item_table.whole().detach()[FIRST_KNOWN:]
        generator = torch.Generator(vectors.device).manual_seed(number)
        self._plant(order_by_likeness(vectors, generator))
        self.rounds_done.fill_(number)
        last = self.leaf_nodes[FIRST_KNOWN:]
        for level in range(1, self.levels + 1):
            nodes = last // self.branches ** (self.levels - level)
            size = self.branches**level
            sums = vectors.new_zeros(size, vectors.shape[1]).index_add_(0, nodes, vectors)
            counts = nodes.bincount(minlength=size)
            there = counts > 0
            self.node_states(level)[there] = sums[there] / counts[there, None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Take as many levels as the weights have: a catalogue that grew keeps its tree, with more items a node."""
        found = sum(key.startswith(f"{prefix}node_levels.") for key in state_dict)
        if found and found != self.levels:
            dim = self.item_table.dim
            self.node_levels = nn.ParameterList(
                nn.Parameter(self.node_levels[0].new_zeros(self.branches**level, dim)) for level in range(1, found + 1)
            )
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _plant(self, order: Tensor) -> None:
        """Lay the known items out in this order."""
        nodes = nodes_of(order, self.branches, self.levels)
        self.leaf_nodes[FIRST_KNOWN:] = nodes[: len(self.leaf_nodes) - FIRST_KNOWN].to(self.leaf_nodes)
