"""One trial: a training without the test's events, watched for a bad curve and for the end of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.pairs import PairSplit
from twotower.data.split import Split, Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.candidates import chosen_by, learn_pairs
from twotower.experiment.catalogue import split_of
from twotower.experiment.labelled_pairs import PAIRS, pairs_of
from twotower.experiment.learn import learn, metric_length, metric_of
from twotower.experiment.run import Run
from twotower.experiment.tuning.axes import Value
from twotower.experiment.tuning.trials import Trial
from twotower.metrics.registry import METRICS
from twotower.models.base import ClosedForm, Model, is_selectable
from twotower.models.registry import model_class
from twotower.training.callbacks import Callback, EpochRecord, Silent, StopTraining

Curve = dict[int, float]


def split_without_test(run: Run, dataset: Dataset) -> Split | PairSplit:
    """Return the run's split with an empty test, so that no trial can read it.

    Raises:
        InputError: if validation has no events, or is switched off.
    """
    if not run.training.evaluate_every:
        raise InputError("training.evaluate_every is 0: tuning judges by validation; set it to 1")
    if run.data.split == PAIRS:
        if issubclass(model_class(run.model.name), ClosedForm):
            raise InputError(f"model '{run.model.name}' is fitted without validation pairs: name another data.split")
        pairs = pairs_of(run, dataset)
        if not len(pairs.validation):
            raise InputError("no row validates: raise validation_share; tuning judges by validation")
        return pairs._replace(test=pairs.test.take(torch.zeros(0, dtype=torch.int64)))
    split = split_of(run, dataset)
    if not split.validation.truth.num_events:
        raise InputError("the split holds no validation events, and tuning judges by them; name another data.split")
    return split._replace(test=Targets(_no_event_of(split.test.history), _no_event_of(split.test.truth)))


def metric_name(run: Run) -> str:
    """Return the validation metric that picks the best trial: the one that picks a run's epoch.

    Raises:
        InputError: if there is none of that name.
    """
    if run.data.split == PAIRS:
        return chosen_by(run.training.metric)
    metric_length(run.training.metric)
    METRICS.get(run.training.metric.partition("@")[0])
    return run.training.metric


class Watch(Silent):
    """Keep the validation curve of a training, and ends it when the curve is bad or the time is over.

    Args:
        metric: whose curve is kept, of epochs that the model would serve with.
        is_bad: asked about the curve after each validation.
        end: by `time.perf_counter`.
    """

    def __init__(self, metric: str, is_bad: Callable[[Curve], bool], end: float) -> None:
        self.metric, self.is_bad, self.end = metric, is_bad, end
        self.curve: Curve = {}
        self.begun = self.pruned = self.over = False

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Note that training begins: what fails from now on is this trial's own fault."""
        self.begun = True

    def stepped(self, step: int) -> None:
        """End when the time is over."""
        if time.perf_counter() > self.end:
            self.over = True
            raise StopTraining("the budget is spent")

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Note the figure; end when the curve is bad."""
        if self.metric not in record.metrics or not is_selectable(model):
            return
        self.curve[record.epoch] = float(record.metrics[self.metric])
        if self.is_bad(self.curve):
            self.pruned = True
            raise StopTraining("the curve lies below that of other trials")


def run_trial(
    run: Run,
    dataset: Dataset,
    split: Split | PairSplit,
    *,
    number: int,
    values: dict[str, Value],
    is_bad: Callable[[Curve], bool],
    end: float,
    callbacks: Sequence[Callback] = (),
) -> tuple[Trial, bool]:
    """Train once and say how it went, and whether Ctrl-C ended it.

    Args:
        run: with the values of the trial.
        dataset: on the device to learn on.
        split: from `split_without_test`.
        number: of the trial.
        values: what it tries.
        is_bad: whether a training with this curve is to end.
        end: when the time is over, by `time.perf_counter`.
        callbacks: told of epochs.

    Raises:
        InputError: if the run is refused before its training begins.
    """
    begun, watch, figure = time.perf_counter(), Watch(metric_name(run), is_bad, end), None
    state, reason, interrupted = "done", "", False
    try:
        if isinstance(split, PairSplit):
            learn_pairs(run, dataset, split, callbacks=[watch, *callbacks])
        else:
            model, _ = learn(run, dataset, split, callbacks=[watch, *callbacks])
            if not watch.begun:
                figure = _closed_form_figure(run, model, dataset, split)
    except KeyboardInterrupt:
        state, interrupted = "cut", True
    except InputError as error:
        if not watch.begun:
            raise
        state, reason = "failed", str(error)
    except (MemoryError, torch.OutOfMemoryError):
        state, reason = "failed", "out of memory"
    if watch.curve and state != "failed":
        figure = max(watch.curve.values())
    if state == "done":
        state = "pruned" if watch.pruned else "cut" if watch.over else "done"
    if state == "done" and figure is None:
        state, reason = "failed", "no epoch was validated whose weights were trained as they are served"
    seconds = round(time.perf_counter() - begun, 3)
    return Trial(number, values, state, figure, watch.curve, seconds, reason), interrupted


def _closed_form_figure(run: Run, model: Model, dataset: Dataset, split: Split) -> float:
    protocol = Protocol(
        ks=(metric_length(run.training.metric),), split="validation", mask_seen=run.evaluation.mask_seen
    )
    return metric_of(evaluate(model, dataset, split.validation, protocol).metrics, run.training.metric)


def _no_event_of(log: Log) -> Log:
    return log.select(torch.zeros(log.num_events, dtype=torch.bool, device=log.items.device))
