"""SparCode: users as few learned codes, so that every code has a list of its best items."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.errors import InputError, unknown_name
from twotower.core.records import FIRST_KNOWN, PADDING, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.index.model_lists import weights_key
from twotower.models.base import Model
from twotower.scorers.tiles import in_tiles
from twotower.towers.codes.fields_first import FieldsFirst
from twotower.towers.codes.gate import Gate
from twotower.towers.codes.item_vectors import check_item_id, item_vectors
from twotower.towers.codes.quantiser import CodeUse, Quantiser
from twotower.towers.codes.scorers import build_token_scorer
from twotower.towers.codes.tokenizers import Tokenizer
from twotower.towers.embedding import FeatureEmbedding
from twotower.towers.heads import Heads
from twotower.towers.table import DenseTable

log = logging.getLogger(__name__)

FORMS = ("quantised", "gate", "none")
ACTIVATIONS = {"softplus": F.softplus, "relu": torch.relu}
DEAD = 0.05
"""Scores that are all below this tell no item from another: a softplus of less than -3, or a ReLU of nothing."""
DEAD_AFTER = 20
"""Steps with such scores alone after which training says so and raises b."""
LOOK_EVERY = 5
"""Steps between two looks at the scores, each of which waits for the device."""
REVIVALS = 5
"""Times that b is raised in a training, at most."""
LISTED = ("coder.centres", "coder.vectors", "coder.offsets")
"""Weights of codes that their lists depend on."""
PAIRS = 1 << 21
"""Numbers of products of tokens and items that are held at a time in serving: 8 MiB in float32."""


class Coded(NamedTuple):
    """Hold users: vectors [rows, tokens, dim], weights, offsets and list numbers [rows, tokens] (-1: no code)."""

    vectors: Tensor
    weights: Tensor
    offsets: Tensor
    codes: Tensor


class SparCode(Model):
    """Score by Σ_k w_k act(S(token_k, item) + b_k), where tokens are codes, so that scores can be listed beforehand.

    Trained by the full softmax, or where S is a network by a sampled one. For ``warm_up`` epochs the tokens pass
    unquantised; then codes start at k-means centres of a batch. Only what comes after is kept as the best checkpoint.
    Codes of tokens that have not learnt yet recover slowly, the gate's hardly: warm up until validation has nearly
    stopped rising. The gate warms up without the activation, as a two-tower.

    Where all scores have been 0 for a while, no gradient is left; training says so and raises b.

    Source: Su et al., "Beyond two-tower matching", SIGIR 2023. Differences: straight-through gradient (the printed
    stop-gradient is ``gradient = "stop_gradient"``), softplus instead of ReLU by default, commitment as a mean, k-means
    start and revival of dead codes; the gate is ours. Only ids of history items are read; items add their features, and
    users theirs with ``user_features``.

    Args:
        dim: width of tokens and items.
        item_id: whether an item that is scored has a vector of its own; without, it is its features alone. Histories
            are read by ids in any case.
        tokens: K_u, tokens of a user; the gate has ``chosen`` codes instead.
        item_tokens: K_c, tokens of an item.
        tokenizer: "dnn", "gru", "self_attention" or "capsule" (dynamic routing; it has no heads).
        heads: "linear" or "senet".
        codes: "quantised"; "gate" (the ``chosen`` codes with the largest softmax weights); "none": tokens as they are.
        codebook: N, codes of a codebook, or of the gate.
        books: M, parts of a token, each with a codebook.
        chosen: codes of a user under the gate.
        scorer: "dot", "max_sim", "cross_net", "dnn" or "inner_pdnn" (equation 9).
        hidden: widths of the hidden layers of "dnn" and "inner_pdnn".
        cosine: put tokens, codes of the gate and items on the unit sphere, as twins with a cosine do: S of "dot" is a
            sum of cosines then.
        temperature: S is divided by it, in serving too, since the activation comes after.
        activation: "softplus" or "relu".
        bias: b at the start.
        commitment: weight of the commitment loss.
        gradient: "straight_through" or "stop_gradient".
        update: "ema" or "gradient".
        warm_up: epochs without codes; a third to a half of the training.
        layers: of the tokenizer.
        dropout: share of numbers set to 0 in training.
        history_length: latest items of the history that are read.
        user_features: whether the tokenizer reads the user's features, as events before those of the history.
        feature_dropout: share of these features, each by itself, that are missing in training.
    """

    has_vectors = False
    inner_product = False
    user_kind = Coded
    no_onnx = "its codes are answered from posting lists, which ONNX Runtime does not search"

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 64,
        item_id: bool = True,
        tokens: int = 4,
        item_tokens: int = 1,
        tokenizer: str = "self_attention",
        heads: str = "linear",
        codes: str = "quantised",
        codebook: int = 256,
        books: int = 1,
        chosen: int = 8,
        scorer: str = "dot",
        hidden: Sequence[int] = (128, 64),
        cosine: bool = False,
        temperature: float = 1.0,
        activation: str = "softplus",
        bias: float = 0.0,
        commitment: float = 0.25,
        gradient: str = "straight_through",
        update: str = "ema",
        warm_up: float = 1.0,
        layers: int = 2,
        dropout: float = 0.1,
        history_length: int = 20,
        user_features: bool = False,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(dim, tokens, item_tokens, history_length) < 1 or min(warm_up, commitment) < 0.0:
            raise ValueError("dim, tokens, item_tokens and history_length must be at least 1, the others at least 0")
        if not 0.0 < temperature < math.inf:
            raise ValueError("temperature must be positive and finite")
        for what, name, known in (("codes", codes, FORMS), ("activation", activation, tuple(ACTIVATIONS))):
            if name not in known:
                raise unknown_name(f"model.{what}", name, known)
        users = schema.num_users - FIRST_KNOWN
        if codes != "none" and codebook > users:
            raise InputError(f"model.codebook = {codebook} codes for {users} users; lower it")
        self.schema, self.history_length = schema, history_length
        self.form, self.commitment, self.warm_up = codes, commitment, warm_up
        self.cosine, self.temperature = cosine, temperature
        self._activate = ACTIVATIONS[activation]
        self.item_id = check_item_id(schema, item_id)
        self.item_table = DenseTable(schema.num_items, dim)
        self.item_fields = FeatureEmbedding(schema.item_features, dim=dim)
        self.first = FieldsFirst(schema.user_features if user_features else (), dim=dim, dropout=feature_dropout)
        self.item_heads = Heads(dim, heads=item_tokens, dim=dim) if item_tokens > 1 else None
        self.tokenizer = Tokenizer(
            tokenizer,
            dim=dim,
            tokens=1 if codes == "gate" else tokens,
            length=history_length + self.first.count,
            heads=heads,
            layers=layers,
            dropout=dropout,
        )
        self.coder: Gate | Quantiser | None = None
        if codes == "gate":
            self.coder = Gate(dim, codes=codebook, chosen=chosen)
        elif codes == "quantised":
            self.coder = Quantiser(dim, tokens=tokens, codes=codebook, books=books, gradient=gradient, update=update)
        self.scorer = build_token_scorer(scorer, dim, item_tokens, hidden)
        per_token = self.scorer.numbers
        self._per_pair = per_token if per_token == 1 else tokens * per_token
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self._epochs, self._step, self._looked, self._dead, self._revived = 0.0, 0, 0, 0, 0

    def encode_users(self, users: Users) -> Coded:
        """Return the codes of each user."""
        return self._code(users)[0]

    def encode_items(self, items: Items) -> Float[Tensor, "rows item_tokens dim"]:
        """Return the tokens of each item: its id's vector and the mean of its features'; several by heads."""
        vectors = item_vectors(items, self.item_table, self.item_fields, item_id=self.item_id)
        return self._on_sphere(vectors[:, None] if self.item_heads is None else self.item_heads(vectors))

    def forward(self, batch: Batch) -> Encoded:
        """Encode users and items, and compute the losses of the codes."""
        items = None if batch.items.features is None else self.encode_items(batch.items)
        users, losses = self._code(batch.users)
        return Encoded(users, items, batch.items.ids, losses)

    def score(self, users: Coded, items: Float[Tensor, "items item_tokens dim"]) -> Float[Tensor, "users items"]:
        """Score every user with every item."""
        if self.training or self._per_pair == 1:
            return self._watched(users, items[None])
        return in_tiles(
            lambda some, others: self._joined(some, others[None]), users, items, pairs=max(1, PAIRS // self._per_pair)
        )

    def score_rows(self, users: Coded, items: Float[Tensor, "rows *n item_tokens dim"]) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items."""
        return self._joined(users, items) if items.ndim == 4 else self._joined(users, items[:, None])[:, 0]

    def list_scores(self, codes: Tensor, items: Tensor) -> Tensor:
        """Return the scores of lists ``codes`` (int64 [lists]) with items [items, …].

        `encode_users` gives the numbers of lists.

        Raises:
            InputError: if the model has no lists, or there is no such list.
        """
        vectors, offsets = self._lists(codes)
        ones = torch.ones_like(offsets)[:, None]
        return self.score(Coded(vectors[:, None], ones, offsets[:, None], codes[:, None]), items)

    def lists_key(self) -> str:
        """Return a text that changes with the weights that `list_scores` reads beside items."""
        weights: dict[str, Tensor] = self.state_dict()
        read = [name for name in weights if name == "bias" or name.startswith(("scorer.", *LISTED))]
        return weights_key(f"{self.form} {self.temperature} {self.cosine}", ((name, weights[name]) for name in read))

    @property
    def has_lists(self) -> bool:
        """Return whether a user is turned into codes, each of which can have a list."""
        return self.coder is not None

    @property
    def num_lists(self) -> int:
        """Return how many lists there are: one a code. With M codebooks of N a token has N^M codes.

        Raises:
            InputError: if there are no codes, or too many to be numbered.
        """
        if isinstance(self.coder, Gate):
            return self.coder.codes
        if self.coder is None:
            raise InputError("sparcode: lists are of codes = 'gate' or 'quantised', and this model has none")
        number = self.coder.tokens * self.coder.codes**self.coder.books
        if number >= 1 << 62:
            raise InputError(
                f"sparcode: {self.coder.books} books of {self.coder.codes} codes are too many combinations to have "
                "lists; lower model.books or model.codebook"
            )
        return number

    @property
    def scores_all(self) -> bool:
        """Return whether the full softmax can train it: with sums of dot products, not with a network for each pair."""
        return self._per_pair == 1

    def code_use(self) -> CodeUse | None:
        """Return how codes were used in training since the last call; None without codes, or before they started."""
        return self.coder.use() if self.coder is not None and self.coder.begun else None

    def set_progress(self, epochs: float) -> None:
        """Follow training, so that codes start after the warm-up and scores are looked at once in some steps."""
        self._epochs, self._step = epochs, self._step + 1

    @property
    def selectable(self) -> bool:
        """Return False until codes have started."""
        return self.coder is None or self.coder.begun

    def _code(self, users: Users) -> tuple[Coded, dict[str, Tensor]]:
        history = users.history[:, : self.history_length]
        events, lengths = self.first(users.features, self.item_table(history), (history != PADDING).sum(1))
        tokens = self._on_sphere(self.tokenizer(events, lengths))
        coder = self.coder
        if self.training and self._epochs >= self.warm_up and coder is not None and not coder.begun:
            self._start(tokens[lengths > 0])
        if isinstance(coder, Gate):
            if not coder.begun:
                return self._as_they_are(tokens), {}
            found = coder(tokens[:, 0])
            vectors = self._on_sphere(found.vectors) / self.temperature
            return Coded(vectors, found.weights, found.offsets + self.bias, found.codes), {}
        if coder is None:
            return self._as_they_are(tokens), {}
        # As S reads them, so that the commitment has the same scale at every temperature.
        quantised = coder(tokens / self.temperature)
        state = self._as_they_are(quantised.vectors * self.temperature)
        if coder.begun:
            state = state._replace(codes=coder.numbers(quantised.codes))
        weights = {"commitment": self.commitment, "codebook": 1.0}
        return state, {name: weights[name] * loss for name, loss in quantised.losses.items()}

    def _start(self, tokens: Tensor) -> None:
        if not len(tokens):
            return
        if isinstance(self.coder, Gate):
            self.coder.start(tokens[:, 0], temperature=self.temperature)
        elif isinstance(self.coder, Quantiser):
            self.coder.start(tokens / self.temperature)

    def _on_sphere(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    def _as_they_are(self, tokens: Tensor) -> Coded:
        shape = tokens.shape[:2]
        none = torch.full(shape, -1, dtype=torch.int64, device=tokens.device)
        return Coded(tokens / self.temperature, tokens.new_ones(shape), self.bias.expand(shape), none)

    def _lists(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        if len(codes) and int(codes.max()) >= self.num_lists:
            raise InputError(f"sparcode: list {int(codes.max())} of {self.num_lists}")
        if isinstance(self.coder, Gate):
            vectors, offsets = self.coder.code_rows(codes)
            return self._on_sphere(vectors) / self.temperature, offsets + self.bias
        assert isinstance(self.coder, Quantiser)
        return self.coder.vectors(codes), self.bias.expand(len(codes))

    def _joined(self, users: Coded, items: Tensor) -> Tensor:
        """Users with the items of their row: [users, n]; one row of items stands for all users."""
        scores = self._plain(users, items)
        if not (isinstance(self.coder, Gate) and not self.coder.begun):
            scores = self._activate(scores)
        return (users.weights[:, None] @ scores)[:, 0]

    def _plain(self, users: Coded, items: Tensor) -> Tensor:
        """S + b of each token: [users, tokens, n]."""
        scores: Tensor = self.scorer(users.vectors, items) + users.offsets[:, :, None]
        return scores

    def _watched(self, users: Coded, items: Tensor) -> Tensor:
        """The scores; where training has seen nothing but 0 for a while, b is raised until the best of them is 1."""
        scores = self._joined(users, items)
        if not self.training or self._revived > REVIVALS or not scores.numel():
            return scores
        if self._step % LOOK_EVERY or self._step == self._looked:  # scores may come in parts, and again for gradients
            return scores
        self._looked = self._step
        self._dead = self._dead + LOOK_EVERY if bool(scores.detach().max() < DEAD) else 0
        if self._dead < DEAD_AFTER:
            return scores
        self._dead, self._revived = 0, self._revived + 1
        said = f"sparcode: all scores have been 0 for {DEAD_AFTER} steps, so nothing is learnt"
        if self._revived > REVIVALS:
            log.warning("%s, and b has been raised %d times: lower training.learning_rate", said, REVIVALS)
            return scores
        with torch.no_grad():
            more = 1.0 - self._plain(users, items).max()
            self.bias.add_(more)
        log.warning("%s: b is raised by %.3g, so that the best are 1", said, float(more))
        return scores
