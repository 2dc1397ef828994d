"""``twotower train``: a run file, or data and a model's name, to a bundle."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.cli.ranks import ranks, several
from twotower.core.errors import InputError
from twotower.core.terminal import visible

if TYPE_CHECKING:
    from twotower.experiment.run import Run
    from twotower.training.distributed import World
    from twotower.training.trackers.base import Tracker

EXAMPLES = examples(
    "twotower train --data runs/ml-100k-prepared --model sasrec --to runs/sasrec",
    "twotower train --data runs/ml-100k-prepared --model two_tower --set training.epochs=5 --to runs/two-tower",
    "twotower train runs/sasrec/run.toml --device cuda --to runs/again",
    "twotower train --data runs/ml-100k-prepared --model sasrec --to runs/sasrec --resume",
    "twotower train --data runs/ml-100k-prepared --model sasrec --to runs/sasrec --track tensorboard --track wandb",
)


def names() -> str:
    """List the models, plug-ins with them, and the recipes; none of them is imported."""
    from importlib.metadata import entry_points

    from twotower.experiment.names import RECIPES
    from twotower.models.names import GROUP, KNOWN

    models = ", ".join(dict.fromkeys([*KNOWN, *(point.name for point in entry_points(group=GROUP))]))
    recipes = "; ".join(f"{name}: {words}" for name, words in RECIPES.items())
    return f"Models: {models}\n\nRecipes: {recipes}"


def command(
    run_file: Annotated[Path | None, typer.Argument(help="A run file (TOML).", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="A prepared data set; in place of data.path.")] = None,
    model: Annotated[str | None, typer.Option(help="A model's name, with its default run.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder of the bundle.", show_default=False)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last state of a run, to more epochs where they are set.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="After Ctrl-C, write the bundle of the best epoch so far.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Follow the run with tensorboard:FOLDER, mlflow:ADDRESS or wandb:PROJECT; where may be left out; may "
            "be repeated.",
            show_default=False,
        ),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Short for --track tensorboard.")] = False,
    device: Device = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds that ranks started by torchrun wait for each other.")] = 600.0,
) -> None:
    """Train a model, evaluate it on the test split, and write its bundle; under torchrun on several processes."""
    with ranks(wait) if several() else contextlib.nullcontext() as world:
        with world.together() if world else contextlib.nullcontext():
            run = _described(run_file, model, recipe).with_settings(settings or [])
            if data is not None:
                run = replace(run, data=replace(run.data, path=str(data)))
            if device:
                run = replace(run, training=replace(run.training, device=device))
            if to is None:
                raise InputError("name the bundle's folder: --to runs/my-model")
            if not run.data.path:
                raise InputError(
                    "no data: give --data DIR, or data.path in the run; make one with 'twotower data prepare'"
                )
            trackers: list[Tracker] = []
            if world is None or not world.rank:
                from twotower.training.trackers.choose import tracker

                words = dict.fromkeys([*(track or []), *(["tensorboard"] if tensorboard else [])])
                trackers = [tracker(word, to.with_name(to.name + ".run")) for word in words]
        _train(run, to, resume=resume, keep=keep, trackers=trackers, as_json=as_json, world=world)


def _train(
    run: Run, to: Path, *, resume: bool, keep: bool, trackers: list[Tracker], as_json: bool, world: World | None
) -> None:
    from twotower.cli.notices import is_quiet
    from twotower.cli.results import show_test
    from twotower.experiment.candidates import judged_by
    from twotower.experiment.pair import judge_trained
    from twotower.experiment.train import train
    from twotower.training.callbacks import Callback
    from twotower.training.progress import Progress
    from twotower.training.tracking import curve

    silent = world is not None and world.rank > 0
    callbacks: list[Callback] = [] if silent else [Progress(run.model.name, judged_by(run), quiet=is_quiet())]
    callbacks += trackers
    try:
        trained = train(run, to=to, resume=resume, callbacks=callbacks, keep=keep, world=world)
    except KeyboardInterrupt:
        kept = any(to.with_name(to.name + ".run").glob("*.safetensors"))
        again = f"with --resume goes on (checkpoint in {to}.run)" if kept else "starts anew: no step was done yet"
        if not silent:
            _notice(f"stopped; the same command {again}")
        raise
    if silent:
        return
    show_test(trained.test, title=f"{run.model.name} on {trained.dataset.name}", as_json=as_json)
    if line := curve(trained.records):
        _notice(f"mean cosine of the item vectors, evaluation by evaluation: {line}")
    for check in trained.checks:
        if check.fine:  # the others are warnings in the log
            _notice(check.text)
    _notice(f"bundle: {to}")
    if (judged := judge_trained(run, to)) is not None:
        _notice(judged.line())


def _described(run_file: Path | None, model: str | None, recipe: str | None) -> Run:
    given = {"a run file": run_file, "--model": model, "--recipe": recipe}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise InputError(f"give one of a run file, --model and --recipe; got {' and '.join(names) or 'none'}")

    from twotower.experiment import recipes as named
    from twotower.experiment.run import Run

    if run_file is not None:
        return Run.load(run_file)
    return named.default_run(model) if model is not None else named.recipe(str(recipe))


def _notice(text: str) -> None:
    print(visible(text), file=sys.stderr)  # noqa: T201
