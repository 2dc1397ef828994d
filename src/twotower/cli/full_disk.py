"""A full disk in one line: each library below has an error of its own for it, and some name no file."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from itertools import pairwise

_SIGNS = r"no space left on|os error 28\b|disk quota exceeded|\d+ requested and \d+ written"
"""What the system, Rust, and NumPy, which loses the reason, say."""


def full_disk(error: BaseException, words: Sequence[str]) -> str:
    """Return the line for an error that a full disk made, '' for any other.

    Args:
        error: of whatever library.
        words: of the command line; where the error names no file, the one after ``--to`` or ``--html`` is named, else
            the first of all.
    """
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full and not re.search(_SIGNS, str(error), re.IGNORECASE):
        return ""
    named = error.filename if isinstance(error, OSError) else None
    quoted = re.search(r'file \\?"([^"\\]+)', str(error))
    to = next((after for word, after in pairwise(words) if word in ("--to", "--html")), "")
    given = next((word for word in words[1:] if not word.startswith("-")), "")
    place = named or (quoted[1] if quoted else "") or to or given
    return f"{place}: No space left on device" if place else "No space left on device"
