"""The task of retrieval: for each user, find the best items of the whole catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from twotower.data.dataset import Dataset
from twotower.data.identity import stored_split
from twotower.data.log import Log
from twotower.data.split import Split, Targets
from twotower.data.splitters import split_log
from twotower.evaluation.processes import Processes
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.build import Parts
from twotower.experiment.checks import Check, check_popularity
from twotower.experiment.learn import learn, learnt_log, validation_metrics
from twotower.experiment.run import Run
from twotower.models.base import ClosedForm, Model
from twotower.models.encode import ItemStates
from twotower.training.callbacks import Callback, EpochRecord
from twotower.training.distributed import World

UNORDERED = "The log has no order: what is held out of a user's events is drawn at random. "
"""Stands before what a split says of a log without order."""


def split_of(run: Run, dataset: Dataset) -> Split:
    """Split the data as the run names, else as the data set's spec, else by leave-one-out."""
    if run.data.split:
        split = split_log(dataset.log, run.data.split, **run.data.split_options)
    else:
        stored = stored_split(dataset)
        split = split_log(dataset.log, stored.pop("kind"), **(stored | run.data.split_options))
    return split if dataset.is_ordered else split._replace(leaks=UNORDERED + split.leaks)


class Catalogue:
    """Learn from a split log by the run's objective, and evaluate by full rankings: a `Task`."""

    def __init__(self, run: Run, dataset: Dataset) -> None:
        self.run, self.dataset = run, dataset

    @cached_property
    def split(self) -> Split:
        """Return the split that the run or the data set names."""
        return split_of(self.run, self.dataset)

    @property
    def learnt(self) -> Log:
        """Return the training events; with ``training.refit`` those of validation too."""
        return learnt_log(self.run, self.split)

    def train(
        self,
        *,
        folder: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        parts: Parts | None = None,
        world: World | None = None,
    ) -> tuple[Model, list[EpochRecord]]:
        """Train as `learn` does."""
        return learn(
            self.run,
            self.dataset,
            self.split,
            folder=folder,
            resume=resume,
            callbacks=callbacks,
            parts=parts,
            world=world,
        )

    def validate(self, model: Model) -> dict[str, float]:
        """Rank the catalogue for the users of the validation part."""
        return validation_metrics(model, self.run, self.dataset, self.split)

    def test(
        self,
        model: Model,
        *,
        part: str = "test",
        ks: tuple[int, ...] = (),
        items: ItemStates | None = None,
        processes: Processes | None = None,
    ) -> Result:
        """Rank the catalogue for the users of a part, each of ``processes`` for some of them."""
        evaluation = self.run.evaluation
        protocol = Protocol(ks=ks or evaluation.ks, split=part, mask_seen=evaluation.mask_seen)
        return evaluate(
            model, self.dataset, self.targets(part), protocol, train=self.learnt, items=items, processes=processes
        )

    def targets(self, part: str) -> Targets:
        """Return the users of a part, and what is to be found for them."""
        return self.split.validation if part == "validation" else self.split.test

    def checks(self, model: Model, test: Result) -> list[Check]:
        """Compare with popularity, unless the model learns in closed form."""
        if isinstance(model, ClosedForm):
            return []
        mask, metric = self.run.evaluation.mask_seen, self.run.training.metric
        return [check_popularity(test, self.dataset, self.split, self.learnt, metric=metric, mask=mask)]
