"""Text of a user shown in a terminal: letter for letter, never interpreted."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (ESC, CR, the one-byte CSI), marks that turn the order of letters round, lone surrogates."""


def visible(text: object, *, lines: bool = False) -> str:
    r"""Show control characters by their escapes, so that a terminal prints the text and does nothing else.

    Args:
        text: what to show; its ``str``.
        lines: line ends and tabs stay as they are.

    Examples:
        >>> visible("a\x1b[31mb\r"), visible("one\ntwo", lines=True)
        ('a\\x1b[31mb\\r', 'one\ntwo')
    """
    return _HIDDEN.sub(lambda found: found[0] if lines and found[0] in "\n\t" else _escape(found[0]), str(text))


def escape_unknown(error: UnicodeError) -> tuple[str, int]:
    r"""Give letters that a stream's encoding lacks by their escapes, which JSON reads back.

    Examples:
        >>> import codecs
        >>> codecs.register_error("twotower.escape", escape_unknown)
        >>> "caf\u00e9 \U0001f3b5".encode("ascii", "twotower.escape")
        b'caf\\u00e9 \\ud83c\\udfb5'

    Raises:
        UnicodeError: in reading, which it is not for.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[place : place + 2].hex() for place in range(0, len(units), 2))
    return "".join(f"\\u{unit}" for unit in pairs), error.end


def literal(text: object, style: str = "") -> Text:
    """Wrap a text for rich so that brackets, ``:names:`` of pictures and control characters are shown as they are."""
    from rich.text import Text

    return Text(visible(text, lines=True), style=style)


def json_text(value: Any) -> str:
    r"""Write JSON on one line with letters as they are and control characters escaped.

    Examples:
        >>> json_text({"title": "caf\u00e9\x9b"})
        '{"title": "café\\u009b"}'
    """
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", plain)


def _escape(character: str) -> str:
    return ascii(character)[1:-1]
