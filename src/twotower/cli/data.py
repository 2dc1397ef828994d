"""``twotower data``: get, generate, prepare, describe."""

from __future__ import annotations

import typer

from twotower.cli import data_describe, data_generate, data_get, data_prepare
from twotower.cli.options import examples

EXAMPLES = examples("twotower data get ml-100k --prepare", "twotower data prepare my-log.toml")

app = typer.Typer(help="Get, generate, prepare and describe data sets.", no_args_is_help=True, epilog=EXAMPLES)
app.command(epilog=data_get.EXAMPLES)(data_get.get)
app.command(epilog=data_generate.EXAMPLES)(data_generate.generate)
app.command(epilog=data_prepare.EXAMPLES)(data_prepare.prepare)
app.command(epilog=data_describe.EXAMPLES)(data_describe.describe)
