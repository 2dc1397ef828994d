"""Exported towers, asked with raw ids and columns: needs NumPy and ONNX Runtime, and never PyTorch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError, unknown_name
from twotower.serving.onnx.cells import Reader, plain_id

log = logging.getLogger(__name__)

PADDING, UNKNOWN = 0, 1
Columns = Mapping[str, Sequence[Any]]
"""Raw columns of a table, by name: one cell a row, None where it is missing."""


class Towers:
    """Hold the towers that ``twotower export --onnx`` wrote.

    Args:
        folder: that it wrote.
        int8: use the graphs with weights of 8 bits.
        threads: of ONNX Runtime; None: as it thinks fit.

    Attributes:
        manifest: what was exported, of which bundle, and what was measured.
        item_ids: the known items, in the order of the rows of ``item_states``.
        item_states: the states of known items by name, read by memory map; a model of vectors has one, "state".
    """

    def __init__(self, folder: Path | str, *, int8: bool = False, threads: int | None = None) -> None:
        """Read the tables and start both graphs.

        Raises:
            InputError: if the folder is none that was exported, a file was changed, or it has no graphs of 8 bits.
        """
        self.folder = Path(folder)
        self.manifest = _manifest(self.folder)
        if int8 and not self.manifest["int8"]:
            raise InputError(f"{self.folder}: has no graphs of 8 bits; export it with --int8")
        self._users = self._table("user")
        self._items = self._table("item")
        self.item_ids = list(self._items)
        self.item_states: dict[str, NDArray[Any]] = {
            name: np.load(self.folder / f"items.{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in self.manifest["graphs"]["item"]["outputs"]
        }
        self._readers = {
            side: [Reader(self.folder, side, feature) for feature in self.manifest[f"{side}_features"]]
            for side in ("user", "item")
        }
        self._sessions = {name: self._session(name, int8, threads) for name in self.manifest["graphs"]}

    def users(
        self,
        histories: Sequence[Sequence[object]],
        *,
        columns: Columns | None = None,
        ids: Sequence[object] | None = None,
        times: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Encode users by their histories (item ids, oldest first) and raw columns.

        Items of a history that were not known at export are left aside with a warning. ``ids`` are user ids, which few
        models read; ``times`` are the Unix seconds of each history, for models that read the clock: without them all
        of a history took place at the time of the latest event before export.

        Returns:
            The states by name, one row a user; of a model of vectors "state" alone.

        Raises:
            InputError: if a list has another length than ``histories``, or a column is none that the model reads.
        """
        rows = len(histories)
        known = [[self._items.get(plain_id(item)) for item in history] for history in histories]
        if gone := sum(row is None for history in known for row in history):
            log.warning("%d items of the histories were not known at export and are left aside", gone)
        most = self.manifest["history_length"]
        kept = [[place for place, row in enumerate(history) if row is not None][-(most or 4096) :] for history in known]
        width = self.manifest["length"] or max([self.manifest["least_length"], *map(len, kept)])
        history, moments = np.zeros((rows, width), np.int64), np.zeros((rows, width), np.int64)
        for at, places in enumerate(kept):
            history[at, : len(places)] = [known[at][place] for place in places]
            if times is None:
                moments[at, : len(places)] = self.manifest["now"] or 0
            elif len(times) != rows or len(times[at]) != len(histories[at]):
                raise InputError("times: give one moment for each item of each history")
            else:
                moments[at, : len(places)] = [times[at][place] for place in places]
        feed = {"ids": self._rows(self._users, ids, rows), "history": history, "times": moments}
        return self._run("user", feed | self._features("user", columns, rows))

    def items(self, ids: Sequence[object], *, columns: Columns | None = None) -> dict[str, NDArray[Any]]:
        """Encode items by their ids, known or new, and their raw columns.

        Known items need no columns to be served: ``item_states`` holds them as the model knew them.

        Returns:
            The states by name, one row an item.

        Raises:
            InputError: if a column has another length than ``ids``, or is none that the model reads.
        """
        feed = {"ids": self._rows(self._items, ids, len(ids))}
        return self._run("item", feed | self._features("item", columns, len(ids)))

    def score(self, users: Mapping[str, NDArray[Any]], items: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Score every user's state with every item's: [users, items]."""
        if "score" not in self._sessions:
            return np.asarray(users["state"] @ items["state"].T, dtype=np.float32)
        feed = {f"users_{name}": part for name, part in users.items()}
        feed |= {f"items_{name}": np.asarray(part) for name, part in items.items()}
        return self._run("score", feed)["scores"]

    def recommend(
        self,
        history: Sequence[object],
        *,
        columns: Mapping[str, Any] | None = None,
        k: int = 10,
        exclude: Sequence[object] = (),
    ) -> list[tuple[str, float]]:
        """Find the best ``k`` known items for a history, best first, by scoring all; those of the history are left out.

        Of somebody new, ``columns`` of the user alone are enough.

        Raises:
            InputError: if nothing in the history is known and there are no columns, or ``k`` is below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        if not columns and not any(plain_id(item) in self._items for item in history):
            raise InputError("nothing in the history is known; name at least one known item, or give columns")
        table = {name: [value] for name, value in (columns or {}).items()}
        scores = self.score(self.users([history], columns=table), self.item_states)[0].copy()
        first = next(iter(self._items.values()))
        for item in (*history, *exclude):
            if (row := self._items.get(plain_id(item))) is not None:
                scores[row - first] = -np.inf
        order = np.argsort(-scores, kind="stable")[:k]
        return [(self.item_ids[at], float(scores[at])) for at in order if scores[at] != -np.inf]

    def _table(self, side: str) -> dict[str, int]:
        rows: dict[str, int] = json.loads((self.folder / f"{side}.ids.json").read_text(encoding="utf-8"))
        return rows

    def _rows(self, table: dict[str, int], ids: Sequence[object] | None, rows: int) -> NDArray[np.int64]:
        if ids is None:
            return np.full(rows, UNKNOWN, np.int64)
        if len(ids) != rows:
            raise InputError(f"ids: {len(ids)} for {rows} rows")
        return np.array([table.get(plain_id(id), UNKNOWN) for id in ids], np.int64)

    def _features(self, side: str, columns: Columns | None, rows: int) -> dict[str, NDArray[Any]]:
        readers, columns = self._readers[side], columns or {}
        known = {name for reader in readers for name in reader.columns}
        for name, cells in columns.items():
            if name not in known:
                raise unknown_name(f"{side} column", name, known)
            if len(cells) != rows:
                raise InputError(f"column '{name}': {len(cells)} cells for {rows} rows")
        return {f"feature_{place}": reader.read(columns, rows) for place, reader in enumerate(readers)}

    def _run(self, graph: str, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        session = self._sessions[graph]
        wanted = {part.name for part in session.get_inputs()}
        found = session.run(None, {name: value for name, value in feed.items() if name in wanted})
        return dict(zip(self.manifest["graphs"][graph]["outputs"], found, strict=True))

    def _session(self, name: str, int8: bool, threads: int | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        path = self.folder / (f"{name}.int8.onnx" if int8 and name != "score" else f"{name}.onnx")
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _manifest(folder: Path) -> dict[str, Any]:
    """Return what was exported, once every file is what it should be."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = {}
    if manifest.get("kind") != "onnx":
        raise InputError(f"{folder}: nothing that 'twotower export --onnx' wrote; export a bundle first")
    if manifest["format"] != 1:
        raise InputError(f"{folder}: of format {manifest['format']}, and this version reads 1; use a newer twotower")
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise InputError(f"{path}: missing or changed since the export; export the bundle again")
    return manifest
