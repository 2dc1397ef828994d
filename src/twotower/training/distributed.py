"""Several processes that train as one: each takes its rows of every batch, and all take the same step.

A batch is cut by index arithmetic, so that the union over ranks is the batch of one process. Losses are means over
rows; each rank's gradient counts with its rows. What stands between rows (in-batch items, terms of a batch's states,
log q of the batch) is gathered with gradients. Weights, samplers and orders are the same on every rank, by the run's
seed. Dropout is drawn by each rank for its own rows, from (seed, step, rank): the same run on as many ranks repeats.

A step sends one small message through the host (see `World.tell`), which is on its way while the step is computed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from twotower.core import states
from twotower.core.errors import InputError
from twotower.core.records import PADDING, Batch, Encoded, Items, Users
from twotower.core.seeds import derive
from twotower.sampling.base import batch_items, batch_users
from twotower.training import collectives
from twotower.training.rendezvous import WAIT, found_by_all, meet, tells_first


class Whole(NamedTuple):
    """Hold the batch of all ranks as samplers read it, one row a pair, and which of its rows are this rank's."""

    batch: Batch
    own: slice


class World:
    """Describe the processes of one training: one, unless torchrun started several.

    Attributes:
        rank: of this process, from 0. Rank 0 writes logs, checkpoints and the bundle.
        size: how many processes there are.
        idle: this rank has no row of the batch at hand. It goes through the step with a borrowed one, which counts
            for nothing, so that ranks still meet.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, local_rank: int = 0, store: Any = None) -> None:
        self.rank, self.size, self.local_rank, self._store = rank, size, local_rank, store
        self.idle = False
        self._shares: list[int] = []
        self._heard: Callable[[], list[list[int]]] | None = None
        self._told: list[list[int]] = []

    @property
    def device(self) -> torch.device:
        """Return the device of this rank, where the run says "auto" or "cuda"."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda") if self.size == 1 else torch.device("cuda", self.local_rank)

    @classmethod
    def current(cls, wait: float = WAIT) -> World:
        """Return the world of this process: by torch.distributed if set up, else by the variables that torchrun sets.

        Args:
            wait: seconds that a rank waits for the others before all give up.

        Raises:
            InputError: if variables are damaged or missing, or ``wait`` is out of range.
            ConnectionError: if the others do not come.
        """
        found = meet(wait)
        return cls(found.rank, found.size, local_rank=found.local_rank, store=found.store)

    def tells_first(self) -> bool:
        """Return whether this rank calls first: when all must end, one reports the reason."""
        return self.size == 1 or self._store is None or tells_first(self._store)

    def close(self, *, lost: bool = False) -> None:
        """Leave the others. With a rank ``lost`` a GPU may still wait for it: that is left to the process's end."""
        if self.size > 1 and dist.is_initialized() and not (lost and torch.cuda.is_initialized()):
            dist.destroy_process_group()

    # Before training: all alike, or none

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """End all ranks with the error of one, which rank 0 alone reports. No collective may run inside.

        Raises:
            InputError: the first error, by rank.
        """
        if self.size == 1:
            yield
            return
        failure = ""
        try:
            yield
        except (InputError, OSError) as error:
            failure = str(error) or type(error).__name__
        told = collectives.texts(failure)
        rank, text = next(((place, text) for place, text in enumerate(told) if text), (0, ""))
        if text:
            raise self.said(text if text == told[0] else f"rank {rank}: {text}")

    def said(self, text: str) -> InputError:
        """Return the error that every rank finds: rank 0 reports it."""
        return found_by_all(self.rank, text)

    def agree(self, facts: Mapping[str, str]) -> None:
        """Compare what must be the same on all ranks, by name.

        Raises:
            InputError: names the first rank that differs, and in what.
        """
        if self.size == 1:
            return
        told: list[dict[str, str]] = [json.loads(text) for text in collectives.texts(json.dumps(dict(facts)))]
        for rank, other in enumerate(told):
            for name in dict.fromkeys([*told[0], *other]):  # another version may tell of more, or of less
                value, first = other.get(name, "none"), told[0].get(name, "none")
                if value != first:
                    shown = "" if max(len(value), len(first)) > 32 else f" ({value}, not {first})"
                    raise self.said(f"rank {rank} has another {name} than rank 0{shown}: start all ranks alike")

    # While training

    def share(self, rows: Tensor) -> Tensor:
        """Return this rank's rows of a batch; with fewer rows than ranks some borrow the last one (see `idle`)."""
        cuts = [len(rows) * rank // self.size for rank in range(self.size + 1)]
        self._shares = [high - low for low, high in pairwise(cuts)]
        self.idle = not self._shares[self.rank]
        return rows[-1:] if self.idle else rows[cuts[self.rank] : cuts[self.rank + 1]]

    def tell(self, batch: Batch, *, stop: bool, save: bool = False) -> int:
        """Start to send all ranks how many rows of the loss this one has, which it returns, if it is to stop or save.

        All that a step says through the host. It is waited for where a step needs it, at the latest before gradients
        are summed, so that a rank that is lost, or late, ends the others by one line, whatever a GPU waits for.
        """
        rows = self.rows(batch)
        if self.size > 1:
            self._heard, self._told = collectives.told(rows, stop, save), []
            if batch.items.ids.ndim > 1:  # as many as the windows are long
                self._shares = []
        return rows

    def stops(self, stop: bool) -> bool:
        """Return whether some rank was to stop when the step began; alone, whether this one is to."""
        return stop if self.size == 1 else any(wish for _, wish, _ in self._all_told())

    def saves(self, due: bool) -> bool:
        """Return whether a checkpoint was due on some rank when the step began; alone, whether it is due."""
        return due if self.size == 1 else any(wish for _, _, wish in self._all_told())

    def _all_told(self) -> list[list[int]]:
        """What each rank told of this step: rows, whether to stop, and whether to save."""
        if not self._told:
            assert self._heard is not None, "tell before"
            self._told = self._heard()
        return self._told

    def _sizes(self, mine: int) -> list[int]:
        """Rows of the loss of each rank: by arithmetic where each row of a batch is one."""
        if not self._shares:
            return [rows for rows, _, _ in self._all_told()]
        if not self.idle and mine != self._shares[self.rank]:
            raise InputError(f"a batch of {self._shares[self.rank]} rows has {mine} pairs, and must have one a row")
        return self._shares

    def reseed(self, seed: int, step: int) -> None:
        """Set the global generators for one step; a single process draws on, as ever."""
        if self.size > 1:
            torch.manual_seed(derive(seed, "dropout", step, self.rank))

    def rows(self, batch: Batch) -> int:
        """Return how many rows of the loss this rank's part of the batch has."""
        if self.idle:
            return 0
        return len(batch_items(batch)) if batch.pairs is None else len(batch.pairs)

    def whole(self, batch: Batch) -> Whole:
        """Return what samplers read of the batch of all ranks: users and paired items. Alone, the batch as it is."""
        if self.size == 1:
            return Whole(batch, slice(None))
        pairs = torch.stack([batch_users(batch), batch_items(batch)], dim=1)
        sizes = self._sizes(len(pairs))
        gathered = collectives.rows_of_all(pairs, sizes)
        users, items = gathered.unbind(dim=1)
        start = len(gathered) - len(pairs) if self.idle else sum(sizes[: self.rank])
        seen = Batch(Users(users, {}, users.new_full((len(users), 0), PADDING)), Items(items))
        return Whole(seen, slice(start, start + len(pairs)))

    def gather(
        self,
        encoded: Encoded,
        ids: Tensor | None = None,
        *,
        users: Literal["with gradients", "without", "own"] = "with gradients",
    ) -> Encoded:
        """Return the rows of all ranks, with gradients; alone, the rows as they are.

        Args:
            encoded: this rank's rows.
            ids: the items of all ranks' rows, where they are known.
            users: what user states are needed for: of all ranks with gradients, or without, or this rank's alone.
        """
        if self.size == 1:
            return encoded
        sizes = self._sizes(len(encoded.item_ids))
        kinds = (
            {} if users == "own" else {"users": encoded.users if users != "without" else states.detach(encoded.users)}
        )
        if encoded.items is not None:
            kinds["items"] = encoded.items
        parts = [part for kind in kinds.values() for part in states.to_tensors(kind).values()]
        gathered = iter(collectives.with_gradients(parts, sizes))
        joined = {name: states.map_state(lambda _: next(gathered), kind) for name, kind in kinds.items()}
        if ids is None:
            ids = collectives.rows_of_all(encoded.item_ids, sizes)
        return Encoded(joined.get("users", encoded.users), joined.get("items"), ids, {})

    def total(self) -> int:
        """Return how many rows of the loss the step at hand has on all ranks, once all ranks have reported."""
        return sum(rows for rows, _, _ in self._all_told())

    def any(self, wish: bool) -> bool:
        """Return whether some rank asks for it."""
        return wish if self.size == 1 else any(collectives.counts(wish))

    def first(self, value: bool) -> bool:
        """Return the value of rank 0."""
        return value if self.size == 1 else bool(collectives.of_first(torch.tensor([float(value)])))

    def same_numbers(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the values of rank 0, by the same names on every rank."""
        if self.size == 1:
            return dict(values)
        told = collectives.of_first(torch.tensor(list(values.values()), dtype=torch.float64))
        return dict(zip(values, told.tolist(), strict=True))

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the sum over ranks of each value; all ranks name the same."""
        if self.size == 1:
            return dict(values)
        found = collectives.summed(torch.tensor(list(values.values()), dtype=torch.float64))
        return dict(zip(values, found.tolist(), strict=True))

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over ranks, in place; all give one of the same shape."""
        return tensor if self.size == 1 else collectives.summed(tensor)

    def same_batches(self, batches: list[Tensor]) -> list[Tensor]:
        """Return the batches of rank 0, for orders that rest on arithmetic which machines may round apart."""
        if self.size == 1:
            return batches
        sizes = collectives.of_first(torch.tensor([len(batch) for batch in batches]))
        return list(collectives.of_first(torch.cat(batches)).split(sizes.tolist()))
