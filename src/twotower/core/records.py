"""Records between stages. Leading axis = rows; ids are int64 row numbers (0 padding, 1 unknown, 2… known)."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

PADDING = 0
UNKNOWN = 1
FIRST_KNOWN = 2

State: TypeAlias = Any
"""A tensor, or a NamedTuple of tensors that share the leading axis: see `twotower.core.states`."""

Features: TypeAlias = dict[str, Tensor]
"""One tensor a feature, by the feature's name: int64 [rows] (id, categorical), int64 [rows, width] padded with 0
(multi_categorical, text), float32 [rows] with NaN for missing (numeric), float32 [rows, dim] (vector)."""


class Users(NamedTuple):
    """Hold users as a tower reads them.

    ``history`` holds item ids, oldest first, padded at the end: [rows, length]. A causal tower may read row i's state
    at its last unpadded place. ``history_times`` are Unix seconds (0 where padded), or None when the log has no clock.
    """

    ids: Tensor
    features: Features
    history: Tensor
    history_times: Tensor | None = None


class Items(NamedTuple):
    """Hold items as a tower reads them. ``features`` is None when only the ids are needed."""

    ids: Tensor
    features: Features | None = None


class Batch(NamedTuple):
    """Hold rows of training or scoring: row i pairs user i with item i.

    For causal towers ``items.ids`` is [rows, length] and pairs each place of the history with the item that follows
    it, 0 where there is none; ``pairs`` may then give the places of ``items.ids``, flattened, that hold an item, int64
    [pairs] in order: to look for them would make the host wait for a GPU. ``labels`` is float32 [rows] (1 positive,
    0 negative), or None: all rows are positive.
    """

    users: Users
    items: Items
    labels: Tensor | None = None
    pairs: Tensor | None = None


class Encoded(NamedTuple):
    """Hold the output of `forward`: user states, paired items' states and ids, and a model's own losses by name.

    Row i of ``users`` is paired with row i of ``items`` and ``item_ids``. ``items`` is None when the batch carried no
    item features: the step then encodes what it needs. ``user_rows`` maps each row to its row of the batch (None: the
    same), since causal towers return one row per position.
    """

    users: State
    items: State | None
    item_ids: Tensor
    losses: dict[str, Tensor]
    user_rows: Tensor | None = None


class Negatives(NamedTuple):
    """Hold sampled items and the log of their expected counts.

    ``log_q`` is the log of the expected number of times that an item stands among the candidates (draws × probability
    of a draw; 0 for an item that is there by rule): the sum over candidates of f / q then estimates the sum over items.

    ``ids`` and ``log_q`` are [candidates] (shared by all rows) or [rows, candidates]. The first ``in_batch`` candidates
    are the batch's own items in order, whose states the step already has. ``states`` are those of the last
    ``len(states)`` candidates (a memory bank keeps them); everything between is encoded by the step.

    ``keep`` ([candidates] or [rows, candidates]) is False where the source leaves a candidate out; None: nowhere.
    ``per_row`` are further candidates that each row has for itself, [rows, candidates], beside shared ones.
    """

    ids: Tensor
    log_q: Tensor
    states: State | None = None
    in_batch: int = 0
    keep: Tensor | None = None
    per_row: Negatives | None = None


class TopK(NamedTuple):
    """Hold the best answers, best first: scores [rows, k] and ids [rows, k].

    Fewer than k answers are padded with score -inf and id -1.
    """

    scores: Tensor
    ids: Tensor
