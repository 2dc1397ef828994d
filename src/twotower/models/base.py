"""What every model offers, and the defaults that most share."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded, Items, State, Users
from twotower.core.schema import Schema
from twotower.core.states import from_tensors, map_state
from twotower.data.log import Log


class Model(nn.Module):
    """Encode users, encode items, score. A subclass sets ``schema`` and gives the three; the rest has defaults.

    Attributes:
        batches: how training rows are cut: "events" (a row is one event with the history before it), "sequences" (a
            row is one user's window; causal towers) or "none" (closed form: see `ClosedForm`).
        history_length: items of history that the user tower reads, at most; None: all of it. It may be handed a
            narrower window, as wide as the longest history in a batch.
        state_kind: the NamedTuple of its item states, None for a plain tensor; storage needs it.
        is_inner_product: true when a vector index can serve it.
    """

    schema: Schema
    batches: str = "events"
    history_length: int | None = 50
    state_kind: type[Any] | None = None
    is_inner_product: bool = True

    @property
    def selectable(self) -> bool:
        """Whether weights of now were trained as they will be served, so that a best checkpoint may be chosen."""
        return True

    @property
    def prepared(self) -> object:
        """What `prepare_serving` made of the present weights; None where it makes nothing."""
        return None

    def attach_items(self, items: Items) -> None:
        """Keep what the model must know of all items (row number = id) beside a batch; called before training."""

    def settle_items(self, seen: Tensor) -> None:
        """Give items without training events (False in ``seen``, bool [items]) what can be known of them.

        Called before each validation and at the end. Training neither reads nor moves what belongs to their ids alone.
        """

    def set_progress(self, epochs: float) -> None:
        """Follow training: epochs done so far, with the share of the current one; called before each step."""

    def prepare_serving(self) -> None:
        """Compute what no request changes, for requests to come; called once weights are loaded for good."""

    def stored_items(self, tensors: dict[str, Tensor]) -> State:
        """Item states from the tensors of a file, as `twotower.core.states.to_tensors` named them.

        Raises:
            ValueError: if they are another model's.
        """
        return from_tensors(tensors, self.state_kind)

    def compact_items(self, states: State, precision: str) -> State:
        """The same item states in fewer bytes, at a precision of the model's; it scores them as it does whole ones.

        Raises:
            InputError: if the precision is unknown, or this model stores its states in one way alone.
        """
        raise InputError(f"{type(self).__name__} stores item states in one way alone; 'fit' knows smaller ones")

    def whole_items(self, states: State) -> State:
        """The same item states as the numbers they stand for: undoes `compact_items`, but for what it rounded."""
        return states

    def encode_users(self, users: Users) -> State:
        """User states, one row a user."""
        raise TypeError(f"{type(self).__name__} does not encode users")

    def encode_items(self, items: Items) -> State:
        """Item states, one row an item: what can be computed before the request."""
        raise TypeError(f"{type(self).__name__} does not encode items")

    def score(self, users: State, items: State) -> Tensor:
        """Scores of every user with every item, before temperature: [users, items].

        Raises:
            InputError: if the states are not vectors of one width.
        """
        widths = [part.shape[1:] if isinstance(part, Tensor) else type(part).__name__ for part in (users, items)]
        if widths[0] != widths[1]:
            given = " with ".join(str(tuple(width) if isinstance(width, tuple) else width) for width in widths)
            raise InputError(f"{type(self).__name__} cannot score states of {given}: another model's states?")
        return users @ items.T

    def score_among(self, users: State, items: State, ids: Tensor) -> Tensor:
        """Scores of every user with the items of rows ``ids`` (int64 [candidates]) of all item states."""
        # For rows of many numbers index_select is several times quicker than indexing.
        return self.score(users, map_state(lambda part: part.index_select(0, ids), items))

    def score_rows(self, users: State, items: State) -> Tensor:
        """Scores of row i with row i: [rows]; or, with item states [rows, n, …], with each of its n: [rows, n]."""
        if items.ndim == users.ndim:
            return (users * items).sum(-1)
        return (items @ users[:, :, None])[..., 0]

    def logit_scale(self) -> Tensor | float:
        """1 / temperature: logit = score * scale − log q."""
        return 1.0

    def forward(self, batch: Batch) -> Encoded:
        """Both encoders; items stay None when the batch carries no item features."""
        items = None if batch.items.features is None else self.encode_items(batch.items)
        return Encoded(self.encode_users(batch.users), items, batch.items.ids, {})

    def score_pairs(self, batch: Batch) -> Tensor:
        """Scores of row i's user with row i's item: [rows]."""
        return self.score_rows(self.encode_users(batch.users), self.encode_items(batch.items))


@runtime_checkable
class ClosedForm(Protocol):
    """A model that is fitted in one go, without gradients."""

    def fit(self, log: Log) -> None:
        """Learn from the training log."""
        ...


@runtime_checkable
class OffersChoices(ClosedForm, Protocol):
    """A closed form that may leave one number to the validation split: it says where to begin, and how far to step.

    Attributes:
        choice: the setting that is chosen, which is also the attribute that holds its value.
        ladder: each value that is tried is so many times the one below.
    """

    choice: str
    ladder: float

    @property
    def undecided(self) -> bool:
        """Whether the value is to be chosen; else it was given."""
        ...

    def first_choice(self, log: Log) -> float:
        """The value to try first, from the size of the log."""
        ...

    def settle(self, value: float) -> None:
        """Take the value for the next `fit`."""
        ...
