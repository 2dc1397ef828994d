"""Ties: events of one user that bear the same time, and orders of them that are drawn."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError, unknown_name
from twotower.core.seeds import torch_generator
from twotower.data.log import Log

Policy = Literal["file", "drawn"]
"""What decides among events of one time: the order of the file, which is that of a `Log`, or a drawn one."""
POLICIES: tuple[Policy, ...] = ("file", "drawn")


class Ties(NamedTuple):
    """Count ties of a log: what the order of its file alone decides."""

    events: int
    """Events that bear the time of the same user's event before them."""
    last: int
    """Users whose last event is one of these."""
    users: int
    """Users with an event."""


def ties_of(log: Log) -> Ties:
    """Count the ties of a log.

    Raises:
        InputError: if the log has no clock.

    Examples:
        >>> log = Log(torch.tensor([0, 3, 5]), torch.tensor([2, 3, 4, 2, 3]), torch.tensor([10, 20, 20, 10, 30]))
        >>> ties_of(log)
        Ties(events=1, last=1, users=2)
    """
    users, times = log.users(), _clock(log)
    tied = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    ends = log.offsets[1:][log.lengths > 1] - 1
    return Ties(int(tied.sum()), int(tied[ends - 1].sum()), int((log.lengths > 0).sum()))


def with_ties(log: Log, ties: Policy, seed: int | None) -> Log:
    """Return the log under a policy for ties: as it is ("file"), or with an order that ``seed`` draws ("drawn").

    Raises:
        InputError: if there is no such policy, a seed is given without "drawn", or "drawn" meets a log without a clock.
    """
    if ties not in POLICIES:
        raise unknown_name("ties", str(ties), POLICIES, "split")
    if ties == "file":
        if seed is not None:
            raise InputError(f'split: seed = {seed} is of ties = "drawn"; set that, or leave the seed out')
        return log
    return ties_drawn(log, 0 if seed is None else seed)


def ties_drawn(log: Log, seed: int) -> Log:
    """Return the log with each user's events of one time in a random order; all others stay where they are.

    The order is drawn on the CPU, so that it is the same on every device.

    Raises:
        InputError: if the log has no clock.
    """
    times = _clock(log)
    order = torch.randperm(log.num_events, generator=torch_generator(seed, "split", "ties")).to(times.device)
    for key in (times, log.users()):
        order = order[key[order].argsort(stable=True)]
    return log._replace(
        items=log.items[order], times=times[order], labels=None if log.labels is None else log.labels[order]
    )


def _clock(log: Log) -> Int[Tensor, " events"]:
    if log.times is None:
        raise InputError('split: ties = "drawn" needs a clock, and the log has no times; name a time column')
    return log.times
