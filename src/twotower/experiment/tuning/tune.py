"""`tune`: trials of a run with other settings within a time budget; the best run, and what mattered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twotower.core.durations import clock, seconds_of
from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.folders import check_outside
from twotower.core.lock import writing_alone
from twotower.data.dataset import Dataset
from twotower.data.identity import fingerprint
from twotower.experiment.placement import pick_device
from twotower.experiment.run import Run
from twotower.experiment.tuning.axes import Axis, Grid, Value
from twotower.experiment.tuning.page import write_page
from twotower.experiment.tuning.propose import importance, is_pruned, need_optuna, next_values
from twotower.experiment.tuning.spaces import space_of, value_in, with_values
from twotower.experiment.tuning.trial import metric_name, run_trial, split_without_test
from twotower.experiment.tuning.trials import Trial, begin, best_of, withdraw, write_trials
from twotower.training.callbacks import Callback

BEST, PAGE = "best.toml", "report.html"
SHARE = 0.05
"""Of the quickest finished trial's time: with less than that left no other is begun."""
FAILURES = 5
"""Trials without a figure after which a tuning gives up: what is wrong is then not in the values."""

UNJUDGED = "the budget ended before the first validation; raise the budget, or train smaller models"

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Tuned:
    """Hold the result of a tuning."""

    run: Run
    """The run as it was given, with the best values; in the folder it is ``best.toml``."""
    metric: str
    best: Trial
    trials: list[Trial]
    space: dict[str, Axis]
    importance: dict[str, float]
    """The share of the figures' variation that each key alone explains; empty while too few trials are finished."""
    warnings: list[str]
    """Of best values at the edge of what was tried."""
    folder: Path
    stopped: bool = False
    """Whether Ctrl-C ended it."""

    def __repr__(self) -> str:
        return f"Tuned({self.metric} {self.best.figure:.4f} in trial {self.best.number} of {len(self.trials)})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "metric": self.metric,
            "best": self.best.to_json(),
            "best_run": str(self.folder / BEST),
            "trials": [trial.to_json() for trial in self.trials],
            "space": {key: axis.to_json() for key, axis in self.space.items()},
            "importance": self.importance,
            "warnings": self.warnings,
            "stopped": self.stopped,
        }


def tune(
    run: Run,
    *,
    to: Path,
    budget: str = "30m",
    dataset: Dataset | None = None,
    space: Mapping[str, Any] | None = None,
    fixed: Sequence[str] = (),
    trials: int = 0,
    resume: bool = False,
    seed: int = 0,
    tell: Callable[[str], None] = log.info,
    watch: Callable[[str], Sequence[Callback]] | None = None,
) -> Tuned:
    """Train a run again and again with other settings, within a time budget, and keep the best by validation.

    The first trial is the run as it is, as far as the space holds it. Values are proposed by Optuna's TPE sampler;
    trials whose curve falls below the median of finished ones end early. The test is cut off before the first trial.

    The folder ``to`` holds ``trials.jsonl`` (one line a trial), ``best.toml`` (a run for `train`), ``report.html``
    (table and pictures) and ``tuning.json`` (what is tuned). They are written after each trial.

    Args:
        run: what is tuned.
        to: folder of the tuning.
        budget: wall time of this call, as 90s, 30m or 1h30m; the trial that it ends counts with the epochs it has.
        dataset: instead of ``run.data.path``, when it is in memory already.
        space: by key, such as "model.dropout": a list of values, {"low": …, "high": …, "log": …}, or one value; it
            takes the place of the model's own range, see `twotower.experiment.tuning.spaces`.
        fixed: keys that stay as they are in the run.
        trials: most trials in all; 0: as many as the budget allows.
        resume: go on with the tuning in ``to``; a trial that was cut is done again.
        seed: of the sampler. Trainings have the run's own.
        tell: told of each trial in one line.
        watch: callbacks of a trial by its title.

    Raises:
        InputError: if something is asked for that is not there, another process tunes into ``to``, or no trial came to
            a figure; nothing is left of a tuning whose first trial is refused.
        KeyboardInterrupt: after Ctrl-C before any trial had a figure.
    """
    seconds = seconds_of(budget)
    if trials < 0 or isinstance(trials, bool):
        raise InputError(f"trials must be at least 0, got {trials}")
    need_optuna()
    check_outside(to)
    with writing_alone(to):
        axes = space_of(run, fixed=tuple(fixed), own=space)
        metric = metric_name(run)
        device = pick_device(run.training.device)
        dataset = (dataset or Dataset.load(run.data.path)).to(device)
        tried = replace(run, training=replace(run.training, refit=False))
        split = split_without_test(tried, dataset)
        note = {
            "run": run.to_dict(),
            "space": {key: axis.to_json() for key, axis in axes.items()},
            "seed": seed,
            "data": fingerprint(dataset),
        }
        done = begin(to, note, resume=resume)
        first = {key: value for key, axis in axes.items() if axis.holds(value := value_in(run, key))}
        started, stopped = time.perf_counter(), False
        try:
            while not (trials and len(done) >= trials) and not stopped:
                if not is_time_for_another(done, started + seconds - time.perf_counter()):
                    break
                values = next_values(axes, done, seed=seed, first=first)
                if values is None:
                    tell("every combination of the space was tried")
                    break
                number = len(done) + 1
                trial, stopped = _tried(
                    with_values(tried, values),
                    dataset,
                    split,
                    number=number,
                    values=values,
                    is_bad=lambda curve: is_pruned(axes, done, curve),
                    end=started + seconds,
                    callbacks=watch(f"trial {number}") if watch else (),
                )
                done.append(trial)
                _keep(to, run, done, metric)
                tell(_line(trial, done, metric, left=started + seconds - time.perf_counter()))
                if len(done) >= FAILURES and best_of(done) is None:
                    break
        except KeyboardInterrupt:
            stopped = True
        except InputError:
            if not done:
                withdraw(to)
            raise
        best = best_of(done)
        if best is None:
            if stopped:
                raise KeyboardInterrupt
            reason = next((trial.reason for trial in done if trial.reason), UNJUDGED)
            raise InputError(f"no trial came to a figure: {reason}")
        shares = importance(axes, done)
        tuned = Tuned(with_values(run, best.values), metric, best, done, axes, shares, edges(axes, done), to, stopped)
        write_page(to / PAGE, metric=metric, trials=done, space=axes, importance=shares, warnings=tuned.warnings)
        return tuned


