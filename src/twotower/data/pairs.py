"""Labelled pairs to compare pre-rankers on: each positive beside one item that its user has not seen."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.records import FIRST_KNOWN, Batch
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.listed import Listed
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.data.unseen import Unseen

READINGS = ("last", "all")
VALIDATIONS = ("random", "time", "last")
NEGATIVES = ("fixed", "fresh")

NEVER_NEGATIVE = "a validation row's positive is never its user's negative in training, which a model may notice"
LEAKS = {
    "random": "a validation row's positive may stand in the history of a later training row of the same user; "
    f"{NEVER_NEGATIVE}; test items are unseen in training, test users are not",
    "time": "each user's validation rows come after all of its training rows; other users' training rows may be later "
    f"in time; {NEVER_NEGATIVE}; test items are unseen in training, test users are not",
    "last": "each user's validation row is its last but one positive, after all of its training rows; other users' "
    f"training rows may be later in time; {NEVER_NEGATIVE}; test items are unseen in training, test users are not",
}


class PairRows:
    """Cut labelled rows over a log: see `twotower.data.examples.Rows`.

    ``users``, ``ends`` and ``items`` are int64 [rows], ``labels`` float32 [rows]. Row i's history is what its user did
    before event ``ends[i]`` of ``log``, at most ``history_length`` items: never the row's own event or a later one.
    With ``fresh`` the items of rows with label 0 are drawn anew whenever they are cut, by the device's own generator.
    """

    lengths: Tensor | None = None

    def __init__(
        self,
        dataset: Dataset,
        log: Log,
        *,
        users: Int[Tensor, " rows"],
        ends: Int[Tensor, " rows"],
        items: Int[Tensor, " rows"],
        labels: Float[Tensor, " rows"],
        history_length: int,
        fresh: Unseen | Listed | None = None,
    ) -> None:
        self.dataset, self.log, self.history_length, self.fresh = dataset, log, history_length, fresh
        self.users, self.ends, self.items, self.labels = users, ends, items, labels

    def __len__(self) -> int:
        return len(self.users)

    def cut(self, rows: Int[Tensor, " rows"]) -> Batch:
        """Return the batch of these rows, with the items' features."""
        rows = rows.to(self.users.device, non_blocking=True)
        users, ends = self.users[rows], self.ends[rows]
        starts = self.log.offsets[users]
        history, times = self.log.windows(starts, ends, self.history_length)
        items, labels = self.items[rows], self.labels[rows]
        if self.fresh is not None:
            items = torch.where(labels == 0, self.fresh.draw(users), items)
        return Batch(self.dataset.users(users, history, times), self.dataset.items(items), labels)

    def take(self, rows: Int[Tensor, " rows"]) -> PairRows:
        """Return some of the rows, in this order."""
        return PairRows(
            self.dataset,
            self.log,
            users=self.users[rows],
            ends=self.ends[rows],
            items=self.items[rows],
            labels=self.labels[rows],
            history_length=self.history_length,
            fresh=self.fresh,
        )


class PairSplit(NamedTuple):
    """Hold rows to train on, to choose a checkpoint by, and to report; and in words what leaks between them."""

    train: PairRows
    validation: PairRows
    test: PairRows
    known: PairRows
    """Training and validation rows together, for a last fit before the test."""
    leaks: str

    def test_targets(self) -> Targets:
        """Return the test as a search: each user's last positive is to be found, given the ones before it."""
        log = self.test.log
        last = torch.zeros(log.num_events, dtype=torch.bool, device=log.items.device)
        last[self.test.ends] = True
        return Targets(log.select(~last), log.select(last))

    def learnt(self) -> Log:
        """Return the events that training rows are made from: all that precede a test."""
        return self.test_targets().history


