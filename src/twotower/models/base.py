"""Model protocol: the methods of every model, with defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded, Features, Items, State, Users
from twotower.core.schema import Schema
from twotower.core.states import map_state
from twotower.data.log import Log
from twotower.models.item_store import ItemStore
from twotower.towers.codes.quantiser import CodeUse


class Model(nn.Module, ABC):
    """Encode users, encode items, score.

    A subclass sets ``schema`` and gives the two encoders; the rest has defaults.

    A model that follows training, reads the whole catalogue or computes ahead of requests has the methods of `Phased`,
    `ReadsCatalogue`, `ReadsUsers` or `Prepares` too: training and serving look for them.

    Attributes:
        batches: how training rows are cut: "events" (a row is one event with the history before it), "sequences" (a
            row is one user's window; causal towers) or "none" (closed form: see `ClosedForm`).
        history_length: items of history that the user tower reads, at most; None: all of it. It may be handed a
            narrower window, as wide as the longest history in a batch.
        has_vectors: true when users and items are one vector each, [rows, dim].
        inner_product: true when the score of two states is their inner product, so that a vector index can serve it.
        recipe: name of the settings that a run of this model starts from where it has none of its own, such as
            "pre_ranking"; None: by the kind of its training rows. See `twotower.experiment.recipes.default_run`.
        own_forward: true where a subclass gives its own `forward`; set by itself. Training then encodes no other items
            in the call that encodes the batch's.
        item_store: how item states are written and read.
        user_kind: NamedTuple of the user states; None for a plain tensor.
        row_by_row: whether a training step gives each row what the row would get alone, so that ranks may share out a
            batch. None: with the `forward` of this class yes, with one of its own no.
        draws_rows: whether a training step encodes rows of the model's own drawing, and not the batch's pairs in their
            order: then no sampler can name candidates of a batch or of a row.
        wants_items: False where a model that `ReadsCatalogue` does without it by its settings.
        compiled_parts: methods that training.compile compiles; () where there is nothing to gain.
        reads_times: False where no training step reads when the events of a history were, so that batches carry no
            times. A subclass says so for itself.
        same_steps: whether each training step of one shape does the same work on the device, with no state in Python
            that moves along, so that training.capture = "auto" may replay one. A subclass says so for itself.
        in_one_shape: set while compiled parts are in use, and where rows of a table are shared out: rows are then
            encoded together, at one width.
        no_onnx: why it has no ONNX form ("" for most, which have one): what an export says instead.
    """

    schema: Schema
    batches: str = "events"
    history_length: int | None = 50
    has_vectors: bool = True
    inner_product: bool = True
    recipe: ClassVar[str | None] = None
    own_forward: ClassVar[bool] = False
    item_store: ItemStore = ItemStore()
    user_kind: type[Any] | None = None
    row_by_row: bool | None = None
    draws_rows: bool = False
    compiled_parts: tuple[str, ...] = ("encode_users", "encode_items")
    reads_times: bool = True
    same_steps: bool = False
    in_one_shape: bool = False
    no_onnx: str = ""
    wants_items: bool = True

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.own_forward = cls.forward is not Model.forward

    @abstractmethod
    def encode_users(self, users: Users) -> State:
        """Return user states, one row a user."""

    @abstractmethod
    def encode_items(self, items: Items) -> State:
        """Return item states, one row an item: the part that can be computed before the request."""

    def score(self, users: State, items: State) -> Tensor:
        """Score every user with every item, before temperature: [users, items].

        Raises:
            InputError: if the states are not vectors of one width.
        """
        widths = [part.shape[1:] if isinstance(part, Tensor) else type(part).__name__ for part in (users, items)]
        if widths[0] != widths[1]:
            given = " with ".join(str(tuple(width) if isinstance(width, tuple) else width) for width in widths)
            raise InputError(f"{type(self).__name__} cannot score states of {given}: another model's states?")
        return users @ items.T

    def score_among(self, users: State, items: State, ids: Tensor) -> Tensor:
        """Score every user with the items of rows ``ids`` (int64 [candidates]) of all item states."""
        # For rows of many numbers index_select is several times quicker than indexing.
        return self.score(users, map_state(lambda part: part.index_select(0, ids), items))

    def score_rows(self, users: State, items: State) -> Tensor:
        """Score row i with row i: [rows]; or, with item states [rows, n, …], with each of its n: [rows, n]."""
        if items.ndim == users.ndim:
            return (users * items).sum(-1)
        return (items @ users[:, :, None])[..., 0]

    @property
    def scores_all(self) -> bool:
        """Return whether a training step can have the scores of its rows with all items: the full softmax asks."""
        return self.inner_product

    def logit_scale(self) -> Tensor | float:
        """Return 1 / temperature: logit = score * scale − log q."""
        return 1.0

    def forward(self, batch: Batch) -> Encoded:
        """Encode users and items; items stay None when the batch carries no item features."""
        items = None if batch.items.features is None else self.encode_items(batch.items)
        return Encoded(self.encode_users(batch.users), items, batch.items.ids, {})

    def score_pairs(self, batch: Batch) -> Tensor:
        """Score row i's user with row i's item: [rows]."""
        return self.score_rows(self.encode_users(batch.users), self.encode_items(batch.items))


class ClosedForm(Model, ABC):
    """Fit in one go, without gradients."""

    batches = "none"
    compiled_parts = ()

    @abstractmethod
    def fit_log(self, log: Log) -> None:
        """Learn from the training log."""


@runtime_checkable
class Phased(Protocol):
    """Change behaviour in the course of training."""

    def set_progress(self, epochs: float) -> None:
        """Follow training: epochs done so far, with the share of the current one; called before each step."""
        ...

    @property
    def selectable(self) -> bool:
        """Return False while the current weights must not be kept as the best checkpoint.

        For example before COLD has selected its fields."""
        ...


@runtime_checkable
class UsesCodes(Protocol):
    """Put codes in place of vectors, some of which may be used by nobody."""

    def code_use(self) -> CodeUse | None:
        """Return how codes were used in training since the last call; None where there are none, or not yet."""
        ...


@runtime_checkable
class StartsFromLog(Protocol):
    """Take first weights from the training log, in place of those that are drawn."""

    def start_from(self, log: Log) -> None:
        """Take them; called once before the first step, with the events that are trained on and no others."""
        ...


@runtime_checkable
class ReadsCatalogue(Protocol):
    """Read all items beside a batch, such as the features of those in a history."""

    def attach_items(self, items: Items) -> None:
        """Keep what is needed of all items (row number = id); called before training."""
        ...


@runtime_checkable
class ReadsUsers(Protocol):
    """Read the features of all users beside the log."""

    def attach_users(self, features: Features) -> None:
        """Keep what is needed of all users (row number = id); called before training."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """Compute ahead of requests what no request changes."""

    @property
    def prepared(self) -> object:
        """Return the result of `prepare_serving` for the present weights; another object after every change."""
        ...

    def prepare_serving(self) -> None:
        """Compute it; called once weights are loaded for good."""
        ...


@runtime_checkable
class SumsOverHistory(Protocol):
    """Score an item by a sum over the items of the history, so that the share of each one is exact."""

    def contributions(self, history: Tensor, items: Tensor) -> Tensor:
        """Return what each place of one user's state adds to the score of each item: [history, items].

        Args:
            history: the user state without its padding, int64 [history].
            items: item states, int64 [items].
        """
        ...


def is_selectable(model: Model) -> bool:
    """Return whether the current weights may be kept as the best checkpoint: see `Phased`."""
    return not isinstance(model, Phased) or model.selectable


def reads_times(model: Model) -> bool:
    """Return whether a training step may read when events were: unless the class itself says no, and not one above."""
    return bool(vars(type(model)).get("reads_times", True))


def reads_catalogue(model: Model) -> bool:
    """Return whether a model `ReadsCatalogue`, by its class and by its settings."""
    return isinstance(model, ReadsCatalogue) and model.wants_items


def attach_items(model: Model, items: Items) -> None:
    """Hand all items to a model that `ReadsCatalogue`; nothing to do for any other."""
    if isinstance(model, ReadsCatalogue):
        model.attach_items(items)


def attach_users(model: Model, features: Features) -> None:
    """Hand the features of all users to a model that `ReadsUsers`; nothing to do for any other."""
    if isinstance(model, ReadsUsers):
        model.attach_users(features)


def prepare_serving(model: Model) -> None:
    """Let a model that `Prepares` compute ahead of requests; nothing to do for any other."""
    if isinstance(model, Prepares):
        model.prepare_serving()


def prepared_of(model: Model) -> object:
    """Return what a model that `Prepares` has computed ahead; None for any other."""
    return model.prepared if isinstance(model, Prepares) else None


class OffersChoices(ClosedForm, ABC):
    """Leave one number to the validation split: a closed form that gives its first value and the step.

    Attributes:
        choice: the setting that is chosen, which is also the attribute that holds its value.
        ladder: each value that is tried is so many times the one below.
    """

    choice: str
    ladder: float

    @property
    @abstractmethod
    def undecided(self) -> bool:
        """Return whether the value is to be chosen; else it was given."""

    @abstractmethod
    def first_choice(self, log: Log) -> float:
        """Return the value to try first, from the size of the log."""

    @abstractmethod
    def settle(self, value: float) -> None:
        """Take the value for the next `fit_log`."""


@runtime_checkable
class ServesNewItems(Protocol):
    """Represent items without training events by their features, without learning to push them away."""

    @property
    def serves_new_items(self) -> bool:
        """Return False where the data give it nothing but ids: such items then stay negatives of every step."""
        ...

    def settle_items(self, new: Tensor, events: Tensor, items: Items) -> None:
        """Give items without training events what can be known of them from the others and their features.

        Called before each validation, at the end, and for items that are added later. Training neither reads nor moves
        what belongs to their ids alone.

        Args:
            new: which items: bool [items].
            events: training events of every item: int64 [items].
            items: all items, row number = id.
        """
        ...


def new_item_model(model: Model) -> ServesNewItems | None:
    """Return the model where it `ServesNewItems` on its data; None for any other."""
    return model if isinstance(model, ServesNewItems) and model.serves_new_items else None
