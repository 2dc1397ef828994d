"""Failures planted in healthy spaces, each with a strength, for `calibration.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Draw = np.random.Generator
Plant = Callable[[np.ndarray, float, Draw], tuple[np.ndarray, np.ndarray | None]]


class Planted(NamedTuple):
    """How to spoil a space, at which strengths, and in which healthy space."""

    plant: Plant
    strengths: tuple[float, ...]
    base: str = "clustered"
    is_geometric: bool = True
    """True when it can be planted in any space."""


def constant_features(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, None]:
    """``strength`` of the variance came from categories; all items now have the same one: that part is one vector."""
    return _served(base, strength, draw, draw.normal(size=base.shape[1])), None


def empty_features(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, None]:
    """The same, with the category's vector missing: the tower's bias, twice as long, is all that stands for it."""
    return _served(base, strength, draw, 2.0 * draw.normal(size=base.shape[1])), None


def _served(base: np.ndarray, share: float, draw: Draw, default: np.ndarray) -> np.ndarray:
    """A one-layer tower over a text part and a default that every row shares."""
    scale = base.std()
    return np.tanh((np.sqrt(1 - share) * base + np.sqrt(share) * scale * default) / scale)


def shared_mean(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, None]:
    """A mean vector that brings the mean cosine to ``strength``."""
    centred = base - base.mean(0)
    length = np.sqrt((centred**2).sum(1).mean() * strength / (1 - strength))
    mean = draw.normal(size=base.shape[1])
    return centred + mean * length / np.linalg.norm(mean), None


def rank_loss(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, None]:
    """Only ``strength`` directions are left, and one hundredth of noise."""
    turn = np.linalg.qr(draw.normal(size=(base.shape[1], base.shape[1])))[0]
    keep = turn[:, : int(strength)]
    flat = (base - base.mean(0)) @ keep
    return flat @ keep.T + 0.01 * flat.std() * draw.normal(size=base.shape), None


def duplicate_rows(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, None]:
    """``strength`` of the rows become copies of one of twenty rows."""
    spoiled = base.copy()
    hit = draw.random(len(base)) < strength
    spoiled[hit] = base[draw.integers(20, size=int(hit.sum()))]
    return spoiled, None


def norm_blow_up(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, None]:
    """One row in fifty is ``strength`` times as long."""
    spoiled = base.copy()
    spoiled[draw.permutation(len(base))[: max(1, len(base) // 50)]] *= strength
    return spoiled, None


def dead_dimensions(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, None]:
    """``strength`` of the dimensions stay at one value."""
    spoiled = base.copy()
    dead = draw.permutation(base.shape[1])[: round(strength * base.shape[1])]
    spoiled[:, dead] = draw.normal(size=len(dead)) * 0.1
    return spoiled, None


def popularity_capture(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """``strength`` of the variance follows the logarithm of popularity, along one direction."""
    popularity = np.floor(draw.pareto(1.0, size=len(base)) * 5)
    logged = np.log1p(popularity)
    logged = (logged - logged.mean()) / logged.std()
    axis = draw.normal(size=base.shape[1])
    axis /= np.linalg.norm(axis)
    spread = np.sqrt(base.var(0).sum() * strength / (1 - strength))
    return base + spread * logged[:, None] * axis, popularity


def zero_rows(base: np.ndarray, strength: float, draw: Draw) -> tuple[np.ndarray, None]:
    """``strength`` of the rows are all zero."""
    spoiled = base.copy()
    spoiled[draw.permutation(len(base))[: max(1, round(strength * len(base)))]] = 0.0
    return spoiled, None


FAILURES = {
    "constant_features": Planted(constant_features, (0.5, 0.8, 0.9, 0.95, 0.99), is_geometric=False),
    "empty_features": Planted(empty_features, (0.5, 0.8, 0.9, 0.95, 0.99), is_geometric=False),
    "shared_mean": Planted(shared_mean, (0.82, 0.9, 0.95, 0.98, 0.995)),
    "rank_loss": Planted(rank_loss, (8, 6, 4, 3, 2)),
    "duplicates": Planted(duplicate_rows, (0.1, 0.2, 0.5, 0.9)),
    "norm_blow_up": Planted(norm_blow_up, (10, 30, 100, 1000)),
    "dead_dimensions": Planted(dead_dimensions, (0.1, 0.25, 0.5, 0.9)),
    "popularity_capture": Planted(popularity_capture, (0.2, 0.4, 0.6, 0.9)),
    "zero_rows": Planted(zero_rows, (0.02, 0.1, 0.5)),
}
