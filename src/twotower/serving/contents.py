"""Contents of a bundle: what it is written from, and the writing in one step."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file, save_model
from torch import Tensor

from twotower.core.files import replacing_file, write_json
from twotower.core.folders import replacing_folder
from twotower.core.states import map_state, to_tensors
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.index.base import AnyIndex
from twotower.index.registry import index_kind
from twotower.models.base import Model
from twotower.models.encode import ItemStates
from twotower.serving.bundle import check_target
from twotower.serving.card import write_card
from twotower.serving.collections import LEFT, left_behind
from twotower.serving.manifest import versions, write_manifest
from twotower.serving.vocabulary import write_row_vocabulary


@dataclass(frozen=True, eq=False, kw_only=True)
class Contents:
    """Name what a bundle is written from."""

    model: Model
    model_name: str
    model_parameters: dict[str, Any]
    dataset: Dataset
    items: ItemStates
    """What the model makes of every known item."""
    run_toml: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    """Low and high end of the metrics that have one."""
    histories: Log | None
    """What is known of each user when the bundle starts to serve: events of whatever label, of which a model reads the
    positives."""
    diagnosis: dict[str, Any] | None = None
    index: AnyIndex | None = None
    """Built over ``items``."""
    parts: list[dict[str, str]] = field(default_factory=list)
    """Parts from outside the package that its run names: see `twotower.serving.registrations.note`."""
    learnt: str = ""
    """What the model has learnt from, where that is not what its run says."""
    events: Log | None = None
    """What the model has learnt from, event by event: the bundle keeps how many positives each item has among them."""
    refresh: dict[str, Any] | None = None
    """Of a refreshed bundle: which one it came from, and how it did beside that one."""


def write_bundle(folder: Path | str, contents: Contents) -> None:
    """Write all that serving needs, in one step: a reader never sees half a bundle.

    Needs only torch, NumPy and safetensors when the data set has a folder.

    Raises:
        InputError: as `check_target`.
    """
    folder, model, dataset, index = Path(folder), contents.model, contents.dataset, contents.index
    check_target(folder)
    with replacing_folder(folder) as partial:
        (partial / "run.toml").write_text(contents.run_toml, encoding="utf-8")
        dataset.schema.save(partial / "schema.json")
        write_json(partial / "data.json", dataset.manifest)
        _write_vocabulary(partial / "vocabulary", dataset)
        with replacing_file(
            partial / "weights.safetensors"
        ) as file:  # on its own, safetensors lets the owner alone read it
            save_model(model, str(file))
        _write_items(partial / "items", contents.items)
        if contents.events is not None:
            counts = contents.events.positives().items.bincount(minlength=dataset.schema.num_items)
            _save_array(partial / "items" / "events.npy", counts[contents.items.ids.to(counts.device)])
        for side, columns in (("items", dataset.item_features), ("users", dataset.user_features)):
            for name, column in columns.items():
                _save_array(partial / side / "features" / f"{name}.npy", column)
        if contents.histories is not None:
            for name, column in contents.histories._asdict().items():
                if column is not None:
                    _save_array(partial / "histories" / f"{name}.npy", column)
        if index is not None:
            (partial / "index").mkdir()
            index.save(partial / "index")
        if contents.diagnosis is not None:
            write_json(partial / "diagnosis.json", contents.diagnosis)
        manifest: dict[str, Any] = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": dataset.name,
            "model": {
                "name": contents.model_name,
                "parameters": contents.model_parameters,
                "module": type(model).__module__,
            },
            "index": None if index is None else index_kind(index),
            "index_settings": None if index is None else index.settings,
            "index_module": None if index is None else type(index).__module__,
            "metrics": {name: _finite(value) for name, value in contents.metrics.items()},
            "versions": versions(),
        }
        if contents.parts:
            manifest["parts"] = contents.parts
        if contents.intervals:
            manifest["intervals"] = contents.intervals
        if contents.learnt:
            manifest["learnt"] = contents.learnt
        if contents.refresh is not None:
            manifest["refresh"] = contents.refresh
        if left := left_behind(folder, index):
            manifest[LEFT] = left
        write_card(partial, manifest)
        write_manifest(partial, manifest)


def _write_vocabulary(target: Path, dataset: Dataset) -> None:
    if dataset.folder is not None and (dataset.folder / "vocabulary").is_dir():
        shutil.copytree(dataset.folder / "vocabulary", target)
        return
    target.mkdir()
    write_row_vocabulary(target / "users.parquet", dataset.schema.num_users)
    write_row_vocabulary(target / "items.parquet", dataset.schema.num_items)


def _write_items(target: Path, items: ItemStates) -> None:
    _save_array(target / "ids.npy", items.ids)
    with replacing_file(target / "states.safetensors") as file:
        save_file(to_tensors(map_state(Tensor.cpu, items.states)), file)


def _save_array(path: Path, values: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values.cpu().numpy())


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
