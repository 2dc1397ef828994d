"""Ranks: a command under torchrun, where one process speaks for all and when all must end one tells why."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from twotower.core.errors import InputError, SharedError
from twotower.core.terminal import visible

if TYPE_CHECKING:
    from twotower.training.distributed import World


def several() -> bool:
    """Return whether torchrun started more than one process."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextlib.contextmanager
def ranks(wait: float, work: str = "training", again: str = "") -> Iterator[World]:
    """Yield the processes that torchrun started; all but rank 0 are silent.

    Args:
        wait: seconds that ranks wait for each other.
        work: what they do, for the line that is told when all must end.
        again: how to go on then, for the same line; empty: as a training does.

    Raises:
        InputError: what some rank found, on the one that tells it; on the others a `SharedError`.
        OSError: likewise, where a rank is gone.
    """
    from twotower.training.collectives import AGAIN, LostRankError
    from twotower.training.distributed import World
    from twotower.training.interrupt import ends_when_told

    again = again or AGAIN
    ended = f"the {work} was told to end, as torchrun does when a rank is gone; {again}"

    def tell() -> None:
        if world.tells_first():
            print("error: " + visible(ended), file=sys.stderr)  # noqa: T201

    try:
        world = World.current(wait)
    except LostRankError as error:
        raise ConnectionError(error.line(work, again)) from error
    if world.rank:
        logging.getLogger("twotower").setLevel(logging.ERROR)
    lost = False
    try:
        with ends_when_told(ended, tell):
            yield world
    except SharedError:
        raise
    except (InputError, OSError) as error:
        lost = isinstance(error, OSError)
        text = error.line(work, again) if isinstance(error, LostRankError) else str(error)
        if not world.tells_first():
            raise SharedError(text, status=1 if lost else 2) from None
        if isinstance(error, LostRankError):
            raise ConnectionError(text) from error
        raise
    finally:
        world.close(lost=lost)
