"""Evaluation of a first stage and a pre-ranker as a pair, on events new to both, and the weight of their mixture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import TopK
from twotower.data.log import Log
from twotower.data.pairs import PairSplit
from twotower.data.split import Targets
from twotower.evaluation.candidates import candidate_scores, found_candidates, result_of_lists
from twotower.evaluation.protocol import check_lengths
from twotower.evaluation.result import Result
from twotower.experiment.catalogue import split_of
from twotower.experiment.evaluate import refuse_learnt
from twotower.experiment.labelled_pairs import PAIRS, STAGE_ONE, pairs_of
from twotower.experiment.learn import learnt_log
from twotower.experiment.run import Run
from twotower.models.mixture import mix
from twotower.serving.bundle import Bundle
from twotower.serving.pairs import Judgement, note_judgement
from twotower.serving.pipeline import check_same_catalogue

log = logging.getLogger(__name__)

WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Tried beside 0, which is the first stage's order."""
SURE = 1.64
"""A weight is taken when it gains more than so many standard errors on validation; else the first stage's order is."""
METRIC = "ndcg@10"
CANDIDATES = STAGE_ONE


@dataclass(frozen=True)
class JudgedPair:
    """Hold the test figures of a pair."""

    judgement: Judgement
    stage_one: Result
    """The first stage's own order."""
    second: Result
    """The same candidates in the pre-ranker's order."""
    pair: Result
    """By both, at the weight that was chosen."""

    def line(self) -> str:
        """Describe how the pair did, in one line."""
        found = self.judgement
        return (
            f"behind its first stage: test {found.metric} {found.pair:.4f} with weight {found.weight:g} (chosen on "
            f"{found.chosen_on}), {found.first:.4f} by the first stage alone, {found.second:.4f} by its own order"
        )


def judge_pair(
    first: Path,
    ranker: Path,
    *,
    candidates: int = CANDIDATES,
    ks: Sequence[int] = (),
    write: bool = True,
    device: str = "cpu",
) -> JudgedPair:
    """Evaluate two bundles as a pair, and note the result in the pre-ranker's, which then answers so.

    The test is the pre-ranker's own, without events that the first stage learnt. The weight of the pre-ranker's score
    is chosen on the pre-ranker's validation events: 0 unless another gains for sure. Where the first stage learnt them
    all, that leans to the first stage; where there are none, the pre-ranker's own order stands.

    Args:
        first: bundle of the first stage.
        ranker: bundle of the pre-ranker.
        candidates: handed from the first to the second.
        ks: list lengths; empty: those of the pre-ranker's run, and 10.
        write: whether to note the judgement.
        device: where the models run.

    Raises:
        InputError: if a folder is no bundle, the two are of other catalogues or events, ``candidates`` is below 10, no
            event is left to test on, or the device is not there.
    """
    if candidates < 10:
        raise InputError(f"candidates = {candidates}: judge a pair on at least 10")
    check_lengths("candidates", [candidates])
    one, two = Bundle.load(first, device), Bundle.load(ranker, device)
    check_same_catalogue(one, two)
    for bundle in (one, two):
        refuse_learnt(bundle, "test")
    run = Run.load(two.folder / "run.toml")
    if not torch.equal(one.dataset.log.items, two.dataset.log.items):
        raise InputError(f"{first} and {ranker} keep other events; train both on the same prepared data")
    ks = tuple(sorted({*(ks or run.evaluation.ks), 10}))
    mask = one.mask_seen
    learnt = _learnt(one)
    test, validation = _held_out(two, run)
    test = _unlearnt(test, learnt)
    if not len(test.users()):
        raise InputError(f"{first} learnt every event that {ranker} is tested on: train both with the same test events")
    weight, chosen_on = 1.0, "nothing"
    if validation is not None:
        kept = _unlearnt(validation, learnt)
        chosen_on = "events that neither learnt" if len(kept.users()) else "events that the first stage learnt"
        weight = _choose(one, two, kept if len(kept.users()) else validation, candidates, mask=mask)
    found, scored = _scores(one, two, test, candidates, mask=mask)

    def result(lists: TopK) -> Result:
        return result_of_lists(one.dataset, test, lists.ids, ks)

    alone, second, pair = result(found), result(scored), result(mix(found, scored, weight))
    judgement = Judgement(
        candidates=candidates,
        weight=weight,
        metric=METRIC,
        users=len(test.users()),
        first=alone.metrics[METRIC],
        second=second.metrics[METRIC],
        pair=pair.metrics[METRIC],
        chosen_on=chosen_on,
    )
    if write:
        note_judgement(one, ranker, judgement)
    return JudgedPair(judgement, alone, second, pair)


