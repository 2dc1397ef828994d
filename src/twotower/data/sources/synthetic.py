"""Users and items drawn from planted preferences, so that the best possible recall is known.

A user and an item have vectors of taste; the weight of an item for a user is exp(strength * user . item + popularity).
A user's events are drawn one after the other by weight, never the same item twice, so given all events before it the
last one has known probabilities: the weights of the items not taken yet, over their sum. The features of users and
items tell of the vectors, through noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError
from twotower.core.files import write_json
from twotower.data.prepare.spec import Spec
from twotower.data.sources.base import Source
from twotower.data.sources.synthetic_truth import Levels, largest
from twotower.data.sources.tables import database, literal, spec, write

TASTES = ("space", "crime", "romance", "war", "comedy", "nature", "music", "history")
WORDS = {
    "space": ("star", "orbit", "moon", "rocket", "alien", "comet"),
    "crime": ("shadow", "heist", "witness", "alibi", "detective", "vault"),
    "romance": ("letter", "kiss", "wedding", "summer", "promise", "heart"),
    "war": ("front", "soldier", "siege", "bridge", "captain", "retreat"),
    "comedy": ("clown", "neighbour", "mistake", "party", "cousin", "joke"),
    "nature": ("river", "forest", "wolf", "island", "storm", "reef"),
    "music": ("song", "violin", "stage", "chorus", "drum", "melody"),
    "history": ("empire", "queen", "scroll", "harbour", "treaty", "palace"),
}
START = 1_600_000_000
SMALLEST = 5
MOST = 100_000_000
ROWS = 256
"""Users drawn at a time; the numbers do not depend on it."""


@dataclass(frozen=True)
class Synthetic:
    """Configure what to draw."""

    users: int = 1000
    items: int = 500
    """Items that events may be drawn from."""
    cold_items: int = 25
    """Further items with features and without events."""
    events: int = 30
    """Mean events of a user; nobody has fewer than 5."""
    strength: float = 3.0
    """How much taste weighs against popularity; 0: all users alike."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.users < 1 or self.items < 2 * SMALLEST or self.cold_items < 0:
            raise InputError(f"synthetic needs a user and {2 * SMALLEST} items, got {self.users} and {self.items}")
        if max(self.users, self.items, self.cold_items) > MOST:
            raise InputError(f"synthetic draws at most {MOST:,} users, items and cold items each")
        if not SMALLEST <= self.events <= self.items // 2:
            raise InputError(f"synthetic: events must lie between {SMALLEST} and half the items, got {self.events}")
        if not 0 <= self.strength < float("inf"):
            raise InputError(f"synthetic: strength must be at least 0 and finite, got {self.strength}")


class World(NamedTuple):
    """Hold what is planted: vectors of taste and the popularity, the natural log of a weight. Cold items come last."""

    users: NDArray[np.float64]
    items: NDArray[np.float64]
    popularity: NDArray[np.float64]

    def log_weights(self, rows: slice, items: int, strength: float) -> NDArray[np.float64]:
        """Return the natural log of the weights: [rows, items]."""
        return strength * self.users[rows] @ self.items[:items].T + self.popularity[:items]


def plant(settings: Synthetic, generator: np.random.Generator) -> World:
    """Draw the vectors: an item mixes a few tastes that add up to 1, a user likes and dislikes some."""
    total = settings.items + settings.cold_items
    users = generator.normal(0.0, 0.5, (settings.users, len(TASTES)))
    users[np.arange(settings.users), generator.integers(len(TASTES), size=settings.users)] += 1.5
    items = generator.dirichlet(np.full(len(TASTES), 0.25), total)
    return World(users, items, generator.normal(0.0, 1.0, total))


