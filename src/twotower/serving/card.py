"""Model card of a bundle: Markdown for people, written from the bundle's own files alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from twotower.core.errors import shown
from twotower.core.files import read_json, read_toml, replacing_file
from twotower.core.schema import Schema

CARD = "README.md"
"""Name of the file: where a hub of models and a person look first."""
MARK = "<!-- written by twotower from the files of this bundle; it is written again when they change -->"
"""First line of a card of ours; a file without it is somebody else's and stays as it is."""


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the model card into a bundle's folder, in place of an earlier one; a file of somebody else's stays.

    Args:
        folder: of the bundle, with all its other files.
        manifest: of the bundle; its hashes are not read.
    """
    path = folder / CARD
    if path.is_file() and not path.read_bytes().startswith(MARK.encode()):
        return
    with replacing_file(path) as partial:
        partial.write_text(card(folder, manifest), encoding="utf-8")


def card(folder: Path, manifest: dict[str, Any]) -> str:
    """Return the model card: data and its licence, run, metrics with intervals, verdict, index, versions."""
    model = manifest["model"]
    lines = [MARK, "", f"# {_cell(model['name'])} on {_cell(manifest['data'])}", ""]
    lines += ["A recommender written by twotower. Load it with", ""]
    lines += ["```python", "import twotower", "", 'retriever = twotower.load("this folder")', "```", ""]
    lines += _data(Schema.load(folder / "schema.json"), read_json(folder / "data.json"), manifest)
    lines += _run(folder, manifest)
    lines += _metrics(manifest)
    lines += _refresh(manifest.get("refresh"))
    lines += _verdict(folder / "diagnosis.json")
    lines += ["## Index", "", _index(manifest), ""]
    lines += ["## Versions", "", f"Written {_cell(manifest['created'])}.", ""]
    lines += _table(("library", "version"), manifest["versions"].items())
    lines += ["## Personal data", ""]
    lines += ["Histories, user features and user ids lie in this folder: treat it as you treat the log.", ""]
    return "\n".join(lines)


def _data(schema: Schema, data: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    counts = data.get("counts") or {}
    rows = [(name.replace("_", " "), f"{number:,}") for name, number in counts.items() if isinstance(number, int)]
    if not counts:
        rows = [("users", f"{schema.num_users - 2:,}"), ("items", f"{schema.num_items - 2:,}")]
    if added := manifest.get("added_items"):
        rows.append(("items added since, by their features", f"{added:,}"))
    for side in ("user", "item"):
        features = schema.user_features if side == "user" else schema.item_features
        named = ", ".join(f"{feature.name} ({feature.kind})" for feature in features)
        rows.append((f"{side} features", named or "none"))
    source = data.get("source") or {}
    rows += [(name, source[name]) for name in ("home", "citation") if source.get(name)]
    rows.append(("licence", source.get("licence") or "not known: the data came from tables without one"))
    split = data.get("split")
    if isinstance(split, dict) and split.get("kind"):
        rows.append(("split", split["kind"]))
    return ["## Data", "", *_table(("", _cell(manifest["data"])), rows)]


def _run(folder: Path, manifest: dict[str, Any]) -> list[str]:
    settings = manifest["model"]["parameters"]
    path = folder / "run.toml"
    training = (read_toml(path) if path.is_file() else {}).get("training", {})
    rows = [(f"model.{name}", value) for name, value in settings.items()]
    rows += [(f"training.{name}", training[name]) for name in ("seed", "epochs", "batch_size") if name in training]
    lines = ["## Run", "", *_table(("setting", "value"), rows)] if rows else ["## Run", ""]
    if manifest.get("learnt"):
        lines += [f"It has learnt from {_cell(manifest['learnt'])}.", ""]
    return [*lines, "`run.toml` has every setting.", ""]


def _metrics(manifest: dict[str, Any]) -> list[str]:
    metrics, bounds = manifest["metrics"], manifest.get("intervals") or {}
    if not metrics:
        return ["## Metrics", "", "None were measured.", ""]
    rows = [
        (name, _number(value), " to ".join(_number(end) for end in bounds[name]) if name in bounds else "")
        for name, value in metrics.items()
    ]
    which = "on the test split" + (
        ", by the same model before it learnt those events too" if manifest.get("learnt") else ""
    )
    lines = ["## Metrics", "", f"Measured {which}, over the whole catalogue.", ""]
    return [*lines, *_table(("metric", "mean", "95 % interval over users"), rows)]


def _refresh(refresh: dict[str, Any] | None) -> list[str]:
    if refresh is None:
        return []
    added, found = refresh["added"], refresh["verdict"]
    news = ", ".join(f"{number:,} {what}" for what, number in added.items())
    return [
        "## Refresh",
        "",
        f"Trained on from an earlier bundle with what was new: {news}. On the newest events "
        f"({found['users']:,} users), before and after:",
        "",
        *_table(
            ("figure", "before", "after"),
            [
                (found["metric"], _number(found["old"]), _number(found["new"])),
                ("items in lists", _number(found["old_items"]), _number(found["new_items"])),
            ],
        ),
    ]


def _verdict(path: Path) -> list[str]:
    if not path.is_file():
        return ["## Verdict", "", "The item vectors were not checked: the model has none, or nobody asked.", ""]
    found = read_json(path)
    figures = [(name, _number(value)) for name, value in found.get("statistics", {}).items() if _is_number(value)]
    return ["## Verdict", "", f"Item vectors: **{_cell(found['verdict'])}**.", "", *_table(("figure", ""), figures)]


def _index(manifest: dict[str, Any]) -> str:
    if manifest["index"] is None:
        return "None: the item states are searched exactly."
    settings = ", ".join(f"{name} = {value}" for name, value in (manifest.get("index_settings") or {}).items())
    return _cell(f"{manifest['index']}{f' with {settings}' if settings else ''}") + "."


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows), ""]


def _cell(value: Any) -> str:
    """One line of Markdown that shows the text and does nothing: no tags, no cells, no links of its own."""
    text = shown(value, 400) if not isinstance(value, str) else shown(value, 400)[1:].removesuffix("'")
    for sign, safe in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\["), ("*", "\\*")):
        text = text.replace(sign, safe)
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> str:
    return "undefined" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
