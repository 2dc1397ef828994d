"""The main job from nothing: a public log is fetched, and `fit` does the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twotower.core.devices import find_device
from twotower.data import sources
from twotower.experiment.ladder.climb import Watch
from twotower.experiment.ladder.fit import fit
from twotower.experiment.ladder.fitted import Fitted


def fetch(folder: Path, name: str, copy: Path | None, notice: Callable[[str], None]) -> Path:
    """Return the spec of the set of that name in ``folder``, or of ``synthetic`` when no source answers.

    Raises:
        InputError: if a copy was named and is not that data set, or the folder holds something else.
    """
    try:
        return sources.get(name, folder, from_path=copy, notice=notice)
    except sources.SourceUnavailable as error:
        notice(f"{error}")
        notice(f"no source of {name} answers: the demo goes on with synthetic data, whose users and items are made up")
        return sources.get("synthetic", folder, notice=notice)


def run_demo(
    folder: Path,
    *,
    name: str = "ml-100k",
    copy: Path | None = None,
    budget: str = "2m",
    device: str = "auto",
    watch: Watch = lambda model: (),
    notice: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """Fetch a log, and fit the ladder to it as ``twotower fit --spec`` would.

    Args:
        folder: where the data and the bundle go.
        name: of the data set.
        copy: of it on this machine, to save the download.
        budget: for models.
        device: where models run.
        watch: callbacks for each model's training.
        notice: takes sentences for the user.
    """
    find_device(device)
    spec = fetch(folder / "data", name, copy, notice)
    bundle = folder / "bundle"
    notice(f"twotower fit --spec {spec} --budget {budget} --to {bundle}")
    return fit(None, spec=spec, to=bundle, budget=budget, device=device, watch=watch, notice=notice, progress=notice)
