"""Refresh: a bundle with newer events, users and items, trained on from its own weights, evaluated, then written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.lock import writing_alone
from twotower.data.dataset import Dataset
from twotower.data.split import Split, Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.build import item_events
from twotower.experiment.catalogue import Catalogue
from twotower.experiment.checks import check_items
from twotower.experiment.contents import contents_of
from twotower.experiment.defaults import spelled_out
from twotower.experiment.labelled_pairs import PAIRS
from twotower.experiment.learn import learn, metric_length, metric_of, new_model, settle, validation_metrics
from twotower.experiment.next_log import asked_as_then
from twotower.experiment.refresh_drift import drifts
from twotower.experiment.refresh_same import check_same_log
from twotower.experiment.refresh_verdict import FEW_USERS, Verdict, verdict
from twotower.experiment.registrations import check_parts
from twotower.experiment.run import Data, IndexSection, ModelSection, Run
from twotower.models.base import ClosedForm, Model, attach_items
from twotower.models.encode import encode_known_items
from twotower.models.enlarge import enlarged
from twotower.serving.bundle import Bundle, check_target
from twotower.serving.collections import deleted_on_failure
from twotower.serving.contents import write_bundle
from twotower.serving.joined import Joined, join_data
from twotower.training.callbacks import Callback

log = logging.getLogger(__name__)

HELD_OUT = 0.2
"""Share of the newest events that the verdict is about; as many before them are for validation."""
PATIENCE = 2
"""Evaluations without a better metric before training stops, where the run never would."""


@dataclass(frozen=True)
class Refreshed:
    """Hold what came of a refresh."""

    written: Path | None
    """Folder of the new bundle; None: it was worse, and nothing was written."""
    verdict: Verdict
    events: int
    """That the bundle did not have."""
    users: int
    """New ones, as the items are."""
    items: int
    epochs: int
    """After which the weights were best on validation; 0: those that it began from, or a closed form."""
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of the bundle's users, items and events as many as the newer data hold, and how many it had."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "written": None if self.written is None else str(self.written),
            "added": {"events": self.events, "users": self.users, "items": self.items},
            "known": {name: list(pair) for name, pair in self.known.items()},
            "epochs": self.epochs,
            "verdict": self.verdict.to_json(),
        }


def refresh(
    folder: Path | str,
    data: Dataset | Path | str,
    *,
    to: Path | str | None = None,
    device: str = "auto",
    change: Callable[[Run], Run] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Refreshed:
    """Take newer data into a bundle: train on from its weights, compare with it, and write if that is not worse.

    The newest events (later than all that the bundle has) are held out: the last fifth for the verdict, the fifth
    before it for validation, which says when training stops. Everything else is learnt, old and new. Known users, items
    and values begin with the vectors that they have; new ones as `enlarged` says. A model in closed form is fitted
    again, judged likewise, and then fitted on all events.

    Nothing is written until the verdict: a refresh that is stopped or killed leaves the bundle as it was.

    Args:
        folder: of the bundle.
        data: newer data, prepared by the spec of the old; what the bundle has already may be among them.
        to: folder of the new bundle; None: the old one is replaced, in one step.
        device: where the model trains.
        change: of the run, but for its model and data.
        callbacks: told of epochs.

    Raises:
        InputError: if the model cannot be refreshed, the data are of another kind or data set or contradict the
            bundle's own, or too few are new.
    """
    folder, target = Path(folder), Path(folder if to is None else to)
    if to is not None:
        check_target(target)
    with writing_alone(target):
        bundle = Bundle.load(folder, device)
        run = _run_of(bundle, change)
        joined = join_data(bundle, data if isinstance(data, Dataset) else Dataset.load(data))
        run = replace(run, data=_split_of(joined, str(folder), _name(data)))
        check_same_log(joined, _name(data), str(folder))
        joined = _with_split(joined, run.data)
        task = Catalogue(run, joined.dataset)
        old = _result_of_old(asked_as_then(bundle, joined), run, joined, task.split.test)
        model, epochs = _learnt(bundle, run, joined, task.split, callbacks)
        items, test = encode_known_items(model, joined.dataset), _judged(model, run, joined.dataset, task.split)
        events = task.learnt if epochs or isinstance(model, ClosedForm) else joined.dataset.log.select(~joined.fresh)
        diagnosis = check_items(model, items, events)
        before = bundle.diagnosis
        spaces = [None if one is None else str(one["verdict"]) for one in (before, diagnosis)]
        found = verdict(
            old, test, run.training.metric, spaces=(spaces[0], spaces[1]), drifts=drifts(joined, seed=run.training.seed)
        )
        if found.users < FEW_USERS:
            log.warning("the verdict rests on %d users: only large differences would be seen", found.users)
        done = Refreshed(
            None if found.worse else target,
            found,
            int(joined.fresh.sum()),
            joined.new_users,
            joined.new_items,
            epochs,
            joined.known,
        )
        if found.worse:
            return done
        learnt = ""
        if isinstance(model, ClosedForm):
            events, learnt = joined.dataset.log, "all events of its last refresh"
            model.fit_log(events)
            items = encode_known_items(model, joined.dataset)
        about = {"from": bundle.manifest["digest"], **{k: v for k, v in done.to_json().items() if k != "written"}}
        contents = contents_of(
            run, model, joined.dataset, items, test, diagnosis, events=events, learnt=learnt, refresh=about
        )
        with deleted_on_failure(contents.index):
            write_bundle(target, contents)
    return done


def _run_of(bundle: Bundle, change: Callable[[Run], Run] | None) -> Run:
    """The run of the bundle, as a refresh takes it."""
    check_parts(bundle.folder, bundle.manifest)
    run, described = Run.load(bundle.folder / "run.toml"), bundle.manifest["model"]
    if run.data.split == PAIRS:
        raise InputError(
            f"{bundle.folder}: orders labelled pairs, and a refresh is judged by lists of the catalogue; train it "
            "again on all data"
        )
    run = replace(run, model=ModelSection(described["name"], described["parameters"]))
    if bundle.manifest["index"] is not None:
        run = replace(run, index=IndexSection(bundle.manifest["index"], bundle.manifest["index_settings"] or {}))
    training = run.training
    never = not training.patience
    training = replace(
        training,
        refit=issubclass(type(bundle.model), ClosedForm),
        evaluate_every=training.evaluate_every or 1,
        patience=training.patience or PATIENCE,
        patience_loss=0.0 if never else training.patience_loss,
    )
    run = replace(run, training=training)
    changed = run if change is None else change(run)
    if (changed.model, changed.data) != (run.model, run.data):
        raise InputError("a refresh keeps the model's settings and splits by time: change other sections of the run")
    metric_length(changed.training.metric)
    return spelled_out(replace(changed, training=replace(changed.training, refit=training.refit)))


def _split_of(joined: Joined, folder: str, data: str) -> Data:
    """The split of a refresh: two moments among the events later than all that the bundle has."""
    log, latest = joined.dataset.log, joined.latest_stored
    assert log.times is not None
    if not joined.fresh.any():
        raise InputError(f"{data}: all of its events are in {folder} already, so there is nothing to take in")
    positive = log.is_positive()
    newest = log.times[joined.fresh & positive & (log.times > latest)].sort().values
    if not len(newest):
        raise InputError(
            f"{data}: none of its events is later than the latest of {folder}, so none can judge a refresh"
        )
    moments = [int(newest[min(len(newest) - 1, int(len(newest) * (1 - share)))]) for share in (2 * HELD_OUT, HELD_OUT)]
    if moments[0] >= moments[1]:
        raise InputError(
            f"{data}: its {len(newest):,} later events have too few different times to hold some out; hand over more"
        )
    return Data(split="global-time", split_options={"validation_from": moments[0], "test_from": moments[1]})


def _with_split(joined: Joined, data: Data) -> Joined:
    """The same, where the data set says how it is split: a bundle's card reads it there."""
    manifest = joined.dataset.manifest | {"split": {"kind": data.split, **data.split_options}}
    return replace(joined, dataset=replace(joined.dataset, manifest=manifest))


