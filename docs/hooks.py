"""What keeps the documentation true by itself: navigation from the folders, options from the commands."""

from __future__ import annotations

import re
from typing import Any

import typer
from mkdocs.structure.nav import Navigation, Page, Section

from twotower.cli.main import build_app

ORDER = ["index.md", "tutorial", "how-to", "concepts", "reference", "decisions.md", "experiments.md"]


def on_nav(nav: Navigation, **_: object) -> Navigation:
    """Sort the top level by ``ORDER``; what is not named there comes last."""

    def place(item: object) -> int:
        name = ""
        if isinstance(item, Page):
            name = item.file.src_uri
        elif isinstance(item, Section):
            name = next(child for child in item.children if isinstance(child, Page)).file.src_uri.split("/")[0]
        return ORDER.index(name) if name in ORDER else len(ORDER)

    nav.items.sort(key=place)
    return nav


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the options of a verb where ``<!-- options: VERB -->`` stands."""
    return re.sub(r"<!-- options: ([a-z]+) -->", lambda match: options(match[1]), markdown)


def options(verb: str) -> str:
    """The options of a verb, and of each command below it, as Markdown tables."""
    command: Any = typer.main.get_command(build_app(verb)).commands[verb]  # type: ignore[attr-defined]
    if not hasattr(command, "commands"):
        return table(command)
    return "\n\n".join(
        f"### twotower {verb} {name}\n\n{below.help or ''}\n\n{table(below)}"
        for name, below in command.commands.items()
    )


def table(command: Any) -> str:
    """One row an argument or option; those that every command has are left out."""
    rows = ["| Option | Default | Meaning |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        name = (
            ", ".join(f"`{word}`" for word in parameter.opts)
            if parameter.opts[0][0] == "-"
            else f"`{parameter.name.upper()}`"
        )
        default = "" if parameter.default in (None, False, ()) else f"`{parameter.default}`"
        if parameter.required:
            default = "needed"
        rows.append(f"| {name} | {default} | {(parameter.help or '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows)
