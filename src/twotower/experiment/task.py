"""Task of a run: `Catalogue` ranks all items for a user, `Candidates` orders the few of a request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.pairs import PairSplit
from twotower.data.split import Split, Targets
from twotower.evaluation.processes import Processes
from twotower.evaluation.result import Result
from twotower.experiment.build import Parts
from twotower.experiment.checks import Check
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.models.encode import ItemStates
from twotower.training.callbacks import Callback, EpochRecord
from twotower.training.distributed import World


@runtime_checkable
class Task(Protocol):
    """Split the data of one run, learn from them, validate and test; made by `task_of`."""

    run: Run
    dataset: Dataset

    @property
    def split(self) -> Split | PairSplit:
        """Return the training and the held-out part; split when first asked for."""
        ...

    @property
    def learnt(self) -> Log:
        """Return the events that the run's final model was trained on."""
        ...

    def train(
        self,
        *,
        folder: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        parts: Parts | None = None,
        world: World | None = None,
    ) -> tuple[Model, list[EpochRecord]]:
        """Return a model trained on the split, and one record for each epoch (none for closed forms).

        Args:
            folder: for logs and checkpoints; None keeps none.
            resume: go on from the checkpoints in ``folder``.
            callbacks: told of every epoch.
            parts: loss and sampler handed over as objects.
            world: the processes that train as one; None: this one alone.

        Raises:
            InputError: if the run asks for what the task cannot give.
        """
        ...

    def validate(self, model: Model) -> dict[str, float]:
        """Return the metrics that pick the epoch."""
        ...

    def test(
        self,
        model: Model,
        *,
        part: str = "test",
        ks: tuple[int, ...] = (),
        items: ItemStates | None = None,
        processes: Processes | None = None,
    ) -> Result:
        """Evaluate a model on a held-out part of the split.

        Args:
            model: trained.
            part: "test" or "validation".
            ks: list lengths; empty: those of the run.
            items: what the model makes of every known item, where that is at hand.
            processes: that evaluate together; None: this one alone.

        Raises:
            InputError: if the task has no figures of that part, or is not shared out.
        """
        ...

    def targets(self, part: str) -> Targets | None:
        """Return who is asked for lists over the whole catalogue, as an index answers them; None: nobody."""
        ...

    def checks(self, model: Model, test: Result) -> list[Check]:
        """Compare the test of a model with what a model that learns nothing would reach."""
        ...
