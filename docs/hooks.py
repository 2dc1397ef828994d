"""What keeps the documentation true by itself: navigation from the folders, options and run keys from the code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Page, Section

import twotower
from twotower.cli.main import build_app
from twotower.experiment.run import Run
from twotower.experiment.sources import SAMPLERS, source_parameters
from twotower.index.registry import INDEXES, index_class, index_parameters
from twotower.models.registry import MODELS, model_class, model_parameters

ORDER = ["index.md", "tutorial", "how-to", "concepts", "reference", "decisions.md", "experiments.md"]

# Folders of the package in the order in which data runs through them; the build fails when one is missing here.
FOLDERS = """
    data towers scorers models sampling losses training evaluation metrics index serving diagnosis experiment audit
    reproduce ops core
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the Python reference: a page for each folder of the package, and one that lists them."""
    for name, text in api_pages().items():
        files.append(File.generated(config, f"reference/api/{name}.md", content=text))
    return files


def api_pages() -> dict[str, str]:
    """The text of each page of the Python reference, by its name; mkdocstrings fills the pages from the docstrings."""
    root = Path(twotower.__file__).parent
    found = {path.parent.name for path in root.glob("*/__init__.py")} - {"cli"}
    if found != set(FOLDERS.split()):
        raise ValueError(f"FOLDERS and the package differ in {sorted(found ^ set(FOLDERS.split()))}")
    rows = ["| Folder | Contents |", "|---|---|"]
    pages = {}
    for folder in FOLDERS.split():
        head = ast.get_docstring(ast.parse((root / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        rows.append(f"| [`twotower.{folder}`]({folder}.md) | {head.splitlines()[0]} |")
        pages[folder] = f"# {folder}\n\n::: twotower.{folder}\n"
    pages["index"] = "\n".join(["# Python, from the docstrings", "", API_HEAD, "", *rows, ""])
    return pages


API_HEAD = """Made from the docstrings of the code at every build, a page for each folder of the package. What most
users need is on one page: [Python](../python-api.md)."""


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
    """Put the options of a verb where ``<!-- options: VERB -->`` stands, the keys of a run at ``<!-- run keys -->``."""
    markdown = re.sub(r"<!-- options: ([a-z]+) -->", lambda match: options(match[1]), markdown)
    return (
        markdown.replace("<!-- run keys -->", run_keys())
        .replace("<!-- model keys -->", model_keys())
        .replace("<!-- index keys -->", index_keys())
        .replace("<!-- source keys -->", source_keys())
    )


def run_keys() -> str:
    """Every section of a run with its keys, their defaults, and the sentence below each field."""
    sections = []
    for part in dataclasses.fields(Run):
        if part.name in ("model", "index"):
            continue
        value = getattr(Run(), part.name)
        sentences = field_sentences(type(value))
        rows = [f"## [{part.name}]", "", inspect.cleandoc(type(value).__doc__ or ""), ""]
        rows += ["| Key | Default | Meaning |", "|---|---|---|"]
        for key in dataclasses.fields(value):
            default = Run().to_dict()[part.name][key.name]
            rows.append(f"| `{key.name}` | `{default!r}` | {sentences[key.name]} |")
        sections.append("\n".join(rows))
    return "\n\n".join(sections)


def field_sentences(section: type) -> dict[str, str]:
    """The string below each field of a dataclass, by the field's name."""
    body = ast.parse(inspect.getsource(section)).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def model_keys() -> str:
    """Every model with the first line of what it is, and its settings with their defaults."""
    parts = []
    for name in sorted(MODELS):
        first = inspect.cleandoc(model_class(name).__doc__ or "").split("\n\n")[0]
        settings = ", ".join(f"`{key} = {default!r}`" for key, default in model_parameters(name).items())
        parts.append(f"### {name}\n\n{' '.join(first.split())}\n\n{settings or 'No settings.'}")
    return "\n\n".join(parts)


def index_keys() -> str:
    """Every index with the first line of what it is, and its settings with their defaults."""
    parts = []
    for kind in sorted(INDEXES):
        first = inspect.cleandoc(index_class(kind).__doc__ or "").split("\n\n")[0]
        settings = ", ".join(f"`{key} = {default!r}`" for key, default in index_parameters(kind).items())
        parts.append(f"### {kind}\n\n{' '.join(first.split())}\n\n{settings or 'No settings.'}")
    return "\n\n".join(parts)


def source_keys() -> str:
    """Every source of negatives with what it does, and its settings with their defaults and meanings."""
    parts = []
    for name in sorted(SAMPLERS):
        first, *rest = inspect.cleandoc(SAMPLERS.get(name).__doc__ or "").split("\n\n")
        told = {
            key: " ".join(text.split())
            for key, text in re.findall(r"^    (\w+): ((?:.|\n {6,})+)", "\n".join(rest), re.M)
        }
        rows = [
            f"| `{key}` | `{default!r}` | {told.get(key, '')} |"
            for key, default in (source_parameters(name) or {}).items()
        ]
        parts.append("\n".join([f"### {name}", "", first, "", "| Key | Default | Meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


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
        default = "" if parameter.default in (None, False, (), "") else f"`{parameter.default}`"
        if parameter.required:
            default = "needed"
        rows.append(f"| {name} | {default} | {(parameter.help or '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows)
