"""`fit`: from one's own log to the best model of a ladder, as a bundle and a page, within a time budget."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower.core.devices import find_device
from twotower.core.durations import clock, seconds_of
from twotower.core.errors import InputError
from twotower.core.lock import writing_alone
from twotower.data.dataset import Dataset
from twotower.data.frame_notices import Notices
from twotower.data.guess import Hints
from twotower.data.prepare.spec import Spec
from twotower.experiment.ladder import climb
from twotower.experiment.ladder.budget import Budget
from twotower.experiment.ladder.climb import Ladder, Watch
from twotower.experiment.ladder.costs import last_fit_seconds
from twotower.experiment.ladder.fitted import Fitted, line
from twotower.experiment.ladder.last_fit import as_it_is, fit_on_all
from twotower.experiment.ladder.named_index import DEFAULT, check_index, give_index
from twotower.experiment.ladder.page import write_page
from twotower.experiment.ladder.pick import pick
from twotower.experiment.ladder.rungs import METRIC, Rung, forget, is_closed
from twotower.experiment.ladder.sources import (
    Notice,
    check_same,
    find_spec,
    identity,
    prepare_log,
    repeats,
)
from twotower.serving.bundle import check_target

REPEATS = 0.2
"""From this share of repeated items on, answers hold what the user has seen before."""

log = logging.getLogger(__name__)


def fit(
    log: Any,
    items: Any = None,
    users: Any = None,
    *,
    to: Path | str,
    budget: str | int | float = "10m",
    resume: bool = False,
    device: str = "auto",
    spec: Path | str | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    unit: str | None = None,
    value: str | None = None,
    positive_from: int | float | None = None,
    columns: Sequence[str] = (),
    index: str = DEFAULT,
    watch: Watch = lambda name: (),
    notice: Notice | None = None,
    progress: Notice = lambda text: None,
) -> Fitted:
    """Guess what a log is, train a ladder of models within the budget, and write the best as a bundle with a page.

    The model is chosen on the validation split alone, and the simpler one where the difference is noise. Beside the
    bundle, ``<to>.run`` holds the spec (``data.toml``), the prepared data, a bundle of every model, and
    ``report.html``. Ctrl-C writes the best model so far.

    Args:
        log: a file (CSV, TSV, JSON lines, Parquet) or a data frame, one row an event; None: the spec names it.
        items: a table of items, likewise.
        users: a table of users, likewise.
        to: folder of the bundle.
        budget: time for models, as "90s", "10m" or "1h30m", or seconds. Closed forms are fitted whatever it is.
        resume: go on with a fit that was stopped; models that were done are kept.
        device: where models run: auto, cpu, cuda, cuda:N.
        spec: a TOML as `prepare` takes, in place of a guess.
        user: column of the user's id; None: the only one with a usual name.
        item: column of the item's id; None: likewise.
        time: column of the time; None: likewise, or none; "none": there is none.
        unit: of times that are numbers; None: guessed by their size.
        value: column of a rating.
        positive_from: events with this rating or a higher one are positives; None: all are.
        columns: names for a log without a header line.
        index: of the bundle, by its name in `twotower.INDEXES` and with its default settings. The choice of the model
            does not depend on it: where it cannot be built for the best model, the bundle has the default index, and
            `notice` hears why.
        watch: callbacks for each model's training.
        notice: takes sentences for the user, one a model among them; None: they are logged.
        progress: hears what begins, and how much time is left.

    Raises:
        InputError: if a file is no log, a column cannot be told, no model can be learnt, ``index`` is unknown or no
            model of the ladder can be searched by it, or another process fits into ``to``; says what to do.
        KeyboardInterrupt: after Ctrl-C before the first model was done.
    """
    seconds = seconds_of(budget)
    to = Path(to)
    tell: Notice = notice or _logged
    check_target(to)
    find_device(device)
    check_index(index, climb.LADDER)
    folder = to.with_name(to.name + ".run")
    check_folder(folder)
    with writing_alone(folder):
        hints = Hints(user, item, time, unit, value, positive_from, tuple(columns))
        notices = Notices()
        tables = {"events": log, "items": items, "users": users}
        found_spec = find_spec(folder, tables, None if spec is None else Path(spec), hints, notices)
        for sentence in notices.said:
            tell(sentence)
        saved = folder / "data.toml"
        if spec is None or Path(spec).resolve() != saved.resolve():
            found_spec.to_toml(saved)
        found = identity(found_spec)
        models = folder / "models"
        if resume and check_same(folder, found) and (folder / "data" / "manifest.json").is_file():
            dataset = Dataset.load(folder / "data")
        else:
            if resume:
                tell(f"{folder}: nothing to resume from, so the fit starts from nothing")
            forget(models)
            dataset = prepare_log(found_spec, folder, found, tell, guessed=spec is None)
        if spec is None:
            Spec.from_dict(dataset.manifest["spec"]).to_toml(saved)
        verb = "the data as they are read" if spec is not None else "what the log was taken for; correct it and give it"
        tell(f"{saved} is {verb} with --spec:\n\n{saved.read_text(encoding='utf-8')}")
        ladder = Ladder(
            dataset,
            models,
            Budget(seconds),
            device=device,
            watch=watch,
            tell=progress,
            done=lambda rung: tell(line(rung)),
        )
        again = repeats(ladder.split)
        ladder.mask_seen = again < REPEATS
        if not ladder.mask_seen:
            tell(f"{again:.0%} of the next items were seen before: answers may repeat (recommend with --include-seen)")
        stopped = False
        try:
            ladder.climb()
        except KeyboardInterrupt:
            stopped = True
            if not any(rung.validation for rung in ladder.rungs):
                raise
            tell("stopped: the best model so far is written; --resume goes on")
        rungs = ladder.rungs
        judged = {rung.name: rung.validation for rung in rungs if rung.validation is not None}
        if not judged:
            raise InputError(
                "no model could be learnt: " + "; ".join(f"{rung.name}: {rung.left_out}" for rung in rungs)
            )
        choice = pick(judged, METRIC)
        tell(choice.reason)
        winner = next(rung for rung in rungs if rung.name == choice.name)
        last_fit, diagnosis = _written(winner, ladder, to, stopped, watch, tell)
        given = give_index(to, index, device, tell)
        fitted = Fitted(
            choice,
            rungs,
            dataset,
            ladder.split,
            to,
            folder / "report.html",
            saved,
            last_fit,
            diagnosis,
            ladder.mask_seen,
            again,
            stopped,
            [*notices.said, *dataset.manifest["treatments"]],
            given,
        )
        write_page(fitted, budget=seconds)
        return fitted


def _written(
    winner: Rung, ladder: Ladder, to: Path, stopped: bool, watch: Watch, tell: Notice
) -> tuple[str, dict[str, Any] | None]:
    """Write the winner's bundle; what its model has learnt from, and its diagnosis."""
    without = "the training events alone"
    if stopped:
        return f"{without} (stopped)", as_it_is(winner, to)
    if not all(is_closed(rung.model) for rung in winner.parts or (winner,)):  # closed forms whatever the budget
        took = last_fit_seconds(winner, growth=ladder.growth)
        if took is None or took > ladder.budget.left:
            tell(f"no time is left to fit {winner.name} on all events: the bundle has learnt {without}")
            return f"{without} (no time was left for more)", as_it_is(winner, to)
        tell(f"{winner.name}: once more on all events, about {clock(took)}")
    try:
        return "all events", fit_on_all(winner, ladder.dataset, to, callbacks=watch(winner.name))
    except KeyboardInterrupt:
        tell(f"stopped: the bundle has learnt {without}")
        return f"{without} (stopped)", as_it_is(winner, to)


def check_folder(folder: Path) -> None:
    """Refuse a folder beside the bundle that holds something which no command of ours wrote.

    Raises:
        InputError: names it.
    """
    ours = {"data.toml", "fit.json", "models", "data", "raw", "report.html", "run.toml", "train.jsonl"}
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not ours & set(_names(folder)))):
        raise InputError(f"{folder}: holds something that twotower did not write; name another bundle with --to")


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _logged(text: str) -> None:
    log.info("%s", text)
