"""The entry point: registers the verbs, and turns errors into one line and an exit status."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

from twotower.core.errors import InputError, closest
from twotower.core.terminal import visible
from twotower.core.version import __version__

VERBS = ["demo", "data", "train", "evaluate", "index", "recommend", "similar", "diagnose", "remedy", "reproduce"]
"""A verb is the function ``command`` (or the typer app ``app``) of the module of its name in this folder."""

# Newer typers carry a click of their own, so its base error is reached through one that they export.
WrongUse: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def build_app(only: str | None = None) -> typer.Typer:
    """The application with every verb, or with one, so that a call imports only what it runs."""
    app = typer.Typer(
        help="Two-tower retrieval and pre-ranking, from a raw log to a served, inspected recommender.",
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
        ] = False,
    ) -> None:
        pass

    for verb in VERBS if only is None else [only]:
        module = import_module(f"twotower.cli.{verb}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(verb)(module.command)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run; exit status 0 done, 1 failed, 2 wrong use or bad input, 3 the check says no, 130 stopped."""
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    verb = words[0] if not words[0].startswith("-") else None
    if verb is not None and verb not in VERBS:
        sys.exit(_fail(f"no verb '{verb}'; {closest(verb, VERBS)}; see 'twotower --help'"))
    try:
        status = build_app(verb)(words, standalone_mode=False, prog_name="twotower")
        sys.exit(status if isinstance(status, int) else 0)
    except WrongUse as error:
        message: str = getattr(error, "format_message")()  # noqa: B009
        sys.exit(_fail(f"{message.rstrip('.') or 'a command is missing'}; see 'twotower {verb or ''} --help'"))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except InputError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_fail(f"{where}{error.strerror or error}", status=1))


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"twotower {__version__}")  # noqa: T201
        raise typer.Exit
    return wanted


def _fail(text: str, status: int = 2) -> int:
    print("error: " + visible(" ".join(text.split())), file=sys.stderr)  # noqa: T201
    return status
