"""The bundle of the winner: fitted once more on all events, or as the ladder left it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.core.files import read_json
from twotower.core.folders import replacing_folder
from twotower.data.dataset import Dataset
from twotower.data.split import Split, Targets
from twotower.experiment.build import Parts
from twotower.experiment.checks import check_items
from twotower.experiment.contents import contents_of
from twotower.experiment.ladder.blend import mixture_of
from twotower.experiment.ladder.budget import StopAfter
from twotower.experiment.ladder.costs import best_epoch
from twotower.experiment.ladder.rungs import Rung, is_closed
from twotower.experiment.learn import learn
from twotower.experiment.placement import pick_device
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.models.encode import encode_known_items
from twotower.serving.bundle import check_target
from twotower.serving.contents import write_bundle
from twotower.training.callbacks import Callback

EVERYTHING = "all events"
"""In the manifest of a bundle whose model has learnt the test events too: its own test would be no test."""


def fit_on_all(rung: Rung, dataset: Dataset, to: Path, *, callbacks: Sequence[Callback] = ()) -> dict[str, Any] | None:
    """Fit the rung's model on all events, validation and test among them, and write its bundle.

    The metrics that the bundle notes are those of the test before.

    A closed form keeps the number that it chose on validation; any other model is trained for as many epochs as were
    best there. Of a mixture both parts are, and the weight stays.

    Returns:
        The diagnosis of the item vectors; None for models without any.
    """
    check_target(to)
    run = Run.load(rung.bundle / "run.toml")
    dataset = dataset.to(pick_device(run.training.device))
    everything = dataset.log
    model: Model
    if rung.parts:
        model = mixture_of(run, dataset, [_learnt(part, dataset, callbacks) for part in rung.parts])
    else:
        model = _learnt(rung, dataset, callbacks)
    items = encode_known_items(model, dataset)
    diagnosis = check_items(model, items, everything)
    contents = contents_of(run, model, dataset, items, rung.test, diagnosis, events=everything, learnt=EVERYTHING)
    write_bundle(to, contents)
    return diagnosis


def _learnt(rung: Rung, dataset: Dataset, callbacks: Sequence[Callback]) -> Model:
    """The rung's model, fitted on all events."""
    run, everything = Run.load(rung.bundle / "run.toml"), dataset.log
    nothing = everything.select(everything.items < 0)
    split = Split(everything, Targets(nothing, nothing), Targets(nothing, nothing), everything, "")
    training = replace(run.training, evaluate_every=0, patience=0, refit=False, geometry="off")
    stop = [] if is_closed(rung.model) else [StopAfter(best_epoch(rung)), *callbacks]
    return learn(replace(run, training=training), dataset, split, callbacks=stop, parts=Parts())[0]


def as_it_is(rung: Rung, to: Path) -> dict[str, Any] | None:
    """Copy the rung's bundle, whose model is trained on the training events alone, and return its diagnosis."""
    with replacing_folder(to) as partial:
        shutil.copytree(rung.bundle, partial, dirs_exist_ok=True)
    found = to / "diagnosis.json"
    return read_json(found) if found.is_file() else None
