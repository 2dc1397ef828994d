"""Demo: the main job from nothing, with data, baselines and two neural models on one split, and their bundles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from twotower.data import sources
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.experiment.recipes import default_run
from twotower.experiment.train import Trained, train
from twotower.training.callbacks import Callback

MODELS = ("random", "popularity", "item_cosine", "ease", "two_tower", "sasrec")
LEARNT = ("two_tower", "sasrec")

SETTINGS = {"two_tower": ["training.epochs=8"]}
"""What keeps the demo within its time; else each model has its recipe, chosen on validation data of MovieLens-100K."""


@dataclass(frozen=True)
class Demo:
    """Hold every run in the order of `MODELS`, its seconds, and the model that answers."""

    runs: dict[str, Trained]
    seconds: dict[str, float]
    """Wall seconds of fitting, judging and writing."""
    best: str
    """The learnt model with the best validation metric."""
    folder: Path
    """Holds data and, in ``bundles``, a bundle a model."""

    @property
    def bundle(self) -> Path:
        """Return the bundle of the best learned model."""
        return self.folder / "bundles" / self.best


def fetch(folder: Path, name: str, copy: Path | None, notice: Callable[[str], None]) -> Path:
    """Fetch prepared data into ``folder``: the set of that name, or ``synthetic`` when no source answers.

    Raises:
        InputError: if a copy was named and is not that data set, or the folder holds something else.
    """
    try:
        spec = sources.get(name, folder / "raw", from_path=copy, notice=notice)
    except sources.SourceUnavailable as error:
        notice(f"{error}")
        notice(f"no source of {name} answers: the demo goes on with synthetic data, whose users and items are made up")
        spec = sources.get("synthetic", folder / "raw", notice=notice)
    return prepare(Spec.from_toml(spec), folder / "prepared")


def run_demo(
    folder: Path,
    *,
    name: str = "ml-100k",
    copy: Path | None = None,
    seed: int = 0,
    watch: Callable[[str], Sequence[Callback]] = lambda model: (),
    notice: Callable[[str], None] = lambda text: None,
) -> Demo:
    """Fetch, prepare, train and evaluate everything.

    Args:
        folder: where data and bundles go.
        name: of the data set.
        copy: of it on this machine, to save the download.
        seed: of every run.
        watch: callbacks for each model's training.
        notice: takes sentences for the user.
    """
    data = fetch(folder / "data", name, copy, notice)
    runs: dict[str, Trained] = {}
    seconds: dict[str, float] = {}
    for model in MODELS:
        run = default_run(model).with_settings([*SETTINGS.get(model, []), f"training.seed={seed}"])
        run = replace(run, data=replace(run.data, path=str(data)))
        notice(f"{model} …")
        start = time.perf_counter()
        runs[model] = train(run, to=folder / "bundles" / model, callbacks=watch(model))
        seconds[model] = time.perf_counter() - start
    return Demo(runs, seconds, max(LEARNT, key=lambda model: best_validation(runs[model])), folder)


def best_validation(trained: Trained) -> float:
    """Return the best validation metric of a run."""
    metric = trained.run.training.metric
    return max(record[metric] for record in trained.records if metric in record)
