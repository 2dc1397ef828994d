"""The page of a fit: one HTML file without a script or a network, all text of the user's escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from string import Template
from typing import Any

from twotower.core.durations import clock
from twotower.core.files import read_json, replacing_file
from twotower.data.describe import describe
from twotower.diagnosis.report.charts import Axes
from twotower.diagnosis.report.style import report_style
from twotower.diagnosis.report.words import VERDICTS
from twotower.experiment.ladder.advice import advice
from twotower.experiment.ladder.examples import Example, examples
from twotower.experiment.ladder.fitted import Fitted
from twotower.experiment.ladder.pick import shown_p
from twotower.experiment.ladder.rungs import METRIC, Rung

STYLE = """
pre { overflow-x: auto; background: var(--page); padding: 12px; border-radius: 6px; font-size: .85rem; }
.chosen th, .chosen td { font-weight: 700; background: var(--page); }
.next { list-style: disc; padding-left: 20px; }
.next code, .lead code { overflow-wrap: anywhere; }
td ol { list-style: decimal; padding-left: 20px; }
"""


def write_page(fitted: Fitted, *, budget: float) -> None:
    """Write ``fitted.report``: leaderboard, curves, data, geometry, examples and what to do next.

    Args:
        fitted: what a fit has left; its bundle is asked for the examples.
        budget: seconds that it was given.
    """
    style = follow_system(report_style()) + STYLE
    name = fitted.dataset.name
    steps = "".join(f"<li>{text}</li>" for text in advice(fitted, budget=budget))
    page = _PAGE.substitute(
        title=escape(f"{fitted.choice.name} on {name}"),
        policy=f"default-src 'none'; style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'",
        style=style,
        source=escape(f"{name} · budget {clock(budget)}" + (" · stopped before its end" if fitted.stopped else "")),
        model=escape(fitted.choice.name),
        reason=escape(fitted.choice.reason + "."),
        bundle=escape(str(fitted.bundle)),
        learnt=escape(fitted.last_fit),
        board=_board(fitted),
        curves=_curves(fitted.rungs),
        data=_data(fitted),
        geometry=_geometry(fitted),
        examples=_examples(examples(fitted.bundle, fitted.dataset, mask_seen=fitted.mask_seen)),
        steps=steps,
    )
    with replacing_file(fitted.report) as partial:
        partial.write_text(page, encoding="utf-8")


def follow_system(style: str) -> str:
    """Return the style of a page without a script: dark where the system is, not by a button.

    Examples:
        >>> follow_system(':root[data-theme="dark"] { --page: black; }')
        '@media (prefers-color-scheme: dark) { :root { --page: black; } }'
    """
    return re.sub(r':root\[data-theme="dark"\] (\{[^}]*\})', r"@media (prefers-color-scheme: dark) { :root \1 }", style)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table of rows that are HTML already."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="scroll"><table class="plain"><thead><tr>{names}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _board(fitted: Fitted) -> str:
    rows = []
    for rung in fitted.rungs:
        style = ' class="chosen"' if rung.name == fitted.choice.name else ""
        if rung.validation is None or rung.test is None:
            rows.append(
                f'<tr{style}><th scope="row">{escape(rung.name)}</th><td colspan="7">left out: '
                f"{escape(rung.left_out)}</td></tr>"
            )
            continue
        p = fitted.choice.p_values.get(rung.name)
        recall = rung.test.metrics.get("recall@10")
        covered = rung.test.metrics.get("coverage@10")
        cells = [
            _interval(rung.validation.metrics[METRIC], rung.validation.intervals()[METRIC]),
            shown_p(p),
            _interval(rung.test.metrics[METRIC], rung.test.intervals()[METRIC]),
            "" if recall is None else f"{recall:.4f}",
            "" if covered is None else f"{covered:.0%}",
            clock(rung.seconds),
            "stopped by its time" if rung.short else "",
        ]
        figures = "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
        rows.append(f'<tr{style}><th scope="row">{escape(rung.name)}</th>{figures}</tr>')
    head = ["model", f"validation {METRIC}", "p", f"test {METRIC}", "test recall@10", "covered", "time", ""]
    return table(head, rows)


def _interval(mean: float, bounds: tuple[float, float]) -> str:
    return f"{mean:.4f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _curves(rungs: Sequence[Rung]) -> str:
    drawn = [
        f'<figure class="card"><h3>{escape(rung.name)}: {escape(words)}</h3>{curve(rung.records, key, words)}</figure>'
        for rung in rungs
        for key, words in (("loss", "training loss"), (METRIC, f"validation {METRIC}"))
        if any(key in record for record in rung.records)
    ]
    return "".join(drawn) or '<p class="quiet">No model was trained epoch by epoch.</p>'


def curve(records: Sequence[dict[str, Any]], key: str, words: str) -> str:
    """Draw one figure by epoch, as SVG."""
    points = [(int(record["epoch"]), float(record[key])) for record in records if key in record]
    low, high = min(y for _, y in points), max(y for _, y in points)
    room = max(high - low, 1e-6 + 1e-3 * abs(high)) * 0.08
    last = max(2, points[-1][0])
    axes = Axes((1, last), (low - room, high + room))
    axes.line(points, "line first")
    for epoch, value in points:
        axes.add(
            f'<circle class="dot first" cx="{axes.x(epoch):.1f}" cy="{axes.y(value):.1f}" r="3">'
            f"<title>epoch {epoch}: {value:.4f}</title></circle>"
        )
    step = max(1, -(-last // 6))
    ticks = {float(epoch): str(epoch) for epoch in range(1, last + 1, step)}
    heights = {low + (high - low) * part / 3: f"{low + (high - low) * part / 3:.4g}" for part in range(4)}
    described = (
        f"{words} from {points[0][1]:.4f} in epoch {points[0][0]} to {points[-1][1]:.4f} in epoch {points[-1][0]}"
    )
    return axes.svg(described, ticks, heights, "epoch", words)


def _data(fitted: Fitted) -> str:
    found = describe(fitted.dataset)
    users, items = found["events_per_user"], found["events_per_item"]
    time = found["time"]
    facts = {
        "users": f"{found['users']:,}",
        "items": f"{found['items']:,}, of which {found['cold_items']:,} without an event",
        "events": f"{found['events']:,}, of which {found['positives']:,} positives",
        "events a user": f"{users['min']:,} to {users['max']:,}, median {users['median']:,}",
        "events an item": f"{items['min']:,} to {items['max']:,}, median {items['median']:,}",
        "the most popular 1 % of items": f"{found['popularity']['share_of_top']['1%']:.0%} of all events",
        "seen before": f"{fitted.repeats:.1%} of the next items",
        "clock": "none" if time is None else f"{time['first']} to {time['last']}",
        "split": fitted.split.leaks,
        "features": ", ".join(f"{one['name']} ({one['kind']})" for one in found["features"]) or "none",
    }
    rows = [f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in facts.items()]
    notes = "".join(f"<li>{escape(note)}</li>" for note in fitted.notes)
    spec = escape(fitted.spec.read_text(encoding="utf-8"))
    return f'{table(["", ""], rows)}<h3>What was guessed and done</h3><ul class="next">{notes}</ul><pre>{spec}</pre>'


def _geometry(fitted: Fitted) -> str:
    """The check of every model that has item vectors, the one that is taken first."""
    found = {} if fitted.diagnosis is None else {fitted.choice.name: fitted.diagnosis}
    for rung in fitted.rungs:
        if rung.name not in found and (rung.bundle / "diagnosis.json").is_file():
            found[rung.name] = read_json(rung.bundle / "diagnosis.json")
    none = "" if fitted.diagnosis else f"<p>{escape(fitted.choice.name)} has no item vectors to check.</p>"
    return none + "".join(_space(name, diagnosis) for name, diagnosis in found.items())


def _space(name: str, diagnosis: dict[str, Any]) -> str:
    word, figures = diagnosis["verdict"], diagnosis["statistics"]
    cosine = figures["mean_cosine"]
    reasons = "".join(f"<li>{escape(reason['sentence'])}</li>" for reason in diagnosis["reasons"])
    return (
        f'<h3 class="{escape(word)}">{escape(name)} <span class="level">{escape(word)}</span></h3>'
        f"<p>{escape(VERDICTS[word])} {figures['vectors']:,} vectors, mean cosine "
        f"{'undefined' if cosine is None else f'{cosine:.2f}'}, {figures['effective_dimensions']} of "
        f'{figures["dimensions"]} dimensions in use.</p><ul class="next">{reasons}</ul>'
    )


def _examples(users: Sequence[Example]) -> str:
    def listed(items: Sequence[str]) -> str:
        return f"<ol>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ol>"

    rows = [
        f'<tr><th scope="row">{escape(one.user)}</th><td class="number">{one.events:,}</td>'
        f"<td>{listed(one.seen)}</td><td>{listed(one.answers)}</td></tr>"
        for one in users
    ]
    return table(["user", "events", "seen, latest first", "gets, best first"], rows)


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header class="bar"><span class="brand">twotower fit</span></header>
<main>
<section class="verdict healthy"><p class="source">$source</p><h1>$model</h1><p class="lead">$reason</p>
<p class="lead">Bundle <code>$bundle</code>, learnt from $learnt.</p></section>
<section class="card"><h2>Leaderboard</h2>$board
<p class="quiet">Every held-out event is looked for among the whole catalogue; 95 % intervals over users. p: paired
permutation test against the best on validation. Validation chooses; the test was asked once a model and chooses
nothing. Both columns are of models that learnt the training events alone.</p></section>
<section><h2>Curves</h2><div class="charts">$curves</div></section>
<section class="card"><h2>Ten users</h2>$examples</section>
<section class="card"><h2>Item vectors</h2>$geometry</section>
<section class="card"><h2>Data</h2>$data</section>
<section class="card"><h2>What to do next</h2><ul class="next">$steps</ul></section>
</main>
</body>
</html>
""")
