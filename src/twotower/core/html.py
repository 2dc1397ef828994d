"""Tables for notebooks: what ``_repr_html_`` of a result gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> str:
    """Return a table in HTML; every cell is text, and none of it is code.

    Examples:
        >>> html_table(["a"], [["<1>"]], caption="x")
        '<table><caption>x</caption><tr><th>a</th></tr><tr><td>&lt;1&gt;</td></tr></table>'
    """
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    lines = ["".join(f"<th>{escape(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    return f"<table>{named}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
