"""A whole run: split, train or fit, judge on the test, index, check the item vectors, write the bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.data.dataset import Dataset
from twotower.data.identity import fingerprint
from twotower.data.log import Log
from twotower.data.pairs import PairSplit
from twotower.data.split import Split
from twotower.data.splitters import split_log
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.build import Parts
from twotower.experiment.candidates import PAIRS, judge_pairs, learn_pairs, pairs_of
from twotower.experiment.checks import Check, check_popularity, check_space
from twotower.experiment.learn import learn, learnt_log
from twotower.experiment.run import Run
from twotower.experiment.several import check_alike
from twotower.index.registry import build_index, check_settings, index_parameters, serves
from twotower.models.base import ClosedForm, Model, OffersChoices
from twotower.models.encode import encode_items, inference
from twotower.models.registry import all_settings
from twotower.serving.bundle import check_target, write_bundle
from twotower.training.callbacks import Callback, Record, Silent
from twotower.training.distributed import World

UNORDERED = "The log has no order: what is held out of a user's events is drawn at random. "
"""Stands before what a split says of a log without order."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Trained:
    """What a run leaves in memory."""

    run: Run
    model: Model
    dataset: Dataset
    split: Split | PairSplit
    test: Result
    records: list[Record]
    """One for each epoch; empty for closed forms."""
    diagnosis: dict[str, Any] | None
    """The check of the item vectors; None for models without item vectors."""
    checks: list[Check] = field(default_factory=list)
    """One line on the space, one on the comparison with popularity; none for closed forms."""

    def __repr__(self) -> str:
        return f"Trained({self.run.model.name} on {self.dataset.name}: {self.test!r})"


def train(
    run: Run,
    *,
    to: Path | None = None,
    dataset: Dataset | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    parts: Parts | None = None,
    world: World | None = None,
) -> Trained:
    """Do the whole run and write its bundle.

    Started by torchrun, the processes train as one: each calls this with the same arguments, rank 0 writes and checks
    the item vectors, and all return the model and its test.

    The run that is noted spells out every setting of the model, so that a version with other defaults opens the bundle
    all the same, and trains the same model again.

    Beside the bundle, the folder ``<to>.run`` holds ``run.toml``, ``train.jsonl`` (one record an epoch) and, until
    the bundle is there, the checkpoint.

    Args:
        run: what to do.
        to: folder of the bundle; None writes nothing.
        dataset: instead of ``run.data.path``, when it is in memory already.
        resume: go on from the checkpoint in ``<to>.run``; where there is none yet, start from nothing and say so.
        callbacks: told of epochs, beside the log.
        parts: loss and sampler handed over as objects, in place of those that the run names.
        world: the processes that train as one; None: that of this process.

    Raises:
        InputError: if the run asks for something that is not there, a resumed run is another run or has other data,
            ``to`` can hold no bundle, or the ranks are not alike.
        ConnectionError: if another rank is gone, or does not answer.
    """
    world = world or World.current()
    with world.together():
        check_settings(run.index.kind, run.index.settings)
        run = spelled_out(run)
        device = pick_device(run.training.device, world)
        if to is not None:
            check_target(to)
        dataset = (dataset or Dataset.load(run.data.path)).to(device)
        split = pairs_of(run, dataset) if run.data.split == PAIRS else split_of(run, dataset)
        folder = None if to is None else to.with_name(to.name + ".run")
        if folder is not None and resume:
            resume = check_resumable(folder, run)
        if folder is not None and resume:
            check_same_data(folder, dataset)
    check_alike(world, run, dataset)
    resume = world.first(resume)
    claim = Claim(None if resume or world.rank else folder, run, dataset)
    callbacks = [claim, *callbacks]
    if isinstance(split, PairSplit):
        model, records = learn_pairs(
            run, dataset, split, folder=folder, resume=resume, callbacks=callbacks, world=world
        )
        learnt = split.learnt()
        test = judge_pairs(model, dataset, split, ks=run.evaluation.ks).request
    else:
        model, records = learn(
            run, dataset, split, folder=folder, resume=resume, callbacks=callbacks, parts=parts, world=world
        )
        learnt = learnt_log(run, split)
        protocol = Protocol(ks=run.evaluation.ks, mask_seen=run.evaluation.mask_seen)
        test = evaluate(model, dataset, split.test, protocol, train=learnt)
    if isinstance(model, OffersChoices):
        run = with_choice(run, model)
    if world.rank:
        return Trained(run, model, dataset, split, test, records, None)
    claim.made()  # closed forms have no training that would begin
    diagnosis = check_items(model, dataset, learnt)
    checks = [] if diagnosis is None else [check_space(diagnosis)]
    if isinstance(split, Split) and not isinstance(model, ClosedForm):
        mask = run.evaluation.mask_seen
        checks.append(check_popularity(test, dataset, split, learnt, metric=run.training.metric, mask=mask))
    for check in checks:
        log.log(logging.INFO if check.fine else logging.WARNING, "%s: %s", run.model.name, check.text)
    if to is not None and folder is not None:
        index = None
        if serves(run.index.kind, inner_product=model.inner_product):
            index = build_index(run.index.kind, run.index.settings, model)
            ids, states = known_states(model, dataset)
            index.build(states, ids)
        write_bundle(
            to,
            model=model,
            model_name=run.model.name,
            model_parameters=run.model.settings,
            dataset=dataset,
            run_toml=run.to_toml(),
            metrics=test.metrics,
            histories=dataset.log,
            diagnosis=diagnosis,
            index=index,
            learnt=learnt,
        )
        for checkpoint in folder.glob("*.safetensors"):
            checkpoint.unlink()
    return Trained(run, model, dataset, split, test, records, diagnosis, checks)


