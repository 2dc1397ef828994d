"""Parts of a report that need no script: verdict, figures, baselines, causes, notes. All text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from twotower.diagnosis.diagnose import Diagnosis
from twotower.diagnosis.report.words import ADVICE, BASELINE_FIGURES, BASELINES, FIGURES, VERDICTS

_SIGNS = {"healthy": "✓", "suspect": "!", "collapsed": "✕"}
SENTENCE = 40
"""A cell of more letters is read as a sentence."""
_TELLS_METHOD = {"vectors", "dimensions", "entropy_bins", "entropy_base", "neighbour_stability_noise", "intervals"} | {
    "silhouette_rows",
    "clustering_rows",
}
"""Of the method, and told in the meanings and notes."""


def verdict(diagnosis: Diagnosis, title: str) -> str:
    """Return the head of the page: the verdict and why."""
    word, statistics = diagnosis.verdict, diagnosis.statistics
    reasons = "".join(
        f'<li class="{reason.level}"><h3>{escape(_words(reason.name))} <span class="level">{reason.level}</span></h3>'
        f'<p>{escape(_sentence(reason.sentence))} <span class="figure">{shown(reason.value)}, '
        f"limit {shown(reason.threshold)}.</span></p>"
        f"{_advice(reason.name)}</li>"
        for reason in diagnosis.reasons
    )
    listed = f'<ol class="reasons" aria-label="Reasons">{reasons}</ol>' if reasons else "<p>No rule was broken.</p>"
    return (
        f'<section class="verdict {word}" aria-labelledby="verdict"><p class="source">{escape(title)} · '
        f"{statistics['vectors']:,} vectors of {statistics['dimensions']:,} dimensions</p>"
        f'<h1 id="verdict"><span class="sign" aria-hidden="true">{_SIGNS[word]}</span>{word.capitalize()}</h1>'
        f'<p class="lead">{VERDICTS[word]}</p>{listed}{_cold(diagnosis.cold)}</section>'
    )


def figures(diagnosis: Diagnosis) -> str:
    """Return all figures: raw, centred, with self-pairs, and what each one means.

    Those that nobody described come last.
    """
    told = {name for group in FIGURES.values() for name in group}
    known = {**diagnosis.centred, **diagnosis.statistics}
    rest = {
        name: (name, "")
        for name, value in known.items()
        if name not in told | _TELLS_METHOD and not isinstance(value, dict | list)
    }
    groups = {**FIGURES, "Other figures": rest}
    bodies = []
    for group, names in groups.items():
        rows = "".join(
            _figure_row(label, meaning, [side.get(name) for side in _sides(diagnosis)])
            for name, (label, meaning) in names.items()
            if known.get(name) is not None
        )
        if rows:
            bodies.append(f'<tbody><tr class="group"><th colspan="4" scope="rowgroup">{group}</th></tr>{rows}</tbody>')
    return (
        '<table class="figures"><caption>Raw: the vectors as given. Centred: after the mean vector is subtracted, '
        "which removes a cone but not a loss of rank. With self-pairs: each vector's cosine 1 with itself counts too."
        "</caption>"
        '<thead><tr><th scope="col">Figure</th><th scope="col">Raw</th><th scope="col">Centred</th>'
        f'<th scope="col">With self-pairs</th></tr></thead>{"".join(bodies)}</table>'
    )


def baselines(diagnosis: Diagnosis) -> str:
    """Return the figures that vectors without structure would have; empty when there is no comparison."""
    named = [(key, words) for key, words in BASELINES.items() if diagnosis.baselines.get(key)]
    if not named:
        return ""
    rows = [
        {"Figure": label, **{words: diagnosis.baselines[key].get(figure) for key, words in named}}
        for figure, label in BASELINE_FIGURES.items()
    ]
    return f"<h3>Against vectors without structure</h3>{table(rows, 'Baselines')}"


def causes(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the features that cause the finding, a row each, whatever columns they come with.

    Empty when no cause was looked for.
    """
    if not found:
        return ""
    first = ("feature", "reason")
    rows = [{name: row[name] for name in first if name in row} | dict(row) for row in found]
    return (
        '<section class="card" aria-labelledby="causes"><h2 id="causes">Causes</h2>'
        f"{table(rows, 'Features and what they did')}</section>"
    )


def notes(diagnosis: Diagnosis, more: Sequence[str]) -> str:
    """Return how the input was treated, and what is a sample."""
    lines = "".join(f"<li>{escape(_sentence(note))}</li>" for note in [*diagnosis.notes, *more])
    return f'<section class="card" aria-labelledby="notes"><h2 id="notes">Notes</h2><ul>{lines}</ul></section>'


def table(rows: Sequence[Mapping[str, Any]], label: str) -> str:
    """Return any list of records as a table that scrolls on its own where it is too wide."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: _kind([row.get(name) for row in rows]) for name in columns}
    head = "".join(f'<th scope="col"{kinds[name]}>{escape(_words(name))}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{kinds[name]}>{shown(row.get(name))}</td>" for name in columns) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table class="plain">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def shown(value: Any) -> str:
    """Return a value as escaped text: numbers to four digits, records as name and value."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list | tuple) and all(isinstance(part, str | int | float) for part in value):
        return ", ".join(shown(part) for part in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{escape(str(name)).replace('_', ' ')}: {shown(part)}" for name, part in value.items())
    return escape(str(value))


def _sides(diagnosis: Diagnosis) -> list[Mapping[str, Any]]:
    return [diagnosis.statistics, diagnosis.centred, diagnosis.with_self_pairs]


def _figure_row(label: str, meaning: str, values: list[Any]) -> str:
    cells = "".join(
        f'<td data-label="{side}">{shown(value)}</td>'
        for side, value in zip(("Raw", "Centred", "With self-pairs"), values, strict=True)
    )
    return f'<tr><th scope="row">{escape(label)}<span class="meaning">{escape(meaning)}</span></th>{cells}</tr>'


def _kind(cells: Sequence[Any]) -> str:
    """How a column is set: numbers to the right, and sentences have room."""
    if any(len(shown(cell)) > SENTENCE for cell in cells):
        return ' class="words"'
    numbers = all(cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in cells)
    return ' class="number"' if numbers else ""


def _cold(found: Mapping[str, Any]) -> str:
    return f'<p class="cold"><strong>Cold rows.</strong> {escape(_sentence(found["sentence"]))}</p>' if found else ""


def _advice(name: str) -> str:
    return f'<p class="advice">{escape(ADVICE[name])}</p>' if name in ADVICE else ""


def _words(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
