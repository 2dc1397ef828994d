"""A planted world of any size: who likes which cluster of items and how much, in closed form or drawn by block."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from twotower.core.errors import InputError, shown
from twotower.core.files import read_json, write_json
from twotower.core.seeds import derive, numpy_generator
from twotower.data.power_law import PowerLaw

LEAST_EVENTS = 3
"""Of every user: one to learn from, one to choose by, one to test with."""
SHARES = np.array([0.6, 0.3, 0.1])
"""How much a user's first, second and third taste count."""
START = 1_600_000_000
DAY = 86_400
NEVER = 2**63 - 1
LARGEST = 2**31 - 1
MOST_EVENTS = 2**53
"""Beyond which sums of a power law no longer count single events."""
MOST_DAYS = 28_900
"""Until late in 2099: times after 2100 are taken for those of another unit."""
BLOCK_EVENTS = 1 << 20
"""Events drawn at a time, about; the block of a user follows from the settings alone."""
BLOCK_USERS = 1 << 16

Users = Int[np.ndarray, " users"]
Tastes = Int[np.ndarray, "users 3"]
Lists = Int[np.ndarray, "users k"]


@dataclass(frozen=True)
class WorldSettings:
    """Configure how large a generated log is, and how it is skewed."""

    users: int
    items: int
    events: int
    """Of the whole log, exactly; every user has at least 3."""
    clusters: int = 0
    """Groups of items that tastes are about; 0: the square root of the items."""
    item_exponent: float = 1.0
    """Of the power law of an item's popularity by its rank."""
    user_exponent: float = 0.7
    """Of the power law of a user's events by his rank."""
    noise: float = 0.1
    """Share of events that follow what is popular with all, not the user's taste."""
    drift: float = 0.2
    """Share of users whose tastes are replaced by others at a moment of their own."""
    session: float = 5.0
    """Mean events of a session: minutes apart, and about one taste."""
    days: int = 365
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("users", self.users), ("items", self.items)):
            if not 1 <= value <= LARGEST:
                raise InputError(f"generate: {name} must lie between 1 and {LARGEST:,}, got {shown(value, 40)}")
        if self.events < LEAST_EVENTS * self.users:
            raise InputError(
                f"generate: events are those of the whole log, at least {LEAST_EVENTS} a user: "
                f"{LEAST_EVENTS * self.users:,} for {self.users:,} users, got {self.events:,}"
            )
        if self.events > MOST_EVENTS:
            raise InputError(f"generate: events must be at most {MOST_EVENTS:,}, got {shown(self.events, 40)}")
        if not 0 <= self.clusters <= self.items:
            raise InputError(
                f"generate: clusters must lie between 1 and the {self.items:,} items, got {self.clusters:,}"
            )
        for name, share in (("noise", self.noise), ("drift", self.drift)):
            if not 0.0 <= share <= 1.0:
                raise InputError(f"generate: {name} is a share between 0 and 1, got {share}")
        for name, exponent in (("item_exponent", self.item_exponent), ("user_exponent", self.user_exponent)):
            if not 0.0 <= exponent <= 5.0:
                raise InputError(f"generate: {name} must lie between 0 and 5, got {exponent}")
        if not 1.0 <= self.session < math.inf:
            raise InputError(f"generate: session must be at least 1 and finite, got {self.session}")
        if not 1 <= self.days <= MOST_DAYS:
            raise InputError(
                f"generate: days must lie between 1 and {MOST_DAYS:,}, since the log begins in 2020 and times after "
                f"2100 are taken for mistaken ones; got {shown(self.days, 40)}"
            )


class Tasters(NamedTuple):
    """Hold the tastes of some users: clusters before the moment ``moves_at`` (Unix seconds), and from then on."""

    first: Tastes
    later: Tastes
    moves_at: Users

    def at(self, times: Users) -> Tastes:
        """Return the tastes at a moment of each user."""
        return np.where((times >= self.moves_at)[:, None], self.later, self.first)


