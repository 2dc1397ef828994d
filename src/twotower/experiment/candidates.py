"""The task of pre-ranking: learn from labelled pairs, choose by their AUC, order the candidates of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.pairs import PairRows, PairSplit
from twotower.evaluation.candidates import drawn_lists, evaluate_candidates
from twotower.evaluation.pointwise import PairResult, evaluate_rows
from twotower.evaluation.processes import Processes
from twotower.evaluation.result import Result
from twotower.experiment.build import Parts
from twotower.experiment.checks import Check
from twotower.experiment.labelled_pairs import PAIRS, pairs_of
from twotower.experiment.learn import kept_in, new_model
from twotower.experiment.run import Run
from twotower.experiment.several import check_model
from twotower.models.base import ClosedForm, Model
from twotower.models.encode import ItemStates
from twotower.training.callbacks import Callback, EpochRecord
from twotower.training.config import Training
from twotower.training.distributed import World
from twotower.training.loop import Validate, fit
from twotower.training.objective import AgainstLabels
from twotower.training.state import Progress

CANDIDATES = 2_000
"""Candidates of one request."""
PAIR_TILE = 16_384


@dataclass(frozen=True)
class Judged:
    """Hold the figures of the test."""

    pairs: PairResult
    """Positives against one random negative each."""
    request: Result
    """The positive among 2,000 random unseen items. Its ``metrics`` hold those of ``pairs`` too."""

    def per_user(self) -> dict[str, Tensor]:
        """Return values user by user, users ascending: grouped AUC (GAUC) and the request's.

        GAUC is that of the user's own pair: in order 1, tied 0.5.
        """
        positive, negative = self.pairs.scores.view(-1, 2).unbind(dim=1)
        won = (positive > negative).double() + 0.5 * (positive == negative).double()
        return {"gauc": won, **self.request.per_user}


def learn_pairs(
    run: Run,
    dataset: Dataset,
    split: PairSplit,
    *,
    folder: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    world: World | None = None,
) -> tuple[Model, list[EpochRecord]]:
    """Train a model on the split's training rows by binary cross-entropy, with a record for each epoch.

    Validation gives AUC, GAUC and log loss of the validation rows; the epoch that is kept is the best by
    ``training.metric`` ("auc", also where the run leaves the default, or "gauc") among those that the model calls
    selectable. With ``training.refit`` a new model then learns from training and validation rows for as many epochs;
    the records stay those of the first.

    Args:
        run: what to learn, and how.
        dataset: on the device to learn on.
        split: from `pairs_of`.
        folder: for the log and the checkpoint; None keeps none.
        resume: go on from the checkpoint in ``folder``.
        callbacks: told of every epoch.
        world: the processes that train as one.

    Raises:
        InputError: if the run asks for what pairs cannot give.
    """
    if run.objective.loss != "bce":
        raise InputError(f"split '{PAIRS}' has labelled rows: set objective.loss = 'bce', not '{run.objective.loss}'")
    if run.training.geometry != "off" or run.objective.regularise:
        raise InputError(f"split '{PAIRS}': leave out training.geometry and objective.regularise")
    if run.training.evaluate_every and not len(split.validation):
        raise InputError("no row validates: raise validation_share, or set training.evaluate_every = 0")
    world = world or World()
    with world.together():
        model = new_model(run, dataset)
        check_model(world, run, model)
    if isinstance(model, ClosedForm):
        model.fit_log(split.learnt())
        return model, []
    config = run.training
    if config.evaluate_every:
        config = replace(config, metric=chosen_by(config.metric))

    def validate(current: Model) -> dict[str, float]:
        return validate_pairs(current, split)

    def train(model: Model, rows: PairRows, name: str, validate: Validate | None, epochs: int | None) -> Progress:
        parts = kept_in(folder, name, callbacks, resume, world, metric=config.metric)
        return fit(model, rows, AgainstLabels(), config, validate=validate, epochs=epochs, world=world, **parts)

    progress = train(model, split.train, "train", validate, None)
    if run.training.refit:
        model = new_model(run, dataset)
        train(model, split.known, "refit", None, progress.best_epoch)
    return model, progress.records


def validate_pairs(model: Model, split: PairSplit) -> dict[str, float]:
    """Return AUC, group AUC (GAUC) and log loss of the validation rows."""
    return evaluate_rows(model, split.validation, pair_tile=PAIR_TILE).metrics


def chosen_by(metric: str) -> str:
    """Return the metric that picks the epoch on pairs: the run's, or AUC for the default, which needs a catalogue.

    Raises:
        InputError: if validation pairs have no such metric, or more of it is not better.
    """
    if metric == Training.metric:
        return "auc"
    if metric not in ("auc", "gauc"):
        raise InputError(f"training.metric {shown(metric)}: split '{PAIRS}' picks the epoch by auc or gauc")
    return metric


def judged_by(run: Run) -> str:
    """Return the validation metric that picks the epoch of a run.

    Raises:
        InputError: as `chosen_by`.
    """
    pairs = run.data.split == PAIRS and run.training.evaluate_every
    return chosen_by(run.training.metric) if pairs else run.training.metric


def judge_pairs(
    model: Model,
    dataset: Dataset,
    split: PairSplit,
    *,
    ks: Sequence[int] = (10, 100),
    candidates: int = CANDIDATES,
    items: ItemStates | None = None,
) -> Judged:
    """Evaluate AUC, grouped AUC (GAUC) and log loss of the test pairs.

    And recall and NDCG of the test item among random unseen ones.

    The candidates are the same for every model, whatever the run's seed.
    """
    pairs = evaluate_rows(model, split.test, pair_tile=PAIR_TILE)
    targets = split.test_targets()
    request = evaluate_candidates(model, dataset, targets, drawn_lists(dataset, targets, candidates), ks, items=items)
    return Judged(pairs, replace(request, metrics={**pairs.metrics, **request.metrics}))


class Candidates:
    """Learn from labelled pairs by binary cross-entropy, and evaluate on pairs and on requests: a `Task`.

    Args:
        run: which split, what to learn, and how.
        dataset: the log.
        with_lists: as to `pairs_of`.
    """

    def __init__(self, run: Run, dataset: Dataset, *, with_lists: bool = True) -> None:
        self.run, self.dataset, self.with_lists = run, dataset, with_lists

    @cached_property
    def split(self) -> PairSplit:
        """Return the rows that the run asks for."""
        return pairs_of(self.run, self.dataset, with_lists=self.with_lists)

    @property
    def learnt(self) -> Log:
        """Return the events of the training rows."""
        return self.split.learnt()

    def train(
        self,
        *,
        folder: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        parts: Parts | None = None,
        world: World | None = None,
    ) -> tuple[Model, list[EpochRecord]]:
        """Train as `learn_pairs` does.

        Raises:
            InputError: if a sampler is handed over: the pairs bring their negatives.
        """
        if parts is not None and parts.sampler is not None:
            raise InputError(f"split '{PAIRS}' brings its own negatives: leave the sampler out")
        return learn_pairs(
            self.run, self.dataset, self.split, folder=folder, resume=resume, callbacks=callbacks, world=world
        )

    def validate(self, model: Model) -> dict[str, float]:
        """Score the validation rows."""
        return validate_pairs(model, self.split)

    def test(
        self,
        model: Model,
        *,
        part: str = "test",
        ks: tuple[int, ...] = (),
        items: ItemStates | None = None,
        processes: Processes | None = None,
    ) -> Result:
        """Order the test item of each user among random unseen ones.

        Raises:
            InputError: if validation is asked for, which has pairs and no requests, or several processes share.
        """
        if processes is not None and processes.size > 1:
            raise InputError(f"a run on split '{PAIRS}' is judged in one process: start it without torchrun")
        if part == "validation":
            raise InputError(f"split '{PAIRS}' has labelled pairs, whose validation is no ranking: judge the test")
        return judge_pairs(model, self.dataset, self.split, ks=ks or self.run.evaluation.ks, items=items).request

    def targets(self, part: str) -> None:
        """Return None: candidates are given, so no index is asked."""

    def checks(self, model: Model, test: Result) -> list[Check]:
        """Return nothing: popularity is no yardstick among random candidates."""
        return []
