"""Latency of a request: models answer the same requests in turns, so that a slow moment affects all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, State, TopK, Users
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.models.captured import CapturedRank
from twotower.models.rank import rank
from twotower.ops.windows import windows


class Request(NamedTuple):
    """Hold one user with a list of candidates to be ranked."""

    users: Users
    candidates: Int[Tensor, " candidates"]


Answer = Callable[[Users, Tensor], TopK]


def drawn_requests(
    dataset: Dataset, count: int, *, candidates: int, history_length: int = 50, seed: int = 0
) -> Iterator[Request]:
    """Draw random users of the log with their latest events, each with random items.

    Args:
        dataset: on the device of the models.
        count: requests.
        candidates: distinct items of each.
        history_length: places of a history, filled up at its end where a user has fewer events.
        seed: of the draws.

    Raises:
        InputError: if there are fewer items than candidates, or the log has no event.
    """
    known = dataset.schema.num_items - FIRST_KNOWN
    if not 1 <= candidates <= known:
        raise InputError(f"a request of {candidates} candidates: the data set has {known} items")
    generator = torch_generator(seed, "requests")
    active = dataset.log.lengths.nonzero()[:, 0].cpu()
    if not len(active):
        raise InputError(f"data set '{dataset.name}': its log has no event, so nobody can ask")
    for _ in range(count):
        user = active[torch.randint(len(active), (1,), generator=generator)].to(dataset.device)
        starts, ends = dataset.log.offsets[user], dataset.log.offsets[user + 1]
        items = FIRST_KNOWN + torch.randperm(known, generator=generator)[:candidates]
        yield Request(
            dataset.users(user, windows(dataset.log.items, starts, ends, history_length)), items.to(dataset.device)
        )


def answer_of(model: Model, states: State, k: int, example: Request | None = None) -> Answer:
    """Call `rank` as a request does, and return the answer on the host.

    Args:
        model: in evaluation mode, ready to serve.
        states: of all items.
        k: length of the answer, at most the number of candidates.
        example: on a GPU, a request whose shapes all others have: kernels are captured once (`CapturedRank`).
    """
    if example is not None and example.candidates.device.type == "cuda":
        return CapturedRank(model, states, *example, min(k, len(example.candidates)))

    def answer(users: Users, candidates: Tensor) -> TopK:
        found = rank(model, users, states, candidates, min(k, len(candidates)))
        return TopK(found.scores.cpu(), found.ids.cpu())

    return answer


@torch.inference_mode()
def take_turns(
    answers: Mapping[str, Answer], requests: Iterable[Request], *, warm_ups: int = 5
) -> dict[str, list[float]]:
    """Measure the milliseconds of each request, by model, in a random order every turn.

    Order matters: the first of a turn finds the machine idle, and who follows a large model finds its caches emptied.

    Args:
        answers: by model, at least one.
        requests: each is put to every model.
        warm_ups: first requests whose times are left out.

    Raises:
        InputError: if no request is left to be timed.
    """
    names, order = list(answers), torch_generator(0, "turns")
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn, (users, candidates) in enumerate(requests):
        if candidates.device.type == "cuda":
            torch.cuda.synchronize()
        for place in torch.randperm(len(names), generator=order).tolist():
            name = names[place]
            started = time.perf_counter()
            answers[name](users, candidates)
            if turn >= warm_ups:
                times[name].append(1_000 * (time.perf_counter() - started))
    if not all(times.values()):
        raise InputError(f"no request is left to be timed: take more than the {warm_ups} that warm up")
    return times


def percentile(values: list[float], share: float) -> float:
    """Return the least value that at least ``share`` of them do not exceed.

    Examples:
        >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5), percentile([4.0, 1.0, 3.0, 2.0], 0.99)
        (2.0, 4.0)
    """
    return sorted(values)[max(0, math.ceil(round(share * len(values), 9)) - 1)]
