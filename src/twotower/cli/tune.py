"""``twotower tune``: trials of a run with other settings, within a time budget; the best as a run file."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.cli.options import Device, examples
from twotower.core.errors import InputError
from twotower.core.terminal import literal, visible

if TYPE_CHECKING:
    from rich.table import Table

    from twotower.experiment.run import Run
    from twotower.experiment.tuning.tune import Tuned

EXAMPLES = examples(
    "twotower tune --data runs/ml-100k-prepared --model sasrec --budget 30m --to runs/tuning",
    "twotower tune runs/sasrec/run.toml --space training.batch_size=[64,128] --resume --to runs/tuning",
)
SHOWN = 10
"""Trials of the table on the terminal; the page has all."""


def command(
    run_file: Annotated[Path | None, typer.Argument(help="A run file (TOML), with or without [tune].")] = None,
    data: Annotated[Path | None, typer.Option(help="A prepared data set; in place of data.path.")] = None,
    model: Annotated[str | None, typer.Option(help="A model's name, with its default run.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder of the tuning.", show_default=False)] = None,
    budget: Annotated[str, typer.Option(help="Wall time, as 90s, 30m or 1h30m.")] = "30m",
    trials: Annotated[int, typer.Option(help="Most trials in all; 0: as the budget allows.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, which is then not tuned; may be repeated.")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(help="section.key=[0.1,0.3] or section.key={low=0.1,high=0.3}: what to try; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sampler; trainings have training.seed.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the tuning in TO.")] = False,
    device: Device = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Search settings of a run by validation alone, and write the best as a run file for train."""
    from twotower.core.durations import seconds_of

    seconds_of(budget)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("tuning runs in one process; leave torchrun out")
    run, own = _described(run_file, model, recipe)
    run = run.with_settings(settings or [])
    fixed = [setting.partition("=")[0].strip() for setting in settings or []]
    own = {key: value for key, value in own.items() if key not in fixed} | _own_space(space or [])
    if data is not None:
        run = replace(run, data=replace(run.data, path=str(data)))
    if device:
        run = replace(run, training=replace(run.training, device=device))
    if to is None:
        raise InputError("name the tuning's folder: --to runs/my-tuning")
    if not run.data.path:
        raise InputError("no data: give --data DIR, or data.path in the run; make one with 'twotower data prepare'")

    from rich.console import Console

    from twotower.cli.answers import print_json
    from twotower.cli.notices import is_quiet
    from twotower.experiment.tuning.trial import metric_name
    from twotower.experiment.tuning.tune import BEST, PAGE, tune
    from twotower.training.progress import Progress

    try:
        tuned = tune(
            run,
            to=to,
            budget=budget,
            space=own,
            fixed=fixed,
            trials=trials,
            resume=resume,
            seed=seed,
            tell=_notice,
            watch=lambda title: [Progress(title, metric_name(run), quiet=is_quiet())],
        )
    except KeyboardInterrupt:
        _notice("stopped before any trial had a figure; the same command with --resume goes on")
        raise
    if as_json:
        print_json(tuned.to_json())
    else:
        Console().print(board(tuned))
    for text in tuned.warnings:
        _notice(text)
    if tuned.importance:
        _notice("what mattered: " + ", ".join(f"{key} {share:.2f}" for key, share in tuned.importance.items()))
    _notice(f"page: {to / PAGE}; best run, to be trained by 'twotower train': {to / BEST}")
    if tuned.stopped:
        _notice("stopped; the same command with --resume goes on")
        raise typer.Exit(130)


def board(tuned: Tuned) -> Table:
    """Return the best trials as a table."""
    from rich.table import Table

    from twotower.experiment.tuning.page import ordered, shown

    rest = max(0, len(tuned.trials) - SHOWN)
    table = Table(
        title=literal(f"{len(tuned.trials)} trials of {tuned.run.model.name} by validation {tuned.metric}"),
        caption=f"{rest} more on the page" if rest else None,
        title_justify="left",
        caption_justify="left",
    )
    for name in ("trial", tuned.metric, "epochs", "seconds", "state"):
        table.add_column(literal(name), justify="right", no_wrap=True)
    table.add_column("values")
    for trial in ordered(tuned.trials)[:SHOWN]:
        figure = "-" if trial.figure is None else f"{trial.figure:.4f}"
        values = ", ".join(f"{key.partition('.')[2]} {shown(trial.values[key])}" for key in tuned.space)
        epochs = str(max(trial.curve)) if trial.curve else "-"
        cells = [str(trial.number), figure, epochs, f"{trial.seconds:.1f}", trial.state, values]
        table.add_row(*(literal(cell) for cell in cells))
    return table


def _described(run_file: Path | None, model: str | None, recipe: str | None) -> tuple[Run, dict[str, Any]]:
    """The run, and the section [tune] of its file."""
    given = {"a run file": run_file, "--model": model, "--recipe": recipe}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise InputError(f"give one of a run file, --model and --recipe; got {' and '.join(names) or 'none'}")

    from twotower.experiment import recipes as named
    from twotower.experiment.tuning.spaces import load_tuned

    if run_file is not None:
        return load_tuned(run_file)
    return (named.default_run(model) if model is not None else named.recipe(str(recipe))), {}


def _own_space(texts: list[str]) -> dict[str, Any]:
    from twotower.core.files import parse_toml

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            found[key.strip()] = parse_toml(f"value = {value.strip()}", "--space")["value"]
        except (InputError, KeyError):
            equals = ""
        if not equals or "." not in key:
            raise InputError(
                f"--space {text[:80]}: write section.key=[0.1, 0.3], section.key=['a', 'b'] or "
                "section.key={low = 0.1, high = 0.3}"
            )
    return found


def _notice(text: str) -> None:
    print(visible(text), file=sys.stderr)  # noqa: T201
