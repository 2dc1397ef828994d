"""Rebuilding a bundle's index, and tuning its effort on the bundle's own users."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import write_json
from twotower.core.records import State
from twotower.core.seeds import torch_generator
from twotower.core.states import take
from twotower.evaluation.latency import percentile
from twotower.evaluation.protocol import check_lengths
from twotower.experiment.index_loss import shared
from twotower.experiment.index_users import drawn_users, show_users, user_states
from twotower.index.abilities import FillsShortAnswers, TunableIndex
from twotower.index.base import AnyIndex
from twotower.index.registry import build_index, check_settings, exact_index, serves
from twotower.models.base import prepare_serving
from twotower.models.encode import inference
from twotower.serving.bundle import Bundle, changing_bundle
from twotower.serving.collections import LEFT, deleted_on_failure, left_behind
from twotower.serving.filters.fill import fill_columns

log = logging.getLogger(__name__)

USERS = 1_000
"""Users drawn for tuning: half choose the setting, the other half say what it gives."""
TIMED = 200
"""Users whose searches are timed, one by one."""


@dataclass(frozen=True)
class Point:
    """Hold one value of the setting: recall of exact search's answers, and milliseconds of one user's search."""

    value: int
    choosing: float
    """Recall on the users that choose."""
    recall: float
    """Recall on the other users: the figure to report."""
    p50_ms: float


@dataclass(frozen=True)
class Tuning:
    """Hold what was tried, and the choice: the least value that reaches the target on the users that choose."""

    setting: str
    target: float
    k: int
    users: int
    chosen: Point
    reached: bool
    exact_p50_ms: float
    curve: list[Point]


@dataclass(frozen=True)
class Rebuilt:
    """Hold the index that a bundle now has."""

    kind: str
    settings: dict[str, Any]
    items: int
    build_seconds: float
    tuning: Tuning | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values: what ``index.json`` of the bundle holds."""
        return asdict(self)


def rebuild_index(
    folder: Path | str,
    kind: str,
    settings: dict[str, Any] | None = None,
    *,
    recall: float | None = None,
    k: int = 10,
    device: str = "cpu",
) -> Rebuilt:
    """Build a bundle's index from its stored item states, and replace the bundle in one step.

    Args:
        folder: the bundle.
        kind: name from `twotower.INDEXES`.
        settings: of that kind.
        recall: find the least search setting that gives this share of exact search's answers; None: take it as given.
        k: list length for which recall is measured.
        device: where the model runs.

    Raises:
        InputError: if kind or settings are unknown, the index cannot serve the model, ``recall`` is not above 0 and at
            most 1, the device is not there, there is nothing to tune, or the bundle keeps no user's history to tune on.
    """
    settings = settings or {}
    check_settings(kind, settings)
    if recall is not None and not 0 < recall <= 1:
        raise InputError(f"recall = {recall:g} cannot be reached: give a share above 0 and at most 1, such as 0.95")
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    check_lengths("k", [k])
    bundle = Bundle.load(folder, device)
    if not serves(kind, inner_product=bundle.model.inner_product):
        name = bundle.manifest["model"]["name"]
        raise InputError(
            f"{folder}: index '{kind}' finds inner products, and model '{name}' has another score; use brute_force or "
            "nominate"
        )
    index = build_index(kind, settings, bundle.model)
    prepare_serving(bundle.model)
    with deleted_on_failure(index):
        return _built(folder, bundle, kind, index, recall, k)


def _built(folder: Path | str, bundle: Bundle, kind: str, index: AnyIndex, recall: float | None, k: int) -> Rebuilt:
    started = time.perf_counter()
    show_users(index, bundle.model, bundle.dataset, bundle.positives)
    with inference(bundle.model):
        index.build(bundle.item_states, bundle.item_ids)
    fill_columns(index, bundle.item_vocabulary.path, bundle.schema.num_items, bundle.item_ids)
    seconds = time.perf_counter() - started
    tuning = None
    if recall is not None:
        if not isinstance(index, TunableIndex):
            raise InputError(f"index '{kind}' has no setting that trades recall for time, so there is nothing to tune")
        tuning = tune(bundle, index, recall, k)
    built = Rebuilt(kind, index.settings, len(bundle.item_ids), seconds, tuning)
    with changing_bundle(folder) as (copy, manifest):
        if left := left_behind(Path(folder), index):
            manifest[LEFT] = left
        shutil.rmtree(copy / "index", ignore_errors=True)
        (copy / "index").mkdir()
        index.save(copy / "index")
        write_json(copy / "index.json", built.to_json())
        manifest |= {"index": kind, "index_settings": index.settings, "index_module": type(index).__module__}
    return built


