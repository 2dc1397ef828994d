"""Style sheets of a page: what all pages of the package share, and the report's own."""

from __future__ import annotations

from importlib.resources import files

SHARED = "base.css"
"""Colours, letters, cards and buttons, light and dark: of the report, the page of a fit and the service's explorer."""


def asset(name: str) -> str:
    """Return the text of a file beside this one."""
    return (files("twotower.diagnosis.report") / name).read_text(encoding="utf-8")


def report_style() -> str:
    """Return the style sheet of a report, whole."""
    return asset(SHARED) + "\n" + asset("page.css")
