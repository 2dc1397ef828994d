"""The last rung: the best model mixed with one of the next best, put together from their bundles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.evaluation.result import Result
from twotower.experiment.choose import climbed
from twotower.experiment.contents import contents_of
from twotower.experiment.defaults import spelled_out, with_choice
from twotower.experiment.ladder.rungs import METRIC, Rung, judged
from twotower.experiment.run import ModelSection, Run
from twotower.models.base import Model
from twotower.models.encode import encode_known_items
from twotower.models.mixed import Mixture
from twotower.models.registry import build_model
from twotower.serving.bundle import Bundle
from twotower.serving.contents import write_bundle

MIXTURE = "mixture"
OTHERS = 3
"""Models that the best one is mixed with, each in turn: the second best is often of the same kind, and adds little."""


def pairs_of(rungs: Sequence[Rung]) -> list[tuple[Rung, Rung]]:
    """Return the best rung on validation with each of the next `OTHERS` models, best first; none where there is none.

    Of each model its best rung counts, of equal ones the earlier in the order of the ladder.
    """
    best: dict[str, Rung] = {}
    for rung in sorted(rungs, key=lambda rung: -_figure(rung.validation)):
        if rung.validation is not None and rung.model != MIXTURE:
            best.setdefault(rung.model, rung)
    first, *others = best.values() if best else (None,)
    return [] if first is None else [(first, other) for other in others[:OTHERS]]


@dataclass(frozen=True)
class Mixed:
    """Hold a mixture with its weight, not yet written."""

    parts: tuple[Rung, Rung]
    run: Run
    model: Mixture
    validation: Result
    seconds: float


def mix(parts: tuple[Rung, Rung], run: Run, dataset: Dataset, split: Split) -> Mixed:
    """Combine the scores of two rungs, read from their bundles, with the weight that is best on validation.

    Args:
        parts: whose models are mixed.
        run: the default run of a mixture.
        dataset: prepared.
        split: whose validation chooses the weight.

    Raises:
        InputError: if a model is of a kind that cannot be mixed.
    """
    start = time.perf_counter()
    bundles = [Bundle.load(part.bundle, dataset.device) for part in parts]
    settings: dict[str, Any] = {}
    for place, bundle in zip(("first", "second"), bundles, strict=True):
        described = bundle.manifest["model"]
        settings |= {place: described["name"], f"{place}_settings": described["parameters"]}
    run = spelled_out(replace(run, model=ModelSection(MIXTURE, settings)))
    model = mixture_of(run, dataset, [bundle.model for bundle in bundles])
    found: dict[float, Result] = {}

    def score(weight: float) -> float:
        model.settle(weight)
        found[weight] = judged(model, run, dataset, split, "validation")
        return found[weight].metrics[METRIC]

    weight = climbed(model, model.first_choice(split.train), score, metric=METRIC)
    model.settle(weight)
    return Mixed(parts, with_choice(run, model), model, found[weight], time.perf_counter() - start)


def mixed_rung(mixed: Mixed, to: Path, dataset: Dataset, split: Split) -> Rung:
    """Evaluate a mixture on the test, write its bundle, and return it as a rung."""
    start = time.perf_counter()
    test = judged(mixed.model, mixed.run, dataset, split, "test")
    items = encode_known_items(mixed.model, dataset)
    write_bundle(to, contents_of(mixed.run, mixed.model, dataset, items, test, None, events=split.train))
    first, second = mixed.parts
    took = mixed.seconds + time.perf_counter() - start
    name = f"{MIXTURE} of {first.name} and {second.name}"
    return Rung(name, MIXTURE, to, took, mixed.validation, test, parts=mixed.parts)


def mixture_of(run: Run, dataset: Dataset, models: Sequence[Model]) -> Mixture:
    """Return the mixture of a run, holding two models that are trained or fitted."""
    model = build_model(MIXTURE, dataset.schema, run.model.settings)
    assert isinstance(model, Mixture)
    first, second = models
    known = [encode_known_items(one, dataset).states for one in (first, second)]
    model.to(dataset.device).hold(first, second, items=(known[0], known[1]))
    model.eval()
    return model


def _figure(result: Result | None) -> float:
    return float("-inf") if result is None else result.metrics[METRIC]