def tune(bundle: Bundle, index: TunableIndex, target: float, k: int) -> Tuning:
    """Set the effort of an index to the least doubling that reaches ``target``, and report each step.

    Questions are those that the service would put: stored users with what they have seen left out, and the same users
    with nothing left out, as a history that is sent has little to leave out; the lower recall of the two counts. Of an
    index that `FillsShortAnswers` by a scan, what its lists hold counts alone.

    Raises:
        InputError: if the bundle keeps no user's history.
    """
    states, seen = questions(bundle)
    exact = exact_index(bundle.model)
    exact.build(bundle.item_states, bundle.item_ids)
    asked = [seen, None] if (seen >= 0).any() else [None]
    true = [exact.search(states, k, left_out).ids for left_out in asked]
    users = len(seen)
    chooses = torch.arange(users) % 2 == 0 if users > 1 else torch.ones(1, dtype=torch.bool)
    reports = ~chooses if users > 1 else chooses
    recalls: dict[int, Tensor] = {}
    search = index.search_lists if isinstance(index, FillsShortAnswers) else index.search
    for value in doublings(index.least_effort, index.most_effort()):
        index.set_effort(value)
        found = [shared(best, search(states, k, left_out).ids) for best, left_out in zip(true, asked, strict=True)]
        recalls[value] = min(found, key=lambda shares: float(shares[chooses].mean()))
        if recalls[value][chooses].mean() >= target:
            break
    milliseconds = take_turns(index, exact, list(recalls), take(states, reports), seen[reports], k)
    curve = [
        Point(value, found[chooses].mean().item(), found[reports].mean().item(), milliseconds[value])
        for value, found in recalls.items()
    ]
    chosen = curve[-1] if curve[-1].choosing >= target else max(curve, key=lambda point: point.choosing)
    if chosen.choosing < target:
        log.warning(
            "recall %.3f is not reached: %s = %d gives %.3f", target, index.effort, chosen.value, chosen.choosing
        )
    index.set_effort(chosen.value)
    return Tuning(index.effort, target, k, users, chosen, chosen.choosing >= target, milliseconds[0], curve)


def questions(bundle: Bundle, *, number: int = USERS, seed: int = 0) -> tuple[State, Tensor]:
    """Return the states of users drawn from those with a stored event, and what each has seen (-1 fills up).

    Raises:
        InputError: if the bundle keeps no user's history.
    """
    users = drawn_users(bundle.dataset.log, number, seed=seed, purpose="index tuning")
    if not len(users):
        raise InputError(f"{bundle.folder}: keeps no history of any user, so there is nobody to tune on")
    prepare_serving(bundle.model)
    return user_states(bundle.model, bundle.dataset, bundle.positives, users), bundle.dataset.log.seen(users)


def doublings(least: int, most: int) -> list[int]:
    """Return ``least``, twice that, and so on, with ``most`` as the last.

    Examples:
        >>> doublings(8, 50), doublings(8, 3)
        ([8, 16, 32, 50], [3])
    """
    values = [min(least, most)]
    while values[-1] < most:
        values.append(min(2 * values[-1], most))
    return values


def take_turns(
    index: TunableIndex, exact: AnyIndex, values: Sequence[int], states: State, seen: Tensor, k: int
) -> dict[int, float]:
    """Return the median milliseconds of one user's search by value, and under 0 that of exact search.

    Every user is asked about at each value in random order, so that a slow moment meets all of them.
    """
    entries, order = [0, *values], torch_generator(0, "turns")
    times: dict[int, list[float]] = {value: [] for value in entries}
    for row in range(min(len(seen), TIMED)):
        for place in torch.randperm(len(entries), generator=order).tolist():
            value = entries[place]
            asked: AnyIndex = index if value else exact
            if value:
                index.set_effort(value)
            started = time.perf_counter()
            asked.search(take(states, slice(row, row + 1)), k, seen[row : row + 1])
            times[value].append(1_000 * (time.perf_counter() - started))
    return {value: percentile(part, 0.5) for value, part in times.items()}
