"""Recall on a bundle's own test split, with features other than those that the bundle keeps."""

from __future__ import annotations

import copy

import torch

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.split import Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.catalogue import split_of
from twotower.experiment.run import Run
from twotower.models.base import attach_items, reads_catalogue
from twotower.serving.bundle import Bundle

METRIC = "recall@10"


def tested_on(bundle: Bundle) -> tuple[Targets, Protocol]:
    """Return the test targets and the protocol of a bundle's run.

    Raises:
        InputError: if the run cannot be read or split, or the bundle keeps no events.
    """
    run = Run.load(bundle.folder / "run.toml")
    targets = split_of(run, bundle.dataset).test
    if not len(targets.users()):
        raise InputError("the bundle keeps no events to test on")
    return targets, Protocol(ks=(10,), mask_seen=run.evaluation.mask_seen)


def evaluate_with_features(bundle: Bundle, dataset: Dataset, targets: Targets, protocol: Protocol) -> Result:
    """Evaluate the bundle's model on ``dataset``; the bundle itself stays as it is.

    A model that keeps the features of all items is copied, and the copy has those of ``dataset``.
    """
    model = bundle.model
    if reads_catalogue(model):
        model = copy.deepcopy(model)
        with torch.no_grad():
            attach_items(model, dataset.all_items())
    return evaluate(model, dataset, targets, protocol)
