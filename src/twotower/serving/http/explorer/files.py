"""Files of the explorer's page, sent with headers under which the page runs its own scripts and no others."""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import Response

from twotower.diagnosis.report.style import SHARED, asset

HOME = "/explorer/"
"""Where the page is; all that it loads and asks lies below."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Sent with every file of the page."""

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

_OWN = (
    *("page.html", "page.css", "icon.svg", "page.js", "ask.js", "parts.js", "find.js", "history.js"),
    *("filter.js", "lists.js", "why.js", "map.js", "picture.js", "about.js"),
)
_VENDORED = "preact-htm.js"


def page_files() -> dict[str, Response]:
    """Return every file of the page by its path; no other path leads to a file."""
    own = files("twotower.serving.http.explorer") / "page"
    texts = {name: (own / name).read_text(encoding="utf-8") for name in _OWN}
    texts[_VENDORED] = (own / "vendor" / _VENDORED).read_text(encoding="utf-8")
    texts |= {name: asset(name) for name in (SHARED, "theme.js")}
    found = {HOME + name: _response(name, text) for name, text in texts.items()}
    found[HOME] = found.pop(HOME + "page.html")
    return found


def _response(name: str, text: str) -> Response:
    return Response(text, media_type=_KINDS[name.rpartition(".")[2]], headers=HEADERS)
