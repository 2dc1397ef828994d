"""Text to words: lower-cased runs of letters, digits and their marks, of any script."""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache


def words_sql(column: str) -> str:
    """Return SQL for the words of a text, as a list. NULL stays NULL."""
    return rf"regexp_extract_all(lower({column}), '[\p{{L}}\p{{N}}\p{{M}}]+')"


def words(text: str) -> list[str]:
    """Return the words of a text: the plain form of `words_sql`, which prepares tables.

    Letter by letter, so a capital sigma at a word's end becomes the same letter as elsewhere, and a dotted capital I
    a plain i.

    Examples:
        >>> words("Don't stop: L'Été 1995 (director's_cut)")
        ['don', 't', 'stop', 'l', 'été', '1995', 'director', 's', 'cut']
    """
    return _word().findall("".join(map(str.lower, text.replace("\u0130", "i"))))


@cache
def _word() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"(?:[^\W_]|[{marks}])+")
