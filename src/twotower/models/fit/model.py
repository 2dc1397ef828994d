"""FIT (fully interacted two-tower): early interaction by learned queries, late interaction by a small scorer.

The user tower is conditioned on a few learned item-cluster queries; a small MLP scores the head-by-head similarities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError, unknown_name
from twotower.core.records import FIRST_KNOWN, PADDING, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.models.fit.ready import Ready
from twotower.models.fit.states import (
    FITCompactItems,
    FITItems,
    FITStore,
    PairedHeads,
    check_head_shape,
    checked_users,
    smallest_index,
    whole_heads,
)
from twotower.models.fit.tables import served_heads, user_tables
from twotower.models.fit.units import build_unit, check_unit
from twotower.models.prerank.base import checked_history_length
from twotower.scorers.heads import head_scorer, row_similarities
from twotower.scorers.temperature import Temperature
from twotower.scorers.tiles import in_tiles
from twotower.towers.fc_stack import FCStack
from twotower.towers.fields import ItemFields, UserFields
from twotower.towers.heads import Heads, checked_head_dim
from twotower.towers.interaction.base import InteractionUnit, PairwiseUnit
from twotower.towers.interaction.meta_query import MetaQueries

QUERY_TRAINING = ("annealed", "soft", "hard")
LOWEST_TEMPERATURE = 0.001


class FIT(Model):
    """Score by a learnable fully interacted two-tower model: meta queries and a lightweight similarity scorer.

    An item is an index of a hard query and a few heads; a user is one set of heads for each hard query. A pair is
    scored by the set that the item's index names. In training, row i's user sees the soft query of row i's item, so
    its state belongs to that pair alone: FIT learns from labelled rows, by a pointwise loss.

    Source: Xiong et al., SIGIR 2025. Differences: `parameter_free_attention` is scaled and `LSS` has shapes that fit
    (see there); history items carry all their features, as the query does; heads may be normalised and a temperature
    may scale the score; no batch normalisation is asked to see padded places.

    Args:
        dim: numbers stored an item: ``item_heads`` of dim / item_heads.
        field_dim: width of one field's embedding.
        hidden: widths of the layers of each tower, before the heads.
        meta_queries: N, at most the number of known items; 0 leaves the module out and averages the history.
        self_attention: whether hard queries are the meta matrix after parameter-free attention.
        scaled_attention: whether that attention is scaled (`parameter_free_attention`); False: equation 5 as printed.
        item_std: standard deviation of the vectors of items and their features when training starts; 0: 1 /
            sqrt(field_dim).
        query_training: "annealed": soft queries, their temperature falling from 1 to 0.001 over the first epoch
            (equation 23, see `set_progress`); "soft": at temperature 1 throughout; "hard": as in serving.
        query_balance: weight of a loss that keeps the queries in use (`MetaQueries.imbalance`); 0: as published, where
            most items may come to share one query.
        interaction: "din", "target_attention", "dien" or "deepfm".
        scorer: "lss", "sum_max", "flat_fc" or "dot" (one head a side).
        user_heads: H_u, as wide as the item's.
        item_heads: H_v.
        scorer_dim: width of the layers of "lss" and "flat_fc".
        normalise_heads: whether heads have length 1, so that their similarities are cosines.
        temperature: scores are divided by it.
        learn_temperature: whether training moves it.
        user_id: whether the user tower has an embedding of the user's id.
        history_length: latest items of the history that are read.
        batch_norm: whether each layer is normalised over the batch.
        dropout: share of hidden numbers set to 0 in training.

    Raises:
        InputError: if there are more meta queries than items, heads do not divide ``dim``, a name is unknown, or
            ``query_balance`` or ``item_std`` is negative.
    """

    has_vectors = False
    inner_product = False
    recipe = "pre_ranking"
    no_onnx = (
        "its user pass works by whole numbers of users and queries, which leaves no free number of users in a graph"
    )
    item_store = FITStore()
    query_temperature: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 128,
        field_dim: int = 16,
        hidden: Sequence[int] = (300, 300, 128),
        meta_queries: int = 64,
        self_attention: bool = True,
        scaled_attention: bool = True,
        item_std: float = 0.0,
        query_training: str = "annealed",
        query_balance: float = 0.0,
        interaction: str = "din",
        scorer: str = "lss",
        user_heads: int = 2,
        item_heads: int = 2,
        scorer_dim: int = 16,
        normalise_heads: bool = True,
        temperature: float = 1.0,
        learn_temperature: bool = True,
        user_id: bool = False,
        history_length: int = 50,
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if query_training not in QUERY_TRAINING:
            raise unknown_name("query_training", query_training, QUERY_TRAINING)
        check_unit(interaction)
        if not query_balance >= 0.0:
            raise InputError(f"query_balance must be at least 0, got {query_balance}")
        head_dim = checked_head_dim(dim, user_heads, item_heads)
        known = schema.num_items - FIRST_KNOWN
        if not 0 <= meta_queries <= known:
            raise InputError(f"meta_queries = {meta_queries}: there are {known} items; take between 0 and that many")
        self.schema = schema
        self.history_length = checked_history_length(history_length)
        self.query_training = query_training
        self.query_balance = query_balance
        self.row_by_row = not query_balance
        if not item_std >= 0.0:
            raise InputError(f"item_std must be at least 0, got {item_std}")
        self.item_fields = ItemFields(schema, dim=field_dim, std=item_std or None)
        self.user_fields = UserFields(schema, dim=field_dim, user_id=user_id)
        self.meta: MetaQueries | None = None
        self.unit: InteractionUnit | None = None
        width = self.item_fields.width
        widths = [self.user_fields.width, width]
        if meta_queries:
            self.meta = MetaQueries(
                count=meta_queries, dim=width, self_attention=self_attention, scaled=scaled_attention
            )
            self.unit = build_unit(interaction, self.item_fields)
            widths = [self.user_fields.width, self.unit.width, width]
        self.input_widths = widths
        self.user_stack = FCStack(sum(widths), hidden, batch_norm=batch_norm, dropout=dropout)
        self.item_stack = FCStack(width, hidden, batch_norm=batch_norm, dropout=dropout)
        self.user_heads = Heads(hidden[-1], heads=user_heads, dim=head_dim, normalise=normalise_heads)
        self.item_heads = Heads(hidden[-1], heads=item_heads, dim=head_dim, normalise=normalise_heads)
        self.head_shape = (item_heads, head_dim)
        self.scorer = head_scorer(scorer, user_heads=user_heads, item_heads=item_heads, hidden=scorer_dim)
        self.temperature = Temperature(temperature, learnable=learn_temperature)
        self.register_buffer("query_temperature", torch.tensor(1.0))
        self.item_store = FITStore(self.head_shape, len(self.meta.meta) if self.meta else 1)
        self._ready = Ready()

    def attach_items(self, items: Items) -> None:
        """Keep the features of all items for those of a history; needed once, before training."""
        self._forget()
        self.item_fields.attach(items)

    def set_progress(self, epochs: float) -> None:
        """Set the soft query's temperature: max(min(1, 1 − epochs), 0.001), ``epochs`` being steps / steps an epoch.

        Source: equation 23.
        """
        if self.query_training == "annealed":
            self.query_temperature.fill_(max(min(1.0, 1.0 - epochs), LOWEST_TEMPERATURE))

    @property
    def selectable(self) -> bool:
        """Return whether the current weights were trained as they will be served.

        Before the temperature has fallen the soft query is far from the hard one, so a best checkpoint chosen there
        would be one that never saw the regime it is used in.
        """
        if self.meta is None or self.query_training != "annealed":
            return True
        return bool(self.query_temperature <= LOWEST_TEMPERATURE * 1.001)

    @property
    def prepared(self) -> Ready:
        """Return what serves requests; another object after every change."""
        return self._ready

    def encode_users(self, users: Users) -> Float[Tensor, "users queries heads dim"]:
        """Return one set of heads for each hard query, in one pass that computes shared parts once."""
        if self._ready.tables is not None:
            served = self._ready.user_pass if self._ready.user_pass and len(users.ids) == 1 else served_heads
            return served(self, self._ready.tables, users)
        if self.unit is not None and not self.training and users.history.numel() >= self.schema.num_items:
            return served_heads(self, user_tables(self), users)
        if self.meta is None or self.unit is None:
            return self._mean_heads(users)
        queries = self.meta.hard()
        history, present = self.item_fields.of_history(users.history), users.history != PADDING
        interest = self.unit.shared(queries, history, present)
        return self._user_heads([self.user_fields(users).flatten(1)[:, None], interest, queries[None]])

    def encode_items(self, items: Items) -> FITItems:
        """Return the index of the nearest hard query, and the heads."""
        return self._encode_fields(self._item_fields(items))

    def forward(self, batch: Batch) -> Encoded:
        """Encode each row's user for its own row's item: by the soft query in training, by the hard one otherwise."""
        fields = self._item_fields(batch.items)
        items = self._encode_fields(fields)
        if self.meta is None or self.unit is None:
            return Encoded(self._mean_heads(batch.users), items, batch.items.ids, {})
        query = self._query(self.meta, fields)
        interest = self._interest(self.unit, query, batch.users.history)
        heads = self._user_heads([self.user_fields(batch.users).flatten(1), interest, query])
        losses = {}
        if self.training and self.query_balance:
            losses["query_balance"] = self.query_balance * self.meta.imbalance(fields)
        return Encoded(PairedHeads(heads), items, batch.items.ids, losses)

    def score(
        self, users: Float[Tensor, "users queries heads dim"], items: FITItems | FITCompactItems
    ) -> Float[Tensor, "users items"]:
        """Score every user with every item, each by the user's heads under the item's query.

        Raises:
            InputError: if the states are another model's, or were made for single pairs in training.
        """
        check_head_shape(items, self.head_shape)
        return in_tiles(self._score_tile, checked_users(users), items)

    def score_among(
        self,
        users: Float[Tensor, "users queries heads dim"],
        items: FITItems | FITCompactItems,
        ids: Int[Tensor, " candidates"],
    ) -> Float[Tensor, "users candidates"]:
        """Score every user with the items of rows ``ids``.

        Compiled, a single user's candidates are read where they lie.

        Raises:
            InputError: as in `score`; compiled on a CPU, also if an id is not a row of the states.
        """
        check_head_shape(items, self.head_shape)
        users = checked_users(users)
        under_autocast = users.dtype != self.query_temperature.dtype
        if self._ready.scores is None or len(users) != 1 or torch.is_grad_enabled() or under_autocast:
            return super().score_among(users, items, ids)
        step = items.step if isinstance(items, FITCompactItems) else None
        return self._ready.scores(users[0], ids, items.query_index, items.heads, step)[None]

    def score_rows(
        self, users: PairedHeads | Float[Tensor, "rows queries heads dim"], items: FITItems | FITCompactItems
    ) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items; users encoded for their pair score that item alone."""
        check_head_shape(items, self.head_shape)
        if isinstance(users, PairedHeads) and items.query_index.ndim == 1:
            return self.scorer.pairs(users.heads, whole_heads(items, users.heads.dtype))
        users = checked_users(users)
        index = items.query_index.long()
        row = torch.arange(len(users), device=users.device)
        chosen = users[row.view(-1, *[1] * (index.ndim - 1)), index]
        return self.scorer.reduction(row_similarities(chosen, whole_heads(items, users.dtype)))

    def score_pairs(self, batch: Batch) -> Float[Tensor, " rows"]:
        """Score row i's user with row i's item: one pass of the user tower a row, not one a query."""
        encoded = self(batch)
        return self.score_rows(encoded.users, encoded.items)

    def logit_scale(self) -> Tensor:
        """Return 1 / temperature."""
        return self.temperature.scale()

    def prepare_serving(self) -> None:
        """Compute now what `encode_users` needs and no request changes; what was compiled is compiled again.

        `train`, `load_state_dict`, `to` and `attach_items` drop it. Weights that are changed in place, or by the
        ``load_state_dict`` of a part, are not noticed: call it again.
        """
        self.eval()
        compiled, self._ready = self._ready.scores is not None, Ready()
        with torch.no_grad():
            self._ready = Ready(user_tables(self))
        if compiled:
            self.compile_scoring()

    def compile_scoring(self) -> None:
        """Compile a single user's request: the scores, and on a GPU, after `prepare_serving`, the user's pass too.

        Needs a C compiler on the CPU (a tenth of a second) and Triton on a GPU (seconds, in the first request of each
        number of candidates). Dropped as what `prepare_serving` makes. Requests with gradients do not use it.

        Raises:
            InputError: if the scorer is not "lss", the model is on another kind of device, or on a CPU the C compiler
                is missing or fails.
        """
        self.eval()
        self._ready = self._ready.compiled(self.scorer, self.head_shape[1], self.query_temperature.device)

    def train(self, mode: bool = True) -> FIT:
        """Switch to training mode; drops what `prepare_serving` made."""
        if mode:
            self._forget()
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._forget()  # called for this model alone and as a part of another
        super()._load_from_state_dict(*arguments, **options)

    def _apply(self, *arguments: Any, **options: Any) -> FIT:
        self._forget()  # it would stay on the old device
        return super()._apply(*arguments, **options)

    def _forget(self) -> None:
        self._ready = Ready()

    def _item_fields(self, items: Items) -> Float[Tensor, "items width"]:
        return self.item_fields.of_ids(items.ids) if items.features is None else self.item_fields(items).flatten(1)

    def _encode_fields(self, fields: Tensor) -> FITItems:
        heads = self.item_heads(self.item_stack(fields))
        if self.meta is None:
            return FITItems(torch.zeros(len(fields), dtype=torch.uint8, device=fields.device), heads)
        return FITItems(smallest_index(self.meta.index(fields.detach()), len(self.meta.meta)), heads)

    def _query(self, meta: MetaQueries, fields: Tensor) -> Float[Tensor, "rows width"]:
        if self.training and self.query_training != "hard":
            return meta.soft(fields, self.query_temperature)
        # Most rows may choose one query: indexing's gradient on a GPU adds those up one after another.
        return F.embedding(meta.index(fields), meta.hard())

    def _interest(self, unit: InteractionUnit, queries: Tensor, history: Tensor) -> Float[Tensor, "rows width"]:
        if isinstance(unit, PairwiseUnit):
            keys, place = self.item_fields.of_present(history)
            return unit.packed(queries, keys, place, history.shape[1])
        return unit(queries, self.item_fields.of_history(history), history != PADDING)

    def _mean_heads(self, users: Users) -> Float[Tensor, "users 1 heads dim"]:
        """Without meta queries: one set of heads, from the mean of the history's fields."""
        pooled = self.item_fields.pooled_history(users.history)
        return self._user_heads([self.user_fields(users).flatten(1), pooled.flatten(1)])[:, None]

    def _user_heads(self, parts: list[Tensor]) -> Float[Tensor, "*rows heads dim"]:
        """The user's layers over parts that broadcast against each other: each meets its slice of the first map."""
        hidden = self.user_stack.first_of_parts(parts, self.input_widths)
        return self.user_heads(self.user_stack.after_first(hidden)[-1])

    def _score_tile(self, users: Tensor, items: FITItems | FITCompactItems) -> Tensor:
        heads, index = whole_heads(items, users.dtype), items.query_index.int()
        if len(users) == 1:  # rows of memory in one piece are gathered several times quicker
            return self.scorer.reduction(users[0].index_select(0, index) @ heads.mT)[None]
        return self.scorer.reduction(users.index_select(1, index) @ heads.mT)
