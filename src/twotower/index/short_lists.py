"""Short lists: a scan of all items for the users who got fewer answers than they asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from twotower.core.records import State, TopK
from twotower.core.states import map_state, take
from twotower.index.approximate_search import FEW, SHARE
from twotower.index.checks import allowed_among
from twotower.index.scan import Scan, Score

log = logging.getLogger(__name__)

Lists = Callable[[State, int, Tensor | None, Tensor | None], TopK]
"""States of users, items a user, ids to leave out and a mask of those that may come back -> the best in their lists."""


class WholeCatalogue(Scan):
    """Search all items that another index holds, without a copy of them.

    Args:
        score: every user with every item.
        states: of the items, by ascending id.
        ids: ascending, int64 [items].
        raised: settings of the other index that give longer answers when they are raised, in words.
    """

    def __init__(self, score: Score, states: State, ids: Tensor, *, raised: str) -> None:
        super().__init__(score)
        self._states, self._ids, self._raised = states, ids, raised
        self._said = False

    @property
    def states(self) -> State:
        """Return the states of the items, by ascending id."""
        return self._states

    def answer(self, lists: Lists, user_states: State, k: int, exclude: Tensor | None, allow: Tensor | None) -> TopK:
        """Answer by lists, and by a scan where they hold too few or few items may come back.

        Args:
            lists: what the lists alone hold.
            user_states: of at least one user; the other arguments are those of `Index.search`.
            k: items a user.
            exclude: ids that each user does not get.
            allow: items that alone may come back.
        """
        states = on_cpu(user_states)
        exclude, allow = (None if one is None else one.cpu() for one in (exclude, allow))
        allowed = None if allow is None else allowed_among(self.ids, allow)
        if allowed is not None and few(allowed):
            return self.search(states, k, exclude, allow)
        return self.fill(lists(states, k, exclude, allowed), states, exclude, allow)

    def fill(self, found: TopK, user_states: State, exclude: Tensor | None, allow: Tensor | None) -> TopK:
        """Answer once more the users whose row in ``found`` is not full, and say so once.

        ``found`` is changed; the other arguments are those of the search that gave it.
        """
        short = found.ids[:, -1] < 0
        if not bool(short.any()):
            return found
        again = self.search(
            take(user_states, short), found.ids.shape[1], None if exclude is None else exclude[short], allow
        )
        more = ((again.ids >= 0).sum(1) > (found.ids[short] >= 0).sum(1)).sum()
        if more and not self._said:
            self._said = True
            log.warning(
                "the lists of %d of %d users hold fewer than %d items that may come back: such users are answered by a "
                "scan of all items (said once); raise %s",
                more,
                len(short),
                found.ids.shape[1],
                self._raised,
            )
        found.ids[short], found.scores[short] = again.ids, again.scores
        return found


def default_longest(items: int) -> int:
    """Return how many items a list has at most, by the size of the catalogue.

    Examples:
        >>> [default_longest(items) for items in (900, 4_000, 43_000, 100_000, 1_000_000)]
        [100, 100, 430, 1000, 5000]
    """
    return max(100, min(items // 50, 200), min(items // 100, 1_000), items // 200)


def few(allowed: Tensor) -> bool:
    """Return whether so few items may come back (bool [items]) that lists would hold next to none: scan them."""
    return int(allowed.sum()) <= max(FEW, SHARE * len(allowed))


def on_cpu(states: State) -> State:
    """Return states on the CPU, cut off from the graph."""
    return map_state(lambda part: part.detach().cpu(), states)
