"""Optuna behind three functions: the values of the next trial, whether a trial is pruned, and what mattered.

Each call builds Optuna's study anew from our own records, with a sampler seeded by the trial's number: a tuning that
was stopped asks the same next trial as one that was not, and no state of Optuna's is written to a file.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twotower.core.errors import InputError
from twotower.core.seeds import derive
from twotower.experiment.tuning.axes import Axis, Grid, Range, Value
from twotower.experiment.tuning.trials import Trial

if TYPE_CHECKING:
    import optuna

FIRST = 5
"""Trials that are drawn at random before the sampler learns from them; pruning begins after as many."""
WARM_UP = 3
"""Epochs in which no trial is pruned."""
LEAST = 8
"""Finished trials below which nothing is said of what mattered."""
TRIES = 50
"""Draws until values are found that were not tried before."""


def need_optuna() -> None:
    """Refuse where Optuna is not installed.

    Raises:
        InputError: says how to install it.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise InputError("tuning needs Optuna: pip install 'twotower[tune]'") from None


def next_values(
    space: Mapping[str, Axis], trials: Sequence[Trial], *, seed: int, first: Mapping[str, Value]
) -> dict[str, Value] | None:
    """Return the values of the trial after ``trials``; None once every combination was tried.

    Args:
        space: what may be tried.
        trials: what was, in order.
        seed: of the tuning.
        first: values of the run itself, which are tried first, as far as they lie in the space.
    """
    tried = [trial.values for trial in trials]
    grids = [axis for axis in space.values() if isinstance(axis, Grid)]
    if len(grids) == len(space) and len(trials) >= math.prod(len(axis.values) for axis in grids):
        return None
    with _quiet():
        for attempt in range(TRIES):
            study = _study(space, trials, seed=derive(seed, "tuning", len(trials), attempt) % 2**32)
            if not trials and not attempt:
                study.enqueue_trial({key: _code(space[key], value) for key, value in first.items()})
            asked = study.ask(_distributions(space))
            values = {key: _value(axis, asked.params[key]) for key, axis in space.items()}
            if values not in tried:
                return values
    if len(grids) == len(space):
        for parts in itertools.product(*(axis.values for axis in grids)):
            if (left := dict(zip(space, parts, strict=True))) not in tried:
                return left
    return values


def is_pruned(space: Mapping[str, Axis], trials: Sequence[Trial], curve: Mapping[int, float]) -> bool:
    """Return whether a trial with this curve is to end: below the median of finished trials at the same epoch."""
    import optuna

    with _quiet():
        study = _study(space, trials, seed=0)
        asked = study.ask()
        for epoch, figure in curve.items():
            asked.report(figure, epoch)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=WARM_UP + 1)
        return bool(pruner.prune(study, study.trials[asked.number]))


def importance(space: Mapping[str, Axis], trials: Sequence[Trial]) -> dict[str, float]:
    """Return the share of the variation of figures that each key alone explains, by a functional analysis of variance.

    Empty while fewer than `LEAST` trials are finished, or all have one figure.
    """
    import optuna

    done = [trial for trial in trials if trial.state == "done"]
    if len(done) < LEAST or len({trial.figure for trial in done}) < 2:
        return {}
    with _quiet():
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(_study(space, done, seed=0), evaluator=evaluator)
    return {key: float(share) for key, share in sorted(found.items(), key=lambda pair: -pair[1])}


def _study(space: Mapping[str, Axis], trials: Sequence[Trial], *, seed: int) -> optuna.Study:
    import optuna

    states = optuna.trial.TrialState
    kinds = {"done": states.COMPLETE, "pruned": states.PRUNED, "cut": states.PRUNED, "failed": states.FAIL}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                state=kinds[trial.state],
                value=trial.figure if trial.state == "done" else None,
                params={key: _code(axis, trial.values[key]) for key, axis in space.items()},
                distributions=_distributions(space),
                intermediate_values=dict(trial.curve),
            )
        )
    return study


def _distributions(space: Mapping[str, Axis]) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def of(axis: Axis) -> Any:
        if isinstance(axis, Range):
            if axis.whole:
                return IntDistribution(math.ceil(axis.low), math.floor(axis.high), log=axis.log)
            return FloatDistribution(axis.low, axis.high, log=axis.log)
        return IntDistribution(0, len(axis.values) - 1) if axis.ordered else CategoricalDistribution(axis.values)

    return {key: of(axis) for key, axis in space.items()}


def _code(axis: Axis, value: Value) -> Any:
    """A value as Optuna has it: lists of numbers are known by the place in the list, so that their order counts."""
    return axis.values.index(value) if isinstance(axis, Grid) and axis.ordered else value


def _value(axis: Axis, code: Any) -> Value:
    if isinstance(axis, Grid):
        return axis.values[code] if axis.ordered else code
    return int(code) if axis.whole else min(max(float(f"{code:.4g}"), axis.low), axis.high)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says nothing on the terminal meanwhile."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