def is_time_for_another(trials: Sequence[Trial], left: float) -> bool:
    """Return whether a trial is worth beginning: in a twentieth of the quickest finished one it comes to nothing."""
    quickest = min((trial.seconds for trial in trials if trial.state == "done"), default=0.0)
    return left > SHARE * quickest


def edges(space: Mapping[str, Axis], trials: Sequence[Trial]) -> list[str]:
    """Return one line for each key whose best value is at the edge of its axis: a better one may be beyond."""
    best = best_of(trials)
    found = []
    for key, axis in space.items():
        values = {trial.values[key] for trial in trials if trial.figure is not None}
        if best is None or len(values) < 2 or not (side := axis.edge(best.values[key])):
            continue
        span = f"{len(axis.values)} values" if isinstance(axis, Grid) else f"{axis.low:g} to {axis.high:g}"
        found.append(
            f"{key} = {best.values[key]} is at the {side} edge of its {'list' if isinstance(axis, Grid) else 'range'} "
            f"({span}): a better value may lie beyond; widen it with --space"
        )
    return found


def _tried(run: Run, *args: Any, number: int, values: dict[str, Value], **more: Any) -> tuple[Trial, bool]:
    """A trial; values that do not suit each other make a failed one, unless it is the first."""
    try:
        return run_trial(run, *args, number=number, values=values, **more)
    except InputError as error:
        if number == 1:
            raise
        return Trial(number, values, "failed", None, reason=str(error)), False


def _keep(folder: Path, run: Run, trials: Sequence[Trial], metric: str) -> None:
    """Write the trials, and the best run."""
    write_trials(folder, trials)
    best = best_of(trials)
    if best is None:
        return
    said = f"# Trial {best.number} of {len(trials)}: validation {metric} {best.figure:.4f}. Train it: twotower train\n"
    with replacing_file(folder / BEST) as partial:
        partial.write_text(said + with_values(run, best.values).to_toml(), encoding="utf-8")


def _line(trial: Trial, trials: Sequence[Trial], metric: str, *, left: float) -> str:
    """What is said of a trial: its figure, the best so far, and the time that is left."""
    best = best_of(trials)
    figure = "no figure" if trial.figure is None else f"{metric} {trial.figure:.4f}"
    pruned = f", pruned in epoch {max(trial.curve, default=0)}"
    how = {"pruned": pruned, "cut": ", cut", "failed": f", failed: {trial.reason}"}.get(trial.state, "")
    so_far = "" if best is None else f"; best {best.figure:.4f} (trial {best.number})"
    mean = sum(one.seconds for one in trials) / len(trials)
    more = f", about {left / mean:.0f} more trials" if left >= mean > 0 else ""
    return f"trial {trial.number}: {figure}{how} in {trial.seconds:.0f} s{so_far}; {clock(left)} left{more}"
