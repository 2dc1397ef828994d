"""``twotower data``: get, prepare, describe."""

from __future__ import annotations

import typer

from twotower.cli.data_describe import describe
from twotower.cli.data_get import get
from twotower.cli.data_prepare import prepare

app = typer.Typer(help="Get, prepare and describe data sets.", no_args_is_help=True)
app.command()(get)
app.command()(prepare)
app.command()(describe)
