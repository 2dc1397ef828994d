"""Addresses of engines that run elsewhere: from the environment or a file, never from a bundle."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from twotower.core.errors import InputError, UnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSES = (0.1, 0.5)
"""Seconds before another try, where an engine does not answer."""


class Address(NamedTuple):
    """Hold where an engine is, and what it wants to be shown."""

    engine: str
    url: str
    token: str | None

    def __repr__(self) -> str:
        return self.shown

    @property
    def shown(self) -> str:
        """Return the engine and its address for a message, without a password in it."""
        return f"{self.engine} at {re.sub(r'//[^/@]*@', '//', self.url)}"


def address_of(engine: str) -> Address:
    """Return the address that the environment names: ``TWOTOWER_QDRANT_URL`` and ``TWOTOWER_QDRANT_TOKEN``.

    ``TWOTOWER_QDRANT_TOKEN_FILE`` names a file with the token instead. So it is for any engine.

    Raises:
        InputError: if no address is given, a token is given twice, or its file cannot be read.
    """
    name = f"TWOTOWER_{engine.upper()}"
    url, token, file = (os.environ.get(f"{name}_{part}", "").strip() for part in ("URL", "TOKEN", "TOKEN_FILE"))
    if not url:
        raise InputError(f"no address of {engine}: set {name}_URL, such as {name}_URL=http://localhost:6333")
    if token and file:
        raise InputError(f"{name}_TOKEN and {name}_TOKEN_FILE are both set; keep one")
    if file:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{name}_TOKEN_FILE: {file} cannot be read") from None
    return Address(engine, url, token or None)


def patiently(address: Address, call: Callable[[], T], passing: Callable[[Exception], str | None]) -> T:
    """Return what a call to an engine returns; one that fails for now is tried twice more.

    Args:
        address: that the call goes to.
        call: what is asked.
        passing: says of an error why it may be gone at another try, in a few words; None: it is of another kind.

    Raises:
        UnavailableError: if the engine does not answer at the last try either.
    """
    for pause in (*PAUSES, None):
        try:
            return call()
        except Exception as error:  # each client has classes of its own; those of no such kind go on
            why = passing(error)
            if why is None:
                raise
            if pause is None:
                raise UnavailableError(
                    f"{address.shown} does not answer ({why}); start it, or mend its address"
                ) from None
            log.info("%s does not answer (%s): once more in %g s", address.shown, why, pause)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")
