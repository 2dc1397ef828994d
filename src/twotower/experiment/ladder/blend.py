"""The last rung: a mixture of the two best models of the ladder, put together from their bundles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.experiment.choose import climbed
from twotower.experiment.ladder.rungs import METRIC, Rung, judged
from twotower.experiment.run import ModelSection, Run
from twotower.experiment.train import contents_of, spelled_out, with_choice
from twotower.models.base import Model
from twotower.models.encode import encode_known_items
from twotower.models.mixed import Mixture
from twotower.models.registry import build_model
from twotower.serving.bundle import Bundle, write_bundle

MIXTURE = "mixture"


def two_best(rungs: Sequence[Rung]) -> tuple[Rung, Rung] | None:
    """Return the rung with the best figure on validation, and the best one of another model; None where there is none.

    Of equal ones the earlier, in the order of the ladder.
    """
    best_first = sorted(
        (rung for rung in rungs if rung.validation is not None and rung.model != MIXTURE),
        key=lambda rung: -rung.validation.metrics[METRIC] if rung.validation else 0.0,
    )
    others = [rung for rung in best_first if rung.model != best_first[0].model]
    return (best_first[0], others[0]) if others else None


def mixed_rung(parts: tuple[Rung, Rung], to: Path, run: Run, dataset: Dataset, split: Split) -> Rung:
    """Mix two rungs, with the weight that is best on validation, evaluate the mixture, and write its bundle.

    Args:
        parts: whose bundles are read.
        to: folder of the bundle.
        run: the default run of a mixture.
        dataset: prepared.
        split: whose validation chooses the weight.

    Raises:
        InputError: if a model is of a kind that cannot be mixed.
    """
    start = time.perf_counter()
    bundles = [Bundle.load(part.bundle, dataset.device) for part in parts]
    settings = {
        key: value
        for place, bundle in zip(("first", "second"), bundles, strict=True)
        for key, value in (
            (place, bundle.manifest["model"]["name"]),
            (f"{place}_settings", bundle.manifest["model"]["parameters"]),
        )
    }
    run = spelled_out(replace(run, model=ModelSection(MIXTURE, settings)))
    model = mixture_of(run, dataset, [bundle.model for bundle in bundles])

    def score(weight: float) -> float:
        model.settle(weight)
        return judged(model, run, dataset, split, "validation").metrics[METRIC]

    has_validation = bool(split.validation.truth.num_events)
    model.settle(climbed(model, 1.0, score, metric=METRIC) if has_validation else 1.0)
    run = with_choice(run, model)
    validation, test = (judged(model, run, dataset, split, part) for part in ("validation", "test"))
    items = encode_known_items(model, dataset)
    write_bundle(to, contents_of(run, model, dataset, items, test, None, events=split.train))
    name = f"{MIXTURE} of {parts[0].name} and {parts[1].name}"
    return Rung(name, MIXTURE, to, time.perf_counter() - start, validation, test, parts=parts)


def mixture_of(run: Run, dataset: Dataset, models: Sequence[Model]) -> Mixture:
    """Return the mixture of a run, which holds two models that have learnt already."""
    model = build_model(MIXTURE, dataset.schema, run.model.settings)
    assert isinstance(model, Mixture)
    first, second = models
    known = [encode_known_items(one, dataset).states for one in (first, second)]
    model.to(dataset.device).hold(first, second, items=(known[0], known[1]))
    model.eval()
    return model