def pre_ranking_pairs(
    dataset: Dataset,
    *,
    reading: str = "last",
    history_length: int = 50,
    validation: str = "random",
    validation_share: float = 0.2,
    negatives: str = "fixed",
    seed: int = 0,
    lists: Int[Tensor, "users places"] | None = None,
    lists_share: float = 1.0,
) -> PairSplit:
    """Build labelled pairs: each user's last positive is tested, each earlier one trained.

    Every positive has one random negative beside it.

    A row reads the ``history_length`` positives before its own event; a user's first positive has none and gives no
    row. A negative is an item of the log that the user never met: in training and validation rows among the events
    before the test one, so that not even the absence of the test item tells anything; in test rows among all events.
    Items without any event are no negatives: a model would learn to know them by that, which proves nothing.

    Source: FIT (Xiong et al., SIGIR 2025), section 5.1.1, after DIN and DIEN. Not said there: whether earlier events
    are trained on, and which.

    Args:
        reading: "last": a user is its last ``history_length`` events alone; "all": every event gives a training row.
        history_length: latest items of a history.
        validation: "random": a share of all training rows, as in the paper (a positive and its negative stay
            together); "time": the latest share of each user's; "last": the latest one of each user's.
        validation_share: of the training positives, in [0, 1).
        negatives: "fixed": every epoch trains on the same rows; "fresh": on another negative each time, which is ours.
            Validation and test rows stay as they are (``known`` draws for both kinds of rows).
        seed: of the negatives and of the random share.
        lists: items for each user, unmet before the test event, that negatives of training and validation are drawn
            from; -1 fills up. None: all items of the log.
        lists_share: of these negatives, in [0, 1]; the others come from all items.

    Raises:
        InputError: if an option is unknown or out of range, or nobody has two positives.
    """
    if reading not in READINGS:
        raise unknown_name("reading", reading, READINGS)
    if validation not in VALIDATIONS:
        raise unknown_name("validation", validation, VALIDATIONS)
    if negatives not in NEGATIVES:
        raise unknown_name("negatives", negatives, NEGATIVES)
    if isinstance(lists_share, bool) or not isinstance(lists_share, int | float) or not 0.0 <= lists_share <= 1.0:
        raise InputError(f"candidates_share = {shown(lists_share)}: a number from 0 to 1 is wanted")
    if not 0.0 <= validation_share < 1.0 or history_length < 1:
        raise InputError(
            "validation_share must be in [0, 1) and history_length at least 1, "
            f"got {validation_share} and {history_length}"
        )
    everything = dataset.log.positives()
    before_test = everything.select(_place_from_end(everything) > 0)
    log = everything
    if reading == "last":
        log = log.select(_place_from_end(log) < history_length)
    users, place = log.users(), _place_from_end(log)
    events = torch.arange(log.num_events, device=log.items.device)
    follows = events > log.offsets[users]
    if not follows.any():
        raise InputError(f"data set '{dataset.name}': no user has two positives, so there is no pair with a history")
    tested, trained = events[follows & (place == 0)], events[follows & (place > 0)]
    device = log.items.device
    pool = dataset.log.items.unique()
    pool = pool[pool >= FIRST_KNOWN]

    def unseen(met: Log) -> Unseen:
        return Unseen(met.offsets, met.items, pool, dataset.schema.num_items)

    def rows(positives: Tensor, choice: Unseen | Listed, purpose: str) -> PairRows:
        owners = users[positives]
        choice.check(owners)
        drawn = choice.draw(owners, torch_generator(seed, "pairs", purpose, device=device))
        return PairRows(
            dataset,
            log,
            users=owners.repeat_interleave(2),
            ends=positives.repeat_interleave(2),
            items=torch.stack([log.items[positives], drawn], dim=1).flatten(),
            labels=torch.tensor([1.0, 0.0], device=device).repeat(len(positives)),
            history_length=history_length,
        )

    held = _held_out(log, users, trained, validation, validation_share, seed)
    before: Unseen | Listed = unseen(before_test)
    if lists is not None:
        before = Listed(lists, unseen(before_test), share=lists_share)
    every = rows(trained, before, "train")
    pairs = torch.arange(len(every), device=device).view(-1, 2)
    train, valid = every.take(pairs[~held].flatten()), every.take(pairs[held].flatten())
    train.fresh = every.fresh = before if negatives == "fresh" else None
    return PairSplit(train, valid, rows(tested, unseen(everything), "test"), every, LEAKS[validation])


def _place_from_end(log: Log) -> Tensor:
    """How many events of the same user follow each event: int64 [events]."""
    return log.offsets[1:][log.users()] - 1 - torch.arange(log.num_events, device=log.items.device)


def _held_out(log: Log, users: Tensor, trained: Tensor, validation: str, share: float, seed: int) -> Tensor:
    """Which training positives validate: bool [positives]."""
    if validation == "random":
        order = torch.randperm(len(trained), generator=torch_generator(seed, "pairs", "validation"))
        held = torch.zeros(len(trained), dtype=torch.bool)
        held[order[: round(share * len(trained))]] = True
        return held.to(trained.device)
    if validation == "last":
        return _place_from_end(log)[trained] == 1
    owners = users[trained]
    counts = torch.bincount(owners, minlength=len(log.offsets) - 1)
    # The user's last event is the test: it stands at place 0, its training positives at places 1 to counts.
    return _place_from_end(log)[trained] <= (counts * share).floor()[owners]
