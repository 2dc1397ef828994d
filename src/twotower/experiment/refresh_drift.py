"""Drift between a bundle's events and newer ones: of popularity, and of the features of who and what takes part."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, Features
from twotower.core.schema import Feature, Side
from twotower.core.seeds import torch_generator
from twotower.serving.joined import Joined

MOST_EVENTS = 200_000
"""Events of either part that are looked at; of more, a sample."""


class Drift(NamedTuple):
    """Hold how far newer events are from stored ones in one respect."""

    name: str
    """"popularity", or side and feature, such as "item.genre"."""
    distance: float
    """Of shares: half the sum of differences, from 0 (alike) to 1. Of a number: the difference of the means, in
    standard deviations of the stored ones."""
    by_chance: float
    """The same between as many stored events, drawn by chance, and all of them: what no drift at all would show."""


def drifts(joined: Joined, *, seed: int = 0) -> list[Drift]:
    """Return the drift of popularity and of each feature but vectors, event by event; none without stored events."""
    log, users = joined.dataset.log, joined.dataset.log.users()
    generator = torch_generator(seed, "drift")

    def drawn(mask: Tensor) -> Tensor:
        places = mask.nonzero()[:, 0].cpu()
        return places[torch.randperm(len(places), generator=generator)[:MOST_EVENTS]]

    stored, fresh = drawn(~joined.fresh), drawn(joined.fresh)
    if not len(stored) or not len(fresh):
        return []
    chance = stored[torch.randint(len(stored), (len(fresh),), generator=generator)]
    items, users = log.items.cpu(), users.cpu()
    found = [_shares("popularity", *(items[part] for part in (stored, fresh, chance)))]
    sides: tuple[tuple[Side, Tensor, Features], ...] = (
        ("user", users, joined.dataset.user_features),
        ("item", items, joined.dataset.item_features),
    )
    for side, rows, columns in sides:
        for feature in joined.dataset.schema.features(side):
            if feature.kind != "vector":
                column = columns[feature.name].cpu()
                parts = [column[rows[part]] for part in (stored, fresh, chance)]
                found.append(_of_feature(f"{side}.{feature.name}", feature, *parts))
    return found


def _of_feature(name: str, feature: Feature, stored: Tensor, fresh: Tensor, chance: Tensor) -> Drift:
    if feature.is_discrete:
        return _shares(name, *(part[part > 0] for part in (stored, fresh, chance)))
    parts = [part[part.isfinite()].double() for part in (stored, fresh, chance)]
    if not all(map(len, parts)):
        return Drift(name, 0.0, 0.0)
    mean, spread = parts[0].mean(), parts[0].std(correction=0).clamp(min=1e-12)
    return Drift(name, *(float((part.mean() - mean).abs() / spread) for part in parts[1:]))


def _shares(name: str, stored: Tensor, fresh: Tensor, chance: Tensor) -> Drift:
    if not all(map(len, (stored, fresh, chance))):
        return Drift(name, 0.0, 0.0)
    size = max(FIRST_KNOWN, *(int(part.max()) + 1 for part in (stored, fresh, chance)))
    base, *others = (part.bincount(minlength=size).double() / len(part) for part in (stored, fresh, chance))
    return Drift(name, *(float((other - base).abs().sum() / 2) for other in others))
