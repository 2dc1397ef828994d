"""What a run is asked to do: `Catalogue` ranks all items for a user, `Candidates` orders the few of a request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.pairs import PairSplit
from twotower.data.split import Split, Targets
from twotower.evaluation.result import Result
from twotower.experiment.build import Parts
from twotower.experiment.checks import Check
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.models.encode import ItemStates
from twotower.training.callbacks import Callback, EpochRecord


@runtime_checkable
class Task(Protocol):
    """Splits the data of one run, learns from them, validates and tests; made by `task_of`."""

    run: Run
    dataset: Dataset

    @property
    def split(self) -> Split | PairSplit:
        """What is learnt from and what is held out; cut when it is first asked for."""
        ...

    @property
    def learnt(self) -> Log:
        """The events that the run's final model has learnt from."""
        ...

    def train(
        self,
        *,
        folder: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        parts: Parts | None = None,
    ) -> tuple[Model, list[EpochRecord]]:
        """Return a model that has learnt from the split, and one record for each epoch (none for closed forms).

        Args:
            folder: for logs and checkpoints; None keeps none.
            resume: go on from the checkpoints in ``folder``.
            callbacks: told of every epoch.
            parts: loss and sampler handed over as objects.

        Raises:
            InputError: if the run asks for what the task cannot give.
        """
        ...

    def validate(self, model: Model) -> dict[str, float]:
        """Return the metrics that pick the epoch."""
        ...

    def test(
        self, model: Model, *, part: str = "test", ks: tuple[int, ...] = (), items: ItemStates | None = None
    ) -> Result:
        """Judge a model on a part of the split that was held out.

        Args:
            model: trained.
            part: "test" or "validation".
            ks: list lengths; empty: those of the run.
            items: what the model makes of every known item, where that is at hand.

        Raises:
            InputError: if the task has no figures of that part.
        """
        ...

    def targets(self, part: str) -> Targets | None:
        """Return who is asked for lists over the whole catalogue, as an index answers them; None: nobody."""
        ...

    def checks(self, model: Model, test: Result) -> list[Check]:
        """Compare the test of a model with what a model that learns nothing would reach."""
        ...