def _name(data: Dataset | Path | str) -> str:
    return str(data.folder or data.name) if isinstance(data, Dataset) else str(data)


def _judged(model: Model, run: Run, dataset: Dataset, split: Split) -> Result:
    """The test of the new model."""
    return evaluate(model, dataset, split.test, _protocol(run), train=split.known)


def _protocol(run: Run, candidates: tuple[int, ...] | None = None) -> Protocol:
    ks = tuple(sorted({*run.evaluation.ks, metric_length(run.training.metric)}))
    return Protocol(ks=ks, mask_seen=run.evaluation.mask_seen, candidates=candidates)


def _result_of_old(old: Bundle, run: Run, joined: Joined, test: Targets) -> Result:
    """The same test of the old bundle, which ranks what it knows and reads in histories what it knows."""
    history = test.history.select(test.history.items < old.schema.num_items)
    protocol = _protocol(run, tuple(old.item_ids.sort().values.tolist()))
    stored = joined.dataset.log.select(~joined.fresh)
    return evaluate(old.model, joined.dataset, Targets(history, test.truth), protocol, train=stored)


def _learnt(bundle: Bundle, run: Run, joined: Joined, split: Split, callbacks: Sequence[Callback]) -> tuple[Model, int]:
    """The refreshed model, and after how many epochs it was best."""
    dataset = joined.dataset
    if isinstance(bundle.model, ClosedForm):
        model = new_model(run, dataset)
        assert isinstance(model, ClosedForm)
        model.fit_log(split.known)
        return model, 0
    start = enlarged(bundle.model, run.model.name, run.model.settings, dataset.schema, as_unknown=False)
    attach_items(start, dataset.all_items())
    settle(start, dataset, item_events(dataset, split.train.positives()))
    metric = run.training.metric
    begun = metric_of(validation_metrics(start, run, dataset, split), metric)
    model, records = learn(run, dataset, split, callbacks=callbacks, start=start)
    judged = {record.epoch: record.metrics[metric] for record in records if record.selectable and record.metrics}
    best = max(judged, key=lambda epoch: judged[epoch], default=0)
    if not best or judged[best] < begun:
        log.warning("no epoch was better on validation than the weights that it began from: these are kept")
        return start, 0
    return model, best