def judge_trained(run: Run, to: Path) -> JudgedPair | None:
    """Evaluate a pre-ranker behind the first stage whose candidates it was trained on; None for others.

    Where the pair cannot be judged, a warning says why: the training is done.
    """
    options = run.data.split_options
    if run.data.split != PAIRS or not options.get("candidates"):
        return None
    try:
        return judge_pair(
            Path(options["candidates"]),
            to,
            candidates=options.get("candidates_number", CANDIDATES),
            device=run.training.device,
        )
    except InputError as error:
        log.warning("%s: not judged behind its first stage: %s", to, error)
        return None


def _scores(one: Bundle, two: Bundle, targets: Targets, candidates: int, *, mask: bool) -> tuple[TopK, TopK]:
    found = found_candidates(one.model, one.dataset, targets, candidates, mask_seen=mask)
    return found, candidate_scores(two.model, two.dataset, targets, found.ids)


def _choose(one: Bundle, two: Bundle, targets: Targets, candidates: int, *, mask: bool) -> float:
    """The weight with the best validation metric, if it gains for sure on the first stage's order; else 0."""
    found, scored = _scores(one, two, targets, candidates, mask=mask)

    def values(weight: float) -> Tensor:
        return result_of_lists(one.dataset, targets, mix(found, scored, weight).ids, (10,)).per_user[METRIC].double()

    base = values(0.0)
    gains = {weight: values(weight) - base for weight in WEIGHTS}
    best = max(gains, key=lambda weight: float(gains[weight].mean()))
    gain = gains[best]
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else float("inf")
    return best if float(gain.mean()) > SURE * error else 0.0


def _learnt(bundle: Bundle) -> Log:
    """The positives that a bundle's model has learnt from."""
    run = Run.load(bundle.folder / "run.toml")
    if run.data.split == PAIRS:
        split = pairs_of(run, bundle.dataset, with_lists=False)
        return split.learnt().positives()
    return learnt_log(run, split_of(run, bundle.dataset)).positives()


def _held_out(bundle: Bundle, run: Run) -> tuple[Targets, Targets | None]:
    """What a pre-ranker is tested on, and what it was held against in training; None where it learnt that too."""
    if run.data.split != PAIRS:
        split = split_of(run, bundle.dataset)
        return split.test, None if run.training.refit or not len(split.validation.users()) else split.validation
    pairs = pairs_of(run, bundle.dataset, with_lists=False)
    none = run.training.refit or not len(pairs.validation)
    return pairs.test_targets(), None if none else validation_targets(pairs)


def validation_targets(split: PairSplit) -> Targets:
    """Return the validation rows as a search: the latest of each user's is to be found, given what came before."""
    rows = split.validation
    log, positive = rows.log, rows.labels == 1
    ends = torch.full((len(log.offsets) - 1,), -1, dtype=torch.int64, device=log.items.device)
    ends = ends.scatter_reduce(0, rows.users[positive], rows.ends[positive], reduce="amax")
    end = ends[log.users()]
    places = torch.arange(log.num_events, device=log.items.device)
    return Targets(log.select(places < end), log.select(places == end))


def _unlearnt(targets: Targets, learnt: Log) -> Targets:
    """The targets of users of whom no truth was learnt beyond what their history holds of the same item."""
    truth = targets.truth.positives()
    width = int(max(part.items.max() if part.num_events else 0 for part in (truth, learnt, targets.history))) + 1
    asked, known, before = (part.users() * width + part.items for part in (truth, learnt, targets.history.positives()))
    keys = asked.unique()

    def times(of: Tensor) -> Tensor:
        of = of.sort().values
        return torch.searchsorted(of, keys, right=True) - torch.searchsorted(of, keys)

    spoilt = keys[times(known) > times(before)] // width
    drop = torch.zeros(len(targets.truth.offsets) - 1, dtype=torch.bool, device=truth.items.device)
    drop[spoilt] = True
    return targets._replace(truth=targets.truth.select(~drop[targets.truth.users()]))