class World:
    """Hold what is planted; nothing in it grows with users or items.

        P(item | user, t) = (1 − noise) Σ share · P(item | taste) + noise Σ P(cluster) P(item | cluster)

    A user's tastes are three clusters, drawn by their popularity. Clusters, items within a cluster and users' activity
    follow power laws. Ids are scattered over the ranks by an affine map, so that they tell nothing.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.clusters = settings.clusters or max(1, math.isqrt(settings.items))
        self.cluster_law = PowerLaw(0.7, 1.0)
        self.item_law = PowerLaw(settings.item_exponent, 10.0)
        self.user_law = PowerLaw(settings.user_exponent, 1.0 + settings.users / 1000)
        self.block_users = max(1, min(BLOCK_EVENTS * settings.users // settings.events, BLOCK_USERS))
        self._item_step, self._item_shift = _affine(settings.items, settings.seed, "items")
        self._user_step, self._user_shift = _affine(settings.users, settings.seed, "users")

    @property
    def end(self) -> int:
        """Return the last moment at which a session begins."""
        return START + self.settings.days * DAY

    @property
    def blocks(self) -> int:
        """Return how many blocks of users there are."""
        return -(-self.settings.users // self.block_users)

    def block(self, number: int) -> Users:
        """Return the ids of a block's users."""
        first = number * self.block_users
        return np.arange(first, min(first + self.block_users, self.settings.users))

    @property
    def largest_user(self) -> int:
        """Return the events of the most active user."""
        left = self.settings.events - LEAST_EVENTS * self.settings.users
        return LEAST_EVENTS + int(left * self.user_law.cumulative(np.array([1]), self.settings.users)[0])

    def events_of(self, users: Users) -> Users:
        """Return how many events users have; over all users exactly the events of the log."""
        left = self.settings.events - LEAST_EVENTS * self.settings.users
        ranks = (users * self._user_step + self._user_shift) % self.settings.users
        before, after = (
            np.floor(left * self.user_law.cumulative(ranks + more, self.settings.users)).astype(np.int64)
            for more in (0, 1)
        )
        return LEAST_EVENTS + after - before

    def tastes_of_block(self, number: int) -> Tasters:
        """Return the tastes of a block's users."""
        generator, users = numpy_generator(self.settings.seed, "tastes", number), len(self.block(number))
        first, later = (self.cluster_law.draw(drawn, self.clusters) for drawn in generator.random((2, users, 3)))
        moments = START + generator.integers(0, self.settings.days * DAY, users)
        stays = generator.random(users) >= self.settings.drift
        return Tasters(first, later, np.where(stays, NEVER, moments))

    def tastes(self, users: Users) -> Tasters:
        """Return the tastes of any users."""
        parts = Tasters(np.empty((len(users), 3), np.int64), np.empty((len(users), 3), np.int64), users.copy())
        blocks = users // self.block_users
        for number in np.unique(blocks).tolist():
            here = blocks == number
            found = self.tastes_of_block(number)
            for part, values in zip(parts, found, strict=True):
                part[here] = values[users[here] - number * self.block_users]
        return parts

    def items_of(self, clusters: Int[np.ndarray, "*any"], ranks: Int[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
        """Return the ids of the items of some ranks within their clusters."""
        return ((ranks * self.clusters + clusters) * self._item_step + self._item_shift) % self.settings.items

    def places_of(self, items: Int[np.ndarray, "*any"]) -> tuple[Int[np.ndarray, "*any"], Int[np.ndarray, "*any"]]:
        """Return the cluster of each item and its rank there."""
        back = pow(self._item_step, -1, self.settings.items)
        places = (items - self._item_shift) % self.settings.items * back % self.settings.items
        return places % self.clusters, places // self.clusters

    def sizes(self, clusters: Int[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
        """Return how many items clusters have."""
        return (self.settings.items - clusters + self.clusters - 1) // self.clusters

    def probability(self, tastes: Tastes, items: Lists) -> Float[np.ndarray, "users k"]:
        """Return the probability of each item as the next event of a user of these tastes."""
        clusters, ranks = self.places_of(items)
        within = self.item_law.probability(ranks, self.sizes(clusters))
        popular = self.cluster_law.probability(clusters, self.clusters)
        liked = ((clusters[:, :, None] == tastes[:, None, :]) * SHARES).sum(axis=2)
        return within * ((1.0 - self.settings.noise) * liked + self.settings.noise * popular)

    def best(self, tastes: Tastes, k: int) -> Lists:
        """Return the k most probable items of users, the most probable first; all items where there are fewer."""
        k = min(k, self.settings.items)
        popular, size = self._heads(np.repeat(np.arange(self.clusters), k), k), len(tastes)
        own = [self._heads(np.repeat(tastes[:, place], k), k).reshape(size, k) for place in range(3)]
        chance = self.probability(np.full((1, 3), -1), np.maximum(popular, 0)[None])[0]
        # Of the 4 k first at most 3 k are of a user's own clusters, where the k first are found anyway.
        top = popular[np.argsort(-np.where(popular < 0, -1.0, chance), kind="stable")[: 4 * k]]
        found = np.sort(np.concatenate([*own, np.broadcast_to(top, (size, len(top)))], axis=1), axis=1)
        found[:, 1:][found[:, 1:] == found[:, :-1]] = -1
        chances = np.where(found < 0, -1.0, self.probability(tastes, np.maximum(found, 0)))
        return np.take_along_axis(found, np.argsort(-chances, axis=1, kind="stable")[:, :k], axis=1)

    def recall(self, users: Users, items: Lists, *, at: int | None = None) -> Float[np.ndarray, " users"]:
        """Return the recall of lists against the truth: their probability over that of the best list of the length.

        Args:
            users: ids.
            items: ids, a list for each user; -1 stands for no item, and no item may come twice.
            at: the moment, in Unix seconds; None: the end of the log.
        """
        tastes = self.tastes(users).at(np.full(len(users), self.end if at is None else at))
        got = np.where(items < 0, 0.0, self.probability(tastes, np.maximum(items, 0))).sum(axis=1)
        return got / self.probability(tastes, self.best(tastes, items.shape[1])).sum(axis=1)

    def _heads(self, clusters: Users, k: int) -> Users:
        """The first k items of each cluster, which stands k times in a row; -1 where it has fewer."""
        ranks = np.arange(len(clusters)) % k
        return np.where(ranks < self.sizes(clusters), self.items_of(clusters, ranks), -1)

    def save(self, path: Path | str) -> None:
        """Write the settings, which say all."""
        write_json(Path(path), {"kind": "planted-world", "settings": asdict(self.settings)})

    @classmethod
    def load(cls, path: Path | str) -> World:
        """Read what `save` wrote.

        Raises:
            InputError: if it is something else.
        """
        found = read_json(Path(path))
        if not isinstance(found, dict) or found.get("kind") != "planted-world":
            raise InputError(f"{path}: not the truth of a generated log; it lies in truth/world.json of its folder")
        try:
            return cls(WorldSettings(**found["settings"]))
        except (KeyError, TypeError):
            raise InputError(f"{path}: its settings are not those of this version; generate the log again") from None


def _affine(size: int, seed: int, purpose: str) -> tuple[int, int]:
    """Step and shift of a map of range(size) onto itself that spreads neighbours evenly: by the golden section."""
    step = max(1, round(size * 0.6180339887498949))
    while math.gcd(step, size) != 1:
        step += 1
    return step % size if size > 1 else 1, derive(seed, "shift", purpose) % size
