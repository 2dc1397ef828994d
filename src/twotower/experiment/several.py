"""Runs on several processes: what cannot be the same as on one is refused, or said, before training."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from twotower.core.errors import InputError
from twotower.core.version import __version__
from twotower.data.dataset import Dataset
from twotower.data.identity import fingerprint
from twotower.data.split import Targets
from twotower.evaluation.result import Result
from twotower.experiment.run import Run
from twotower.models.base import ClosedForm, Model
from twotower.serving.bundle import Bundle
from twotower.towers.shared_table import shared_out
from twotower.towers.sparse_table import SparseTable
from twotower.towers.torchrec_rows import check_torchrec
from twotower.towers.torchrec_table import TorchRecTable
from twotower.training.distributed import World

log = logging.getLogger(__name__)


def check_alike(world: World, run: Run, dataset: Dataset) -> None:
    """Refuse ranks that would train something else than rank 0.

    Raises:
        InputError: names the first rank that differs, and in what: version, run, data or kind of device.
    """
    if world.size == 1:
        return
    run_hash = hashlib.sha256(replace(run, data=replace(run.data, path="")).to_toml().encode()).hexdigest()
    world.agree(_machine(dataset.device) | {"run file": run_hash, "data set": fingerprint(dataset)})


def check_judged_alike(world: World, bundle: Bundle, dataset: Dataset, asked: str) -> None:
    """Refuse ranks that would evaluate something else than rank 0.

    Args:
        world: the processes.
        bundle: what is judged.
        dataset: what it is judged on.
        asked: split, list lengths and the like, in one line.

    Raises:
        InputError: names the first rank that differs, and in what: version, device, bundle, data or options.
    """
    if world.size == 1:
        return
    manifest = json.dumps(bundle.manifest, sort_keys=True, default=str)  # it has the hashes of all files
    kept = hashlib.sha256(manifest.encode()).hexdigest()
    world.agree(_machine(dataset.device) | {"bundle": kept, "data set": fingerprint(dataset), "set of options": asked})


def _machine(device: torch.device) -> dict[str, str]:
    return {
        "version of twotower": __version__,
        "version of torch": torch.__version__,
        "version of Python": platform.python_version(),
        "kind of device": device.type,
    }


def check_model(world: World, run: Run, model: Model) -> None:
    """Refuse what several ranks cannot do as one does; say what they do alike in distribution only.

    Raises:
        InputError: if the model has a closed form, a sparse or host table, looks at its batch as a whole, or a batch
            has fewer rows than ranks, or rows of a sharded table would be looked up unlike; or if TorchRec is to keep
            rows, and is not there.
    """
    if any(isinstance(part, TorchRecTable) for part in model.modules()):
        check_torchrec()
    if world.size == 1:
        return
    name, many = run.model.name, f"on {world.size} ranks"
    if isinstance(model, ClosedForm):
        raise InputError(f"model '{name}' is computed at once, not trained: start it without torchrun")
    if run.training.batch_size < world.size:
        raise InputError(
            f"training.batch_size is {run.training.batch_size} {many}: each needs a row; raise it, or start fewer ranks"
        )
    if any(isinstance(part, SparseTable) for part in model.modules()):
        raise InputError(
            f"model '{name}' keeps the rows of a table in one process (model.table = 'sparse' or 'host'), "
            "so it is not trained on several: start it without torchrun, or set model.table = 'sharded'"
        )
    if shared_out(model):
        for key, asked in (
            ("training.encode_rows", run.training.encode_rows),
            ("sampling.hard = 'radius'", run.sampling.hard == "radius"),
        ):
            if asked:
                raise InputError(
                    f"{key} looks rows up more often on one rank than on another, and {many} the rows of a sharded "
                    "table are looked up together: leave it out, or set model.table = 'dense'"
                )
    norms = [place for place, part in model.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if norms:
        raise InputError(
            f"model '{name}' normalises over its batch ({norms[0]}), which {many} is not that of one process: "
            "switch it off (most have model.batch_norm = false), or start it without torchrun"
        )
    alone = type(model).forward is Model.forward if model.row_by_row is None else model.row_by_row
    if not alone:
        raise InputError(
            f"model '{name}' as it is set looks at its batch as a whole, which {many} is not that of one process: "
            "start it without torchrun"
        )
    shares = [
        key for key, value in run.model.settings.items() if "dropout" in key and isinstance(value, float) and value
    ]
    shares += ["dropout"] * any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules())
    if shares and world.rank == 0:
        log.warning(
            "model.%s: each of the %d ranks draws it for its own rows, so the curve is that of one process in "
            "distribution, not in digits; with 0 it is the same",
            shares[0],
            world.size,
        )


def shared_metrics(world: World, targets: Targets, judge: Callable[[Targets], Result]) -> dict[str, float]:
    """Return the metrics of all users: each rank evaluates every ``size``-th of them, and means are taken over all."""
    users = targets.truth.positives().lengths.nonzero()[:, 0]
    if world.size == 1 or len(users) < world.size:
        return judge(targets).metrics
    mine = torch.zeros(len(targets.truth.offsets) - 1, dtype=torch.bool, device=users.device)
    mine[users[world.rank :: world.size]] = True
    with world.together():
        result = judge(targets._replace(truth=targets.truth.select(mine[targets.truth.users()])))
    total = world.sums(
        {name: float(values.sum()) for name, values in result.per_user.items()} | {"": len(result.users)}
    )
    return {name: value / total[""] for name, value in total.items() if name}