def draw_events(world: World, settings: Synthetic, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Draw the items of each user in turn, in the order in which they were taken.

    Drawing by weight without putting back is the same as sorting log weight + Gumbel noise downwards.
    """
    wanted = (SMALLEST + generator.poisson(settings.events - SMALLEST, settings.users)).clip(max=settings.items // 2)
    for start in range(0, settings.users, ROWS):
        weights = world.log_weights(slice(start, start + ROWS), settings.items, settings.strength)
        keys = weights + generator.gumbel(size=weights.shape)
        for row, number in zip(keys, wanted[start : start + ROWS], strict=True):
            yield largest(row, int(number))


def write_synthetic(folder: Path, settings: Synthetic) -> Spec:
    """Draw tables, ``truth.json`` (levels) and ``truth.npz`` (vectors), write them into ``folder``, return the spec."""
    generator = np.random.default_rng(settings.seed)
    world = plant(settings, generator)
    taken = list(draw_events(world, settings, generator))
    lengths = np.array([len(items) for items in taken])
    starts = START + generator.integers(0, 50_000_000, settings.users)
    gaps = 60 + generator.exponential(40_000, lengths.sum()).astype(np.int64)
    with database() as connection:
        log = {
            "user": np.repeat(np.arange(settings.users), lengths),
            "item": np.concatenate(taken),
            "timestamp": np.repeat(starts, lengths) + _sums_within(gaps, lengths),
        }
        _write(connection, log, f"SELECT {_id('user')}, {_id('item')}, timestamp", folder / "interactions.parquet")
        people = "age, segment, split(topics, '|') AS topics"
        _write(connection, _people(world, generator), f"SELECT {_id('user')}, {people}", folder / "users.parquet")
        things = "title, genre, split(tags, '|') AS tags, year"
        _write(connection, _things(world, generator), f"SELECT {_id('item')}, {things}", folder / "items.parquet")
    levels = Levels.of(
        taken,
        lambda rows: world.log_weights(rows, settings.items, settings.strength),
        num_items=settings.items,
        num_cold=settings.cold_items,
    )
    write_json(folder / "truth.json", {"settings": asdict(settings), **levels.to_dict()})
    np.savez(folder / "truth.npz", **world._asdict())
    return _spec()


def _people(world: World, generator: np.random.Generator) -> dict[str, Any]:
    """The favourite taste, right four times in five; the two best of a noisy view; an age that follows one taste."""
    number = len(world.users)
    favourite = world.users.argmax(axis=1)
    lost = generator.random(number) < 0.2
    favourite = np.where(lost, generator.integers(len(TASTES), size=number), favourite)
    best = np.argsort(-(world.users + generator.normal(0.0, 0.4, world.users.shape)), axis=1, kind="stable")[:, :2]
    return {
        "user": np.arange(number),
        "age": np.clip(40 + 10 * world.users[:, -1] + generator.normal(0.0, 4.0, number), 12, 99).round(),
        "segment": [f"likes {TASTES[taste]}" for taste in favourite],
        "topics": ["|".join(TASTES[taste] for taste in row) for row in best],
    }


def _things(world: World, generator: np.random.Generator) -> dict[str, Any]:
    """The main taste; every taste of a noisy share; a year that follows one taste; a title of three words of taste."""
    number = len(world.items)
    noisy = world.items + generator.normal(0.0, 0.05, world.items.shape)
    shares = world.items.cumsum(axis=1)
    drawn = (generator.random((number, 3))[:, :, None] > shares[:, None, :]).sum(axis=2).clip(max=len(TASTES) - 1)
    words = generator.integers(6, size=(number, 3))
    year = np.clip(2000 - 30 * world.items[:, -1] + generator.normal(0.0, 8.0, number), 1930, 2024)
    return {
        "item": np.arange(number),
        "genre": [TASTES[taste] for taste in world.items.argmax(axis=1)],
        "tags": ["|".join(TASTES[taste] for taste in np.flatnonzero(row > 0.15)) or "other" for row in noisy],
        "year": year.round().astype(np.int64),
        "title": [
            " ".join(WORDS[TASTES[taste]][word] for taste, word in zip(*row, strict=True)).capitalize()
            for row in zip(drawn, words, strict=True)
        ],
    }


def _sums_within(gaps: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Running sums that start anew with each user."""
    sums = gaps.cumsum()
    ends = lengths.cumsum()
    before = np.concatenate([[0], sums[ends[:-1] - 1]])
    return np.asarray(sums - np.repeat(before, lengths), dtype=np.int64)


def _id(side: str) -> str:
    """SQL for an outside id, as u000012 or i000012."""
    return f"format({literal(side[0] + '{:06d}')}, {side}) AS {side}_id"


def _write(connection: Any, columns: dict[str, Any], select: str, target: Path) -> None:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    connection.register("drawn", arrays)
    write(connection, f"{select} FROM drawn", target)
    connection.unregister("drawn")


def _spec() -> Spec:
    return spec(
        "synthetic",
        time="timestamp",
        users={"age": "numeric", "segment": "categorical", "topics": "multi_categorical"},
        items={"title": "text", "genre": "categorical", "tags": "multi_categorical", "year": "numeric"},
        item_title="title",
    )


def _refuse(files: Path, out: Path, category: str | None) -> Spec:
    raise InputError("synthetic is drawn, not read")


SOURCES = (
    Source(
        "synthetic",
        "Drawn from planted preferences, with the best possible recall in truth.json",
        "",
        "Drawn on your machine: yours.",
        "None needed.",
        _refuse,
        drawn=True,
    ),
)
