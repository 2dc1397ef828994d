"""Functions of ``import twotower``: train by a name, a class or a run; evaluate; compare; refresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, unknown_name
from twotower.data.dataset import Dataset
from twotower.data.identity import check_same_numbers
from twotower.evaluation import compare as comparison
from twotower.evaluation.compare import Comparison
from twotower.evaluation.result import Result
from twotower.experiment import refresh as refreshing
from twotower.experiment import train as whole
from twotower.experiment.build import Parts
from twotower.experiment.description import described, in_memory, with_loss, with_sampler
from twotower.experiment.evaluate import judge_bundle
from twotower.experiment.pair import judge_trained
from twotower.experiment.refresh import Refreshed
from twotower.experiment.run import Run
from twotower.experiment.setting import with_setting
from twotower.experiment.train import Trained
from twotower.experiment.tuning import tune as tuning
from twotower.experiment.tuning.tune import Tuned
from twotower.losses.base import Loss
from twotower.models.base import Model
from twotower.sampling.base import Sampler
from twotower.training.callbacks import Callback
from twotower.training.distributed import World


def train(
    model: str | type[Model] | Run,
    data: Dataset | Path | str | None = None,
    *,
    to: Path | str | None = None,
    loss: str | type[Any] | Loss | None = None,
    sampler: str | Callable[..., Sampler] | Sampler | None = None,
    resume: bool = False,
    keep: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Trained:
    """Train a model, evaluate it on its test split and, with ``to``, write its bundle.

    Args:
        model: the name of a model or recipe, such as "sasrec", with its default run; the class of a registered model;
            or a whole run.
        data: a data set, or the path of a prepared one; None: the run names it.
        to: folder of the bundle; None writes nothing.
        loss: name, class or object; None: what the run names. An object takes part in this training alone: the run
            that is noted holds its registered name, so a resumed training wants the object again.
        sampler: where negatives come from: likewise.
        resume: go on from the checkpoint in ``<to>.run``, to more epochs where there are more now.
        keep: after Ctrl-C, return the best epoch so far, and write its bundle, in place of raising KeyboardInterrupt.
        callbacks: told of epochs; trackers, such as `twotower.training.trackers.mlflow.MLflow`, of the whole run.
        **settings: keys of the run, such as ``epochs=5``, and settings of the model, such as ``dim=32``. Where two
            sections have a key of one name, give the section too: ``**{"training.seed": 3}``. A scorer, tower, split or
            index (``score``, ``tower``, ``split``, ``index``) is a name or a registered class or function. Settings of
            a source of negatives go by their name too, or as ``**{"sampling.sources.memory_bank.start": 500}``.

    Raises:
        InputError: if a name, a key or a value is unknown or does not suit the model or the data.
    """
    run = described(model, data)
    run, own_loss = with_loss(run, loss)
    run, own_sampler = with_sampler(run, sampler)
    for key, value in settings.items():
        run = with_setting(run, key, value)
    trained = whole.train(
        run,
        to=None if to is None else Path(to),
        dataset=in_memory(run, data),
        resume=resume,
        keep=keep,
        callbacks=callbacks,
        parts=Parts(own_loss, own_sampler),
    )
    if to is not None and World.current().rank == 0:
        judge_trained(trained.run, Path(to))
    return trained


def tune(
    model: str | type[Model] | Run,
    data: Dataset | Path | str | None = None,
    *,
    to: Path | str,
    budget: str = "30m",
    space: Mapping[str, Any] | None = None,
    trials: int = 0,
    resume: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Tuned:
    """Train a model again and again with other settings, and keep the best by validation; the test is never read.

    Args:
        model: a name, a class or a run, as for `train`.
        data: a data set, or the path of a prepared one; None: the run names it.
        to: folder of the tuning: trials, the best run as a file, a page.
        budget: wall time, as 90s, 30m or 1h30m.
        space: by key, such as "model.dropout": a list of values, or {"low": 0.1, "high": 0.5}; it takes the place of
            the model's own range.
        trials: most trials in all; 0: as many as the budget allows.
        resume: go on with the tuning in ``to``.
        seed: of the sampler.
        **settings: keys of the run and settings of the model, as for `train`; they are not tuned.

    Raises:
        InputError: if a name, a key or a value is unknown or does not suit the model or the data, or the extra
            ``tune`` is not installed.
    """
    run, fixed = described(model, data), []
    for key, value in settings.items():
        run = with_setting(run, key, value)
        fixed += [key] if "." in key else [f"{part.name}.{key}" for part in fields(run)]
    return tuning.tune(
        run,
        to=Path(to),
        budget=budget,
        dataset=in_memory(run, data),
        space=space,
        fixed=fixed,
        trials=trials,
        resume=resume,
        seed=seed,
    )


def evaluate(
    bundle: Path | str,
    data: Dataset | Path | str | None = None,
    *,
    split: str = "test",
    ks: Sequence[int] = (),
    include_seen: bool | None = None,
    device: str = "cpu",
) -> Result:
    """Rank the whole catalogue for every user of a bundle's split.

    Args:
        bundle: folder that `train` wrote.
        data: the data that the bundle was trained from, as a folder or a data set with one; or a later log, whose
            events are to be found then, with users and items that may be new; None: the events that the bundle keeps.
        split: "test" or "validation"; a later log has a test alone.
        ks: list lengths; empty: those of the run.
        include_seen: whether what a user has seen may be an answer; None: as in the run.
        device: where the model runs: "auto" (CUDA where there is some), "cpu", "cuda" or "cuda:N".

    Raises:
        InputError: if the bundle is damaged, the split unknown, the data another catalogue, or the device not there.
    """
    if isinstance(data, Dataset):
        if data.folder is None:
            raise InputError(f"data set '{data.name}' was made in memory and has no folder; leave data out")
        path: Path | None = data.folder  # a temporary folder lives as long as ``data``
    else:
        path = None if data is None else Path(data)
    judged = judge_bundle(Path(bundle), data=path, split=split, ks=tuple(ks), include_seen=include_seen, device=device)
    return judged[0]


def refresh(
    bundle: Path | str,
    data: Dataset | Path | str,
    *,
    to: Path | str | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Refreshed:
    """Take newer events, users and items into a bundle, and write it only where it is not worse on the newest of them.

    Known users and items begin with the vectors that they have. See `twotower.experiment.refresh`.

    Args:
        bundle: folder that `train` or an earlier refresh wrote.
        data: newer data, prepared by the spec of the old: a data set with a folder, or its path.
        to: folder of the new bundle; None: the old one is replaced, in one step.
        device: where the model trains: "auto" (CUDA where there is some), "cpu", "cuda" or "cuda:N".
        callbacks: told of epochs.
        **settings: keys of the run, such as ``epochs=5`` or ``learning_rate=3e-4``, as for `train`.

    Raises:
        InputError: if the model cannot be refreshed, the data are of another kind or data set, or too few are new.
    """

    def change(run: Run) -> Run:
        for key, value in settings.items():
            run = with_setting(run, key, value)
        return run

    return refreshing.refresh(bundle, data, to=to, device=device, change=change, callbacks=callbacks)


def compare(
    results: Mapping[str, Trained | Result | Path | str],
    metrics: Sequence[str] = ("ndcg@10", "recall@10"),
    *,
    reference: str | None = None,
    data: Dataset | Path | str | None = None,
    device: str = "cpu",
) -> Comparison:
    """Compare models: means with 95 % intervals, paired permutation tests, Holm's correction.

    Args:
        results: by name: what `train` or `evaluate` returned, or the folder of a bundle, judged on its test split.
        metrics: names such as "ndcg@10".
        reference: the model that the others are tested against; None: the best under the first metric.
        data: what bundles are judged on, such as a later log, as of `evaluate`; None: the events that they keep.
        device: where the models of bundles run.

    Raises:
        InputError: if they were judged on different users or items, a name is unknown, or ``data`` is given for a model
            that is judged already.
    """
    judged = next((name for name, value in results.items() if isinstance(value, Trained | Result)), None)
    if data is not None and judged is not None:
        raise InputError(f"'{judged}' is judged already, so data are for nothing; give the folder of its bundle")
    folders = [Path(value) for value in results.values() if isinstance(value, Path | str)]
    for folder in folders[1:]:
        check_same_numbers(folders[0] / "vocabulary", folder / "vocabulary", f"{folders[0]} and {folder}")
    found = {name: _result(value, data, device) for name, value in results.items()}
    if found and reference is None:
        for name, result in found.items():
            if metrics and metrics[0] not in result.per_user:
                raise unknown_name(f"metric of '{name}'", metrics[0], result.per_user)
        reference = max(found, key=lambda name: found[name].metrics[metrics[0]]) if metrics else None
    return comparison.compare(found, metrics, reference=reference)


def _result(value: Trained | Result | Path | str, data: Dataset | Path | str | None, device: str) -> Result:
    if isinstance(value, Trained):
        return value.test
    return value if isinstance(value, Result) else evaluate(value, data, device=device)