def spelled_out(run: Run) -> Run:
    """The run with the defaults of its model and its index written down."""
    model, index = run.model, run.index
    return replace(
        run,
        model=replace(model, settings=all_settings(model.name, model.settings)),
        index=replace(index, settings=index_parameters(index.kind) | index.settings),
    )


def with_choice(run: Run, model: OffersChoices) -> Run:
    """The run with the value that its model settled on, so that the same run again gives the same model."""
    settings = run.model.settings | {model.choice: getattr(model, model.choice)}
    return replace(run, model=replace(run.model, settings=settings))


def pick_device(name: str, world: World | None = None) -> torch.device:
    """The device of a run; "auto" takes CUDA where there is some. Several ranks take a GPU each.

    Raises:
        InputError: if the name is no device, or the device is not there.
    """
    world = world or World()
    if name == "auto" or (name == "cuda" and world.size > 1 and torch.cuda.is_available()):
        return world.device
    if name.startswith("cuda:") and world.size > 1:
        raise InputError(
            f"training.device is '{name}' on {world.size} ranks: write 'cuda', and each takes one of its own"
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"training.device '{name}': {str(error).splitlines()[0]}") from None
    return device


def split_of(run: Run, dataset: Dataset) -> Split:
    """The split that the run names, else the one of the data set's spec, else leave-one-out."""
    if run.data.split:
        split = split_log(dataset.log, run.data.split, **run.data.split_options)
    else:
        stored = dict(dataset.manifest.get("split") or {"kind": "leave-one-out"})
        split = split_log(dataset.log, stored.pop("kind"), **(stored | run.data.split_options))
    return split if dataset.is_ordered else split._replace(leaks=UNORDERED + split.leaks)


def known_states(model: Model, dataset: Dataset, tile: int = 8192) -> tuple[torch.Tensor, Any]:
    """Ids of all known items and their states."""
    ids = torch.arange(2, dataset.schema.num_items, device=dataset.device)
    with inference(model):
        return ids, encode_items(model, dataset, ids, tile)


def check_items(model: Model, dataset: Dataset, learnt: Log) -> dict[str, Any] | None:
    """The diagnosis of the item vectors, where the model has vectors of at least two numbers."""
    ids, states = known_states(model, dataset)
    if not model.has_vectors or states.shape[1] < 2 or isinstance(model, ClosedForm):
        return None
    from twotower.diagnosis import diagnose

    popularity = learnt.positives().items.bincount(minlength=dataset.schema.num_items)[ids]
    return diagnose(states.cpu(), popularity=popularity.cpu(), seed=0).to_json()


def check_resumable(folder: Path, run: Run) -> bool:
    """Whether there is a checkpoint to resume from; it must be of the run that its folder notes.

    Raises:
        InputError: if the run differs.
    """
    note = folder / "run.toml"
    if not (folder / "train.safetensors").is_file():
        log.warning("%s: no checkpoint to resume from, so training starts from nothing", folder)
        return False
    stopped, asked = spelled_out(Run.load(note)), spelled_out(run)
    if stopped != asked:
        was, now = (one.to_toml().splitlines() for one in (stopped, asked))
        other = next((line for line in was if line not in now), "other settings")
        raise InputError(
            f"{note}: the run that was stopped had other settings ({other}); repeat them, or train without --resume"
        )
    return True


def check_same_data(folder: Path, dataset: Dataset) -> None:
    """A resumed run must have the data that are noted in its folder, by content.

    Raises:
        InputError: if they are others.
    """
    if not (folder / "data.json").is_file():
        log.warning("%s: does not note its data (an older twotower wrote it); it is taken to be the same", folder)
    elif read_json(folder / "data.json").get("fingerprint") != fingerprint(dataset):
        raise InputError(
            f"{folder}: its checkpoint was made with other data than '{dataset.name}' is now; prepare the data as they "
            "were, or train without --resume"
        )


class Claim(Silent):
    """Notes the run in its folder once training begins; a run that is refused before that costs no checkpoint.

    Args:
        folder: of the run; None: there is nothing to note.
        run: what is trained.
        dataset: what it learns from.
    """

    def __init__(self, folder: Path | None, run: Run, dataset: Dataset) -> None:
        self.folder, self.run, self.dataset = folder, run, dataset

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Training begins: the first one, where a last fit follows."""
        self.made()

    def made(self) -> None:
        """Note the run, unless that is done; what an earlier training left there goes."""
        folder, self.folder = self.folder, None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for checkpoint in folder.glob("*.safetensors"):
            log.warning("%s: what an earlier training had done is dropped; --resume would have gone on", checkpoint)
            checkpoint.unlink()
        write_json(folder / "data.json", {"name": self.dataset.name, "fingerprint": fingerprint(self.dataset)})
        with replacing_file(folder / "run.toml") as partial:
            partial.write_text(self.run.to_toml(), encoding="utf-8")
