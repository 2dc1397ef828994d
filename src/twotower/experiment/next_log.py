"""Evaluation of a bundle on a later log, with users and items that it does not know: as it would have answered then."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from torch import Tensor

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.data.split_parts import counts_so_far
from twotower.evaluation.processes import Processes
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.models.enlarge import enlarged
from twotower.serving.bundle import Bundle
from twotower.serving.joined import Joined, join_data

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Later:
    """Hold a bundle among users and items of a later log, most of which it may know."""

    bundle: Bundle
    """With a model that has rows for the new users: the unknown one's."""
    dataset: Dataset
    stored: Log
    """The bundle's own events, in the rows of ``dataset``."""
    targets: Targets

    def judge(
        self, ks: tuple[int, ...], *, mask_seen: bool, split: str = "test", processes: Processes | None = None
    ) -> Result:
        """Rank what the bundle knows for every user of the targets, each of ``processes`` for some of them."""
        protocol = Protocol(
            ks=ks, split=split, mask_seen=mask_seen, candidates=tuple(self.bundle.item_ids.sort().values.tolist())
        )
        return evaluate(self.bundle.model, self.dataset, self.targets, protocol, train=self.stored, processes=processes)


def later(bundle: Bundle, data: Dataset) -> Later:
    """Return a bundle among the users of a later log, who are asked for the log's own events.

    What a user did before, as the bundle has it, is the history. A user without any is a new one: the first half of the
    new positives is the history, the rest is to be found. Who has nothing then that the bundle knows is left out, as
    the service refuses such requests. Items that the bundle does not know are not read in histories, and to be found
    they are misses. Each of these is counted in a warning.

    Raises:
        InputError: as `join_data`; if the log has no event that the bundle does not have, or nobody can be asked.
    """
    joined = join_data(bundle, data)
    every, fresh = joined.dataset.log, joined.fresh
    if not fresh.any():
        raise InputError(f"{data.folder}: all of its events are in {bundle.folder} already; leave the data out")
    positive = every.is_positive()
    owners = every.users()
    new, users = fresh & positive, joined.dataset.schema.num_users
    newcomer = owners[~fresh & positive].bincount(minlength=users) == 0
    half = owners[new].bincount(minlength=users) // 2
    folded = new & newcomer[owners] & (counts_so_far(every, new) <= half[owners])
    known = every.items < bundle.schema.num_items
    truth = every.select(new & ~folded).positives()
    reads = every.select((~fresh | folded) & known)
    able = reads.positives().lengths > 0
    _tell(bundle, joined, truth, able, newcomer)
    truth = truth.select(able[truth.users()])
    if not truth.num_events:
        raise InputError(f"{data.folder}: no user of its {int(fresh.sum()):,} new events can be asked")
    history = reads.select((truth.lengths > 0)[reads.users()])
    return Later(asked_as_then(bundle, joined), joined.dataset, every.select(~fresh), Targets(history, truth))


def asked_as_then(bundle: Bundle, joined: Joined) -> Bundle:
    """Return the bundle with a model that takes the rows of joined data and answers as ever: new ones are unknown."""
    described = bundle.manifest["model"]
    schema = replace(joined.dataset.schema, num_items=bundle.schema.num_items)
    if schema == bundle.schema:
        return bundle
    model = enlarged(bundle.model, described["name"], described["parameters"], schema)
    return replace(bundle, model=model)


def _tell(bundle: Bundle, joined: Joined, truth: Log, able: Tensor, newcomer: Tensor) -> None:
    """Warn of what the bundle does not know."""
    items = joined.dataset.log.items[joined.fresh]
    unknown = items[items >= bundle.schema.num_items]
    if len(unknown):
        log.warning(
            "%d of %d new events are of %d items that the bundle does not know: not read in histories, and missed "
            "where they are to be found",
            len(unknown),
            len(items),
            len(unknown.unique()),
        )
    asked = truth.lengths > 0
    if number := int((asked & newcomer & able).sum()):
        log.warning("%d of %d users are new: answered from the first half of their events", number, int(asked.sum()))
    if number := int((asked & ~able).sum()):
        log.warning("%d users have done nothing before that the bundle knows: they are left out", number)
