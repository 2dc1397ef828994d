"""The entry point: registers the verbs, and turns errors into one line and an exit status."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from twotower.core.errors import InputError, closest

VERBS = ["demo", "data", "train", "evaluate", "recommend", "similar", "diagnose"]
"""A verb is the function ``command`` (or the typer app ``app``) of the module of its name in this folder."""


def build_app(only: str | None = None) -> typer.Typer:
    """The application with every verb, or with one, so that a call imports only what it runs."""
    app = typer.Typer(
        help="Two-tower retrieval and pre-ranking, from a raw log to a served, inspected recommender.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    @app.callback()
    def root() -> None:
        pass

    for verb in [only] if only in VERBS else VERBS:
        module = import_module(f"twotower.cli.{verb}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(verb)(module.command)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run; exit status 0 done, 1 failed, 2 wrong use or bad input, 3 the check says no, 130 stopped."""
    import click

    words = sys.argv[1:] if arguments is None else arguments
    verb = next((word for word in words if not word.startswith("-")), None)
    if words and verb is not None and verb == words[0] and verb not in VERBS:
        sys.exit(_fail(f"no verb '{verb}'; {closest(verb, VERBS)}; see 'twotower --help'"))
    try:
        status = build_app(verb)(words, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        sys.exit(_fail(error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except InputError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_fail(f"{where}{error.strerror or error}", status=1))


def _fail(text: str, status: int = 2) -> int:
    print("error: " + " ".join(text.split()), file=sys.stderr)  # noqa: T201
    return status
