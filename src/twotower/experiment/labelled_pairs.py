"""Labelled pairs of a run: its rows of one user and one item, and the first stage that negatives may come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.data.dataset import Dataset
from twotower.data.pairs import PairSplit, pre_ranking_pairs
from twotower.data.split import Targets
from twotower.evaluation.candidates import retrieved_lists
from twotower.experiment.run import Run
from twotower.models.registry import all_settings, model_class
from twotower.serving.bundle import Bundle

PAIRS = "pre-ranking"
"""As ``data.split`` of a run: each user's last positive against one random unseen item; see `pre_ranking_pairs`."""

STAGE_ONE = 500
"""Candidates of a first stage that negatives are drawn from, where nothing else is said."""
CANDIDATE_OPTIONS: dict[str, Any] = {"candidates": "", "candidates_number": STAGE_ONE, "candidates_share": 1.0}
"""Options of the split that draw negatives from a first stage's lists, and their defaults."""

HISTORY = 50
"""Latest items of a history, where the model has no such setting."""


def pairs_of(run: Run, dataset: Dataset, *, with_lists: bool = True) -> PairSplit:
    """Return the rows of a run with ``data.split = "pre-ranking"``.

    With the option ``candidates``, the folder of a first stage's bundle, negatives of training and validation come from
    the best ``candidates_number`` (500) that it finds for the user before the test event, ``candidates_share`` (1.0) of
    them; then ``validation`` is "last" and ``negatives`` "fresh" where the run does not say otherwise.

    Args:
        run: which split and options.
        dataset: the log.
        with_lists: False leaves the first stage alone: the negatives are others, positives and test are the same.

    Raises:
        InputError: if an option is unknown or out of range, nobody has two positives, the model trains on sequences, or
            the first stage is no bundle or of another catalogue.
    """
    known = ("reading", "validation", "validation_share", "negatives", *CANDIDATE_OPTIONS)
    unknown = sorted(set(run.data.split_options) - set(known))
    if unknown:
        raise InputError(f"data.split_options.{unknown[0]}: split '{PAIRS}' takes {', '.join(known)}")
    share = run.data.split_options.get("validation_share", 0.0)
    if isinstance(share, bool) or not isinstance(share, int | float):
        raise InputError(f"data.split_options.validation_share = {shown(share)}: a number in [0, 1) is wanted")
    if model_class(run.model.name).batches == "sequences":
        raise InputError(
            f"model '{run.model.name}' trains on whole sequences, split '{PAIRS}' has rows of one user and one item: "
            "choose another split"
        )
    length = all_settings(run.model.name, run.model.settings).get("history_length", HISTORY)
    options = dict(run.data.split_options)
    folder, number, hard = (options.pop(name, default) for name, default in CANDIDATE_OPTIONS.items())
    lists = None
    if folder:
        options = {"validation": "last", "negatives": "fresh", **options}
        lists = first_stage_lists(Path(str(folder)), dataset, number) if with_lists else None
    elif number != STAGE_ONE or hard != 1.0:
        raise InputError("data.split_options: candidates_number and candidates_share go with candidates, a bundle")
    return pre_ranking_pairs(
        dataset, history_length=length, seed=run.training.seed, lists=lists, lists_share=hard, **options
    )


def first_stage_lists(folder: Path, dataset: Dataset, number: int) -> Tensor:
    """Return what a first stage finds for each user before the test: int64 [num_users, number], -1 fills up.

    Raises:
        InputError: if it is no bundle or of another catalogue, or ``number`` is below 1.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(
            f"data.split_options.candidates_number = {shown(number)}: a whole number of at least 1 is wanted"
        )
    first = Bundle.load(folder, dataset.device)
    if first.schema != dataset.schema:
        raise InputError(f"{folder}: its users, items or features are not those of '{dataset.name}'; train both on one")
    log = dataset.log.positives()
    last = torch.zeros(log.num_events, dtype=torch.bool, device=log.items.device)
    last[log.offsets[1:][log.lengths > 0] - 1] = True
    targets = Targets(log.select(~last), log.select(last))
    found = retrieved_lists(first.model, dataset, targets, min(number, dataset.schema.num_items))
    lists = torch.full((dataset.schema.num_users, found.shape[1]), -1, dtype=torch.int64, device=dataset.device)
    lists[targets.users()] = found
    return lists
