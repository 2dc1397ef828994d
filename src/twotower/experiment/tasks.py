"""Choose the task of a run by its split."""

from __future__ import annotations

from twotower.data.dataset import Dataset
from twotower.experiment.candidates import Candidates
from twotower.experiment.catalogue import Catalogue
from twotower.experiment.labelled_pairs import PAIRS
from twotower.experiment.run import Run


def task_of(run: Run, dataset: Dataset, *, with_lists: bool = True) -> Catalogue | Candidates:
    """Return the task that the run's ``data.split`` asks for: `Candidates` for labelled pairs, else `Catalogue`.

    Args:
        run: which split.
        dataset: the log.
        with_lists: False, where the task is to test alone: the first stage of `pairs_of` is left alone then.
    """
    return Candidates(run, dataset, with_lists=with_lists) if run.data.split == PAIRS else Catalogue(run, dataset)
