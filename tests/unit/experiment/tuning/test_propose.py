"""The next trial follows from the records alone; bad curves are pruned; what mattered is found."""

import pytest

pytest.importorskip("optuna")

from twotower.experiment.tuning.axes import Grid, Range
from twotower.experiment.tuning.propose import FIRST, LEAST, importance, is_pruned, next_values
from twotower.experiment.tuning.trials import Trial

SPACE = {"training.learning_rate": Range(1e-4, 1e-1, log=True), "model.dim": Grid((8, 16, 32))}
OWN = {"training.learning_rate": 0.02, "model.dim": 16}


def figure(values) -> float:
    return 1.0 - abs(values["training.learning_rate"] - 0.01)


def tuned(number: int, trials: list[Trial] | None = None, seed: int = 0) -> list[Trial]:
    trials = list(trials or [])
    while len(trials) < number:
        values = next_values(SPACE, trials, seed=seed, first=OWN)
        assert values is not None
        trials.append(Trial(len(trials) + 1, values, "done", figure(values), {1: figure(values)}))
    return trials


def test_the_first_trial_is_the_run_as_it_is():
    assert tuned(1)[0].values == OWN


def test_a_tuning_that_was_stopped_proposes_what_one_that_was_not_proposes():
    whole = tuned(9)
    assert tuned(9, whole[:4]) == whole
    assert tuned(9, whole[:7]) == whole
    assert tuned(9, seed=1)[1:] != whole[1:]


def test_no_values_are_tried_twice_and_a_finite_space_comes_to_its_end():
    space = {"model.dim": Grid((8, 16, 32)), "model.user_id": Grid((False, True))}
    trials: list[Trial] = []
    while (values := next_values(space, trials, seed=0, first={})) is not None:
        trials.append(Trial(len(trials) + 1, values, "done", 0.5))
    assert len(trials) == len({tuple(trial.values.items()) for trial in trials}) == 6


def test_values_keep_to_their_axis():
    space = {"training.batch_size": Range(3.0, 5.0, whole=True), "training.learning_rate": Range(1 / 3000, 1 / 2999)}
    trials: list[Trial] = []
    for number in range(1, 8):
        values = next_values(space, trials, seed=0, first={})
        assert values is not None
        assert type(values["training.batch_size"]) is int
        assert all(axis.holds(values[key]) for key, axis in space.items())
        trials.append(
            Trial(number, values, "failed" if number == 3 else "pruned", None if number == 3 else 0.1, {1: 0.1})
        )


def curves(*ends: float) -> list[Trial]:
    return [
        Trial(number, {**OWN, "model.dim": 8}, "done", end, dict.fromkeys(range(1, 7), end))
        for number, end in enumerate(ends, start=1)
    ]


def test_a_curve_below_the_median_is_pruned_once_there_is_enough_to_compare_with():
    bad, good = {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1}, {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.35}
    trials = curves(0.1, 0.2, 0.3, 0.4, 0.5)
    assert len(trials) == FIRST
    assert is_pruned(SPACE, trials, bad)
    assert not is_pruned(SPACE, trials, good)
    assert not is_pruned(SPACE, trials[1:], bad)
    assert not is_pruned(SPACE, trials, {1: 0.1, 2: 0.1, 3: 0.1})


def test_the_key_that_decides_the_figure_is_the_one_that_mattered():
    trials = tuned(20)
    shares = importance(SPACE, trials)
    assert list(shares) == ["training.learning_rate", "model.dim"]
    assert shares["training.learning_rate"] > 0.8
    assert importance(SPACE, trials) == shares
    assert importance(SPACE, trials[: LEAST - 1]) == {}
    assert importance(SPACE, [Trial(n, OWN, "done", 0.5) for n in range(1, 20)]) == {}
