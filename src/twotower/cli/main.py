"""Entry point: registers the verbs, and turns errors into one line and an exit status."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import sys
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Annotated

import typer

from twotower.cli.full_disk import full_disk
from twotower.cli.options import examples
from twotower.cli.terminate import ends_like_ctrl_c
from twotower.core.errors import InputError, SharedError, closest, cut, shown
from twotower.core.own_modules import import_own
from twotower.core.terminal import escape_unknown, visible
from twotower.core.version import __version__

VERBS = [
    "demo",
    "data",
    "fit",
    "train",
    "tune",
    "evaluate",
    "index",
    "add-items",
    "refresh",
    "compare",
    "recommend",
    "similar",
    "serve",
    "export",
    "vectors",
    "push",
    "pull",
    "diagnose",
    "remedy",
    "reproduce",
]
"""A verb is the function ``command`` (or the typer app ``app``) of the module of its name in this folder,
with an underscore for each dash."""

IMPORT = "--import"
"""Option before the verb whose value is the word that follows."""

EXAMPLES = examples(
    "twotower demo",
    "twotower data get ml-100k --prepare",
    "twotower train --data runs/data/ml-100k-prepared --model sasrec --to runs/sasrec",
    "twotower recommend runs/sasrec --user 196",
)

# Newer typers carry a click of their own, so its base error is reached through one that they export.
WrongUse: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

_SAY_HOW_TO_GO_ON = ("fit", "recommend", "refresh", "reproduce", "serve", "train", "tune")
"""Verbs that say themselves what is left after Ctrl-C; of the others nothing is."""

_WRONG_NAMES = (errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of the system that mean: another path was wanted, not: the machine failed."""


def build_app(only: str | None = None) -> typer.Typer:
    """Build the application with every verb, or with one, so that a call imports only what it runs."""
    app = typer.Typer(
        help="Two-tower retrieval and pre-ranking, from a raw log to a served, inspected recommender.",
        pretty_exceptions_enable=False,
        add_completion=True,
        epilog=EXAMPLES,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
        ] = False,
        verbose: Annotated[
            bool, typer.Option("--verbose", "-v", help="Show what is being done, step by step.")
        ] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors and results alone.")] = False,
        own: Annotated[
            list[str] | None,
            typer.Option(IMPORT, metavar="MODULE", help="Import a module with parts of your own; may be repeated."),
        ] = None,
    ) -> None:
        if verbose and quiet:
            raise InputError("give --verbose or --quiet, not both")
        _set_notices(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
        for name in own or []:
            import_own(name)

    for verb in VERBS if only is None else [only]:
        module = import_module(f"twotower.cli.{verb.replace('-', '_')}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(verb, epilog=help_end(module, verb == only))(module.command)
    return app


def help_end(module: ModuleType, whole: bool) -> str:
    """Return the end of a verb's help: its examples; with ``whole``, after the names that the verb takes."""
    parts = [getattr(module, "EXAMPLES", "")]
    if whole and hasattr(module, "names"):
        parts.insert(0, module.names())
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use, 3 the check says no, 130 or 143 stopped."""
    codecs.register_error("twotower.escape", escape_unknown)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console of few letters, as on Windows, shows the others as \uXXXX
            stream.reconfigure(errors="twotower.escape")
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if arguments is None and "_TWOTOWER_COMPLETE" in os.environ:  # a shell asks what may come next
        build_app()(prog_name="twotower")
    verb = next((word for before, word in pairwise(["", *words]) if word[:1] != "-" and before != IMPORT), None)
    if verb is not None and verb not in VERBS:
        sys.exit(_fail(f"no verb {shown(verb)}; {closest(verb, VERBS)}; see 'twotower --help'"))
    with ends_like_ctrl_c() as terminated:
        status = _status(verb, words)
        if status == 130 and verb not in _SAY_HOW_TO_GO_ON:
            print("stopped", file=sys.stderr)  # noqa: T201
        sys.exit(143 if status == 130 and terminated() else status)


def _status(verb: str | None, words: list[str]) -> int:
    """Run a verb; the exit status, with one line on standard error where it failed."""
    try:
        status = build_app(verb)(words, standalone_mode=False, prog_name="twotower")
        return status if isinstance(status, int) else 0
    except WrongUse as error:
        message: str = getattr(error, "format_message")()  # noqa: B009
        return _fail(f"{message.rstrip('.') or 'a command is missing'}; see 'twotower {verb or ''} --help'")
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except SharedError as error:
        return error.status
    except InputError as error:
        return _fail(str(error))
    except Exception as error:
        if said := full_disk(error, words):
            return _fail(said, status=1)
        if _out_of_memory(error):
            text = shown(str(error), 120)
            return _fail(f"more memory was asked for than is free ({text}); lower the sizes asked for")
        if not isinstance(error, OSError):
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", status=2 if error.errno in _WRONG_NAMES else 1)


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch says so by a RuntimeError on a CPU, and DuckDB by its own error."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(part in str(error) for part in ("can't allocate memory", "not enough memory", "out of memory"))
    )


def _set_notices(level: int) -> None:
    """Show notices of the package from ``level`` on, on standard error and as plain text."""
    ours = logging.getLogger("twotower")
    ours.setLevel(logging.NOTSET if level == logging.WARNING else level)
    if level != logging.WARNING and not any(isinstance(one, _Notices) for one in ours.handlers):
        ours.addHandler(_Notices())


class _Notices(logging.Handler):
    """Prints a record as one line without control characters."""

    def emit(self, record: logging.LogRecord) -> None:
        print(cut(visible(record.getMessage())), file=sys.stderr)  # noqa: T201


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"twotower {__version__}")  # noqa: T201
        raise typer.Exit
    return wanted


def _fail(text: str, status: int = 2) -> int:
    print("error: " + cut(visible(" ".join(text.split()))), file=sys.stderr)  # noqa: T201
    return status
