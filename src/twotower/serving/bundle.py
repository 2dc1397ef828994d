"""Bundle: one folder with all that serving needs, so that it answers without the training data."""

from __future__ import annotations

import contextlib
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import Tensor

from twotower.core.devices import find_device
from twotower.core.errors import InputError, shown
from twotower.core.files import read_json
from twotower.core.folders import check_replaceable, replacing_folder
from twotower.core.records import UNKNOWN, Features, State, Users
from twotower.core.schema import Schema, Side
from twotower.core.states import rows
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.index.base import AnyIndex
from twotower.index.registry import load_index
from twotower.models.base import Model
from twotower.models.encode import users_with_history
from twotower.models.registry import build_model
from twotower.ops.exchange import alone
from twotower.serving.card import write_card
from twotower.serving.manifest import note_versions, read_manifest, verify_files, write_manifest
from twotower.serving.registrations import check_registered
from twotower.serving.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """Read a bundle on disk: what is small at once, the rest at its first use."""

    folder: Path
    manifest: dict[str, Any]
    schema: Schema
    model: Model
    device: torch.device

    def __repr__(self) -> str:
        return f"Bundle({self.manifest['model']['name']} on {self.manifest['data']}: {self.folder})"

    @staticmethod
    def load(folder: Path | str, device: torch.device | str = "cpu", *, verify: bool = True) -> Bundle:
        """Read a bundle onto a device (``auto``: CUDA where there is some); ``verify`` compares all hashes first.

        Raises:
            InputError: if the folder is not a bundle, is of a newer format, or has a changed, missing or added file; or
                if the device is not there.
        """
        if not isinstance(folder, (str, PathLike)):
            raise InputError(f"a bundle is named by its folder, got {shown(folder)}")
        folder = Path(folder)
        device = find_device(device)
        manifest = read_manifest(folder)
        if verify:
            verify_files(folder, manifest)
        note_versions(folder, manifest["versions"])
        schema = Schema.load(folder / "schema.json")
        check_registered(folder, manifest)
        with alone():  # ranks that judge a bundle have all of it each
            model = build_model(manifest["model"]["name"], schema, manifest["model"]["parameters"])
        try:
            load_model(model, folder / "weights.safetensors")
        except (RuntimeError, SafetensorError, OSError) as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(f"{folder / 'weights.safetensors'}: not the weights of this model ({why})") from None
        return Bundle(folder, manifest, schema, model.to(device).eval(), device)

    @cached_property
    def item_ids(self) -> Tensor:
        """Return the row of each stored item state: int64 [items]."""
        return self._array("items/ids")

    @cached_property
    def item_states(self) -> State:
        """Return the states of every known item, in the order of ``item_ids``.

        Raises:
            InputError: if the file holds another model's states.
        """
        path = self.folder / "items" / "states.safetensors"
        try:
            states = self.model.item_store.read(load_file(path, device=str(self.device)))
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        if rows(states) != len(self.item_ids):
            raise InputError(f"{path}: holds {rows(states)} items, but the bundle has {len(self.item_ids)}")
        return states

    @cached_property
    def dataset(self) -> Dataset:
        """Return features of users and items, and each user's events when the bundle was written, as a data set.

        A bundle of format 1 kept positives alone: its log has no labels.
        """
        return Dataset(
            self.schema,
            self._histories(),
            self._features("user"),
            self._features("item"),
            read_json(self.folder / "data.json"),
            self.folder,
        )

    @cached_property
    def positives(self) -> Log:
        """Return the stored events that a model reads as histories; `dataset` has them all, with their labels."""
        return self.dataset.log.positives()

    @cached_property
    def user_vocabulary(self) -> Vocabulary:
        """Return outside user ids and their rows."""
        return Vocabulary(self.folder / "vocabulary" / "users.parquet", "user")

    @cached_property
    def item_vocabulary(self) -> Vocabulary:
        """Return outside item ids and their rows."""
        return Vocabulary(self.folder / "vocabulary" / "items.parquet", "item")

    @cached_property
    def index(self) -> AnyIndex | None:
        """Return the stored index, or None: search the item states themselves then."""
        if self.manifest["index"] is None:
            return None
        return load_index(self.manifest["index"], self.folder / "index", model=self.model, device=self.device)

    @cached_property
    def mask_seen(self) -> bool:
        """Return ``evaluation.mask_seen`` of the run: whether the model answers without what a user has seen."""
        try:
            run = tomllib.loads((self.folder / "run.toml").read_text(encoding="utf-8"))
            return bool(run.get("evaluation", {}).get("mask_seen", True))
        except (OSError, tomllib.TOMLDecodeError):
            return True

    @property
    def metrics(self) -> dict[str, Any]:
        """Return what was measured when the model was trained."""
        metrics: dict[str, Any] = self.manifest["metrics"]
        return metrics

    @property
    def diagnosis(self) -> dict[str, Any] | None:
        """Return the report of the embedding check, if one was made."""
        path = self.folder / "diagnosis.json"
        return read_json(path) if path.is_file() else None

    def users(self, rows: Tensor) -> Users:
        """Return known users as the user tower reads them: their features and latest stored positives."""
        return users_with_history(self.dataset, self.positives, rows, self.model.history_length)

    def newcomer(self, history: Tensor) -> Users:
        """Return an unknown user with this history (int64 [items], oldest first), all at the latest stored time."""
        times = None if self._latest is None else self._latest.expand(len(history))
        offsets = history.new_tensor([0, 0, len(history)])
        row = history.new_tensor([UNKNOWN])
        return users_with_history(self.dataset, Log(offsets, history, times), row, self.model.history_length)

    def returning(self, row: int, since: Tensor) -> Users:
        """Return a known user whose stored positives are followed by these items (int64 [items], oldest first).

        They take place at the latest stored time.
        """
        log, length = self.positives, self.model.history_length
        stored = slice(int(log.offsets[row]), int(log.offsets[row + 1]))
        items = torch.cat([log.items[stored], since])
        latest = slice(0 if length is None else max(0, len(items) - length), None)
        times = None
        if log.times is not None and self._latest is not None:
            times = torch.cat([log.times[stored], self._latest.expand(len(since))])[None, latest]
        return self.dataset.users(since.new_tensor([row]), items[None, latest], times)

    @cached_property
    def _latest(self) -> Tensor | None:
        """The time of the latest stored event; None where the log has no clock."""
        times = self.dataset.log.times
        return None if times is None else times.max() if len(times) else times.new_tensor(0)

    def _histories(self) -> Log:
        if not (self.folder / "histories").is_dir():
            empty = torch.zeros(0, dtype=torch.int64, device=self.device)
            offsets = torch.zeros(self.schema.num_users + 1, dtype=torch.int64, device=self.device)
            return Log(offsets, empty, empty if self.schema.has_times else None)
        return Log(
            self._array("histories/offsets"),
            self._array("histories/items"),
            *(
                self._array(f"histories/{name}") if (self.folder / "histories" / f"{name}.npy").is_file() else None
                for name in ("times", "labels")
            ),
        )

    def _array(self, name: str) -> Tensor:
        return torch.from_numpy(np.load(self.folder / f"{name}.npy")).to(self.device)

    def _features(self, side: Side) -> Features:
        return {f.name: self._array(f"{side}s/features/{f.name}") for f in self.schema.features(side)}


def check_target(folder: Path) -> None:
    """Refuse a folder that no bundle can be written to; a training calls this before it starts.

    Raises:
        InputError: if ``folder`` holds something other than an earlier bundle, or lies inside one.
    """
    check_replaceable(folder, kind="bundle", what="a bundle")


@contextlib.contextmanager
def changing_bundle(folder: Path | str, *, to: Path | str | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a copy of a bundle and its manifest to change; it replaces the bundle when the block ends without error.

    Args:
        folder: of the bundle.
        to: folder of the changed one; None: the bundle itself.

    Raises:
        InputError: as `Bundle.load`, and as `check_target` of ``to``.
    """
    folder = Path(folder)
    read_manifest(folder)
    target = folder if to is None else Path(to)
    if to is not None:
        check_target(target)
    with replacing_folder(target) as partial:  # from here on nobody else changes it
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        yield partial, manifest
        write_card(partial, manifest)
        write_manifest(partial, manifest)
