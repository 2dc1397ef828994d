"""`write_report`: a diagnosis and its vectors as one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.folders import check_outside
from twotower.diagnosis.diagnose import Diagnosis
from twotower.diagnosis.projections import project
from twotower.diagnosis.report import charts, tables
from twotower.diagnosis.report.points import choose_rows, colouring, groups, neighbours_of, shorten, view
from twotower.diagnosis.report.style import asset, report_style
from twotower.diagnosis.table import TITLE_NAMES
from twotower.diagnosis.vectors import Vectors

_SCRIPTS = ("theme.js", "scene.js", "panel.js", "page.js")


def write_report(
    path: Path | str,
    diagnosis: Diagnosis,
    vectors: Any,
    *,
    ids: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    popularity: Sequence[float] | None = None,
    title: str = "Embedding space",
    seed: int = 0,
) -> None:
    """Write the diagnosis of ``vectors`` to ``path`` as a page that opens without a network.

    The page holds at most 2,000 points, drawn at random from more; their neighbours are looked for among all vectors.
    The same input and seed give the same file.

    Args:
        path: the HTML file; it is replaced as a whole.
        diagnosis: what `diagnose` found for the same vectors.
        vectors: [rows, dimensions], a tensor or an array, in memory or mapped from a file.
        ids: a name for each row.
        columns: what else is known of each row, to colour by. A column called title, name or label names the rows.
        popularity: how often each row is seen, another column to colour by.
        title: what the vectors are, for the head of the page.
        seed: of the sample and the projections.

    Raises:
        InputError: if lengths disagree, or the diagnosis is of other vectors.

    Examples:
        >>> import tempfile, torch, twotower
        >>> space = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = Path(folder) / "report.html"
        ...     write_report(page, twotower.diagnose(space), space, columns={"title": ["a", "b", "c", "d"]})
        ...     page.read_text(encoding="utf-8").startswith("<!doctype html>")
        True
    """
    check_outside(Path(path))
    rows = Vectors(vectors, ids=None if ids is None else [str(name) for name in ids])
    table = {"id": ids, **(columns or {}), "popularity": popularity}
    given = {name: _plain(values) for name, values in table.items() if values is not None}
    for name, values in given.items():
        if len(values) != rows.count:
            raise InputError(f"report: {name} has {len(values)} values for {rows.count} vectors; give one for each")
    judged = diagnosis.statistics["vectors"] + diagnosis.cold.get("rows", 0)
    if (judged, diagnosis.statistics["dimensions"]) != (rows.count, rows.dim):
        raise InputError(
            f"report: the diagnosis is of {judged} vectors of "
            f"{diagnosis.statistics['dimensions']} dimensions, these are {rows.count} of {rows.dim}"
        )
    points, notes = _points(rows, given, seed)
    page = _page(diagnosis, points, notes, title)
    with replacing_file(Path(os.path.abspath(path))) as partial:  # noqa: PTH100 - a link stays a link
        partial.write_text(page, encoding="utf-8")


def _points(rows: Vectors, columns: dict[str, list[Any]], seed: int) -> tuple[dict[str, Any], list[str]]:
    chosen = choose_rows(rows.count, seed)
    sample = rows.take(chosen)
    views, notes = project(sample, seed=seed)
    if len(chosen) < rows.count:
        notes.insert(
            0,
            f"Map: a random sample of {len(chosen):,} of {rows.count:,} vectors; neighbours are looked for among all.",
        )
    where, cosines = neighbours_of(rows, chosen)
    ids = columns.pop("id", None)
    title = next((name for name in columns if name.lower() in TITLE_NAMES), None)
    titles = columns.pop(title) if title is not None else ids
    on_map = chosen.tolist()
    # rows on the map come first, so that a place below their number is a point
    order = [*on_map, *sorted({row for near in where for row in near} - set(on_map))]
    place = {row: number for number, row in enumerate(order)}
    picked = {name: [values[row] for row in on_map] for name, values in columns.items()}
    lengths = [float(f"{length:.5g}") for length in rows.norms[chosen].tolist()]  # unit vectors are of one length
    coloured = [colouring(name, values) for name, values in {**picked, "vector length": lengths}.items()]
    return {
        "points": len(on_map),
        "names": [shorten(str(titles[row])) if titles is not None else f"row {row}" for row in order],
        "ids": [str(ids[row]) for row in order] if ids is not None and title is not None else None,
        "views": [view(projection) for projection in views],
        # the map opens in the first; a text, of which each row has its own, would leave it grey
        "columns": sorted(coloured, key=lambda column: not groups(column)),
        "neighbours": [[place[row] for row in near] for near in where],
        "cosines": cosines,
    }, notes


def _page(diagnosis: Diagnosis, points: dict[str, Any], notes: list[str], title: str) -> str:
    style = report_style()
    parts = "\n".join(asset(name) for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{parts}}})();\n'
    data = json.dumps(points, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Template(asset("page.html")).substitute(
        title=escape(f"{diagnosis.verdict}: {title}"),
        # the page may run this script and nothing else: not even one that a title smuggled in
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        verdict=tables.verdict(diagnosis, title),
        charts=_charts(diagnosis, points["names"]),
        figures=tables.figures(diagnosis),
        baselines=tables.baselines(diagnosis),
        causes=tables.causes(diagnosis.causes),
        notes=tables.notes(diagnosis, notes),
        # within a script element only "<" could end or open anything
        data=data.replace("<", "\\u003c"),
    )


def _charts(diagnosis: Diagnosis, names: list[str]) -> str:
    curves, statistics = diagnosis.curves, diagnosis.statistics
    drawn = []
    if found := curves.get("similarity_histogram"):
        picture = charts.histogram(found["counts"], found["low"], found["high"], statistics["mean_cosine"])
        drawn.append(_card("Similarity of pairs", picture, "One peak near 0 is a well-spread space; near 1, a cone."))
    if shares := curves.get("variance_spectrum"):
        picture = charts.spectrum(shares, statistics["principal_dimensions_for_90_percent"])
        drawn.append(_card("Variance spectrum", picture, "A steep fall: few directions carry everything."))
    if found := curves.get("decay"):
        lines = [(words, found[key]["similarities"]) for key, words in _DECAYS.items() if key in found]
        lines.append(("mean of all", found["mean"]))
        legend = "".join(
            f'<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true"><line class="line {style}" x1="0" x2="24" '
            f'y1="4" y2="4"/></svg>{escape(words)}</li>'
            for (words, _), style in zip(lines, ("first", "second", "third"), strict=False)
        )
        drawn.append(
            _card(
                "Decay of similarity",
                charts.decay(lines),
                "A good list falls: the first neighbours stand out from the rest.",
                f'<ul class="legend">{legend}</ul>',
            )
        )
    return "".join(drawn)


_DECAYS = {"typical": "typical item", "worst": "worst item (falls least)"}


def _card(heading: str, picture: str, reading: str, more: str = "") -> str:
    return f'<figure class="card"><h3>{heading}</h3>{picture}{more}<figcaption>{reading}</figcaption></figure>'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _plain(values: Any) -> list[Any]:
    """Python values of a list, an array or a tensor."""
    if isinstance(values, list):
        return values
    return values.tolist() if hasattr(values, "tolist") else np.asarray(values, dtype=object).tolist()
