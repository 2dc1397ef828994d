"""A bundle's towers as ONNX graphs, with the tables that make their inputs of raw ids and columns."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twotower.core.errors import InputError
from twotower.core.files import hash_folder, write_json
from twotower.core.folders import check_replaceable, replacing_folder
from twotower.core.records import FIRST_KNOWN, Users
from twotower.core.states import map_state
from twotower.serving.bundle import Bundle
from twotower.serving.onnx import parity
from twotower.serving.onnx.graphs import LEAST_LENGTH, check_exportable, write_item_tower, write_score, write_user_tower
from twotower.serving.onnx.parity import Arrays, Graph
from twotower.serving.onnx.tables import write_tables

FORMAT = 1
CHECKED = 256
"""Users and items whose states are compared with PyTorch's."""
CUTS = (0, 1, 8, CHECKED)
"""They are encoded in parts of unlike size, so that a graph of one size alone does not pass."""
RANKED = {True: 10_000, False: 1_000}
"""Items among which the loss of 8 bits is counted, by whether the score is an inner product."""
K = 10


def export_onnx(folder: Path | str, target: Path | str, *, int8: bool = False) -> dict[str, Any]:
    """Write a bundle's towers as ONNX, checked against PyTorch on the bundle's own users and items.

    Args:
        folder: of the bundle.
        target: folder to write; an earlier export there is replaced whole.
        int8: write the towers with weights of 8 bits too, and measure what that loses.

    Returns:
        The manifest that lies in ``target``.

    Raises:
        InputError: if the bundle cannot be read, the model's class says that it has no ONNX form, a graph differs from
            PyTorch, ``target`` holds something else, or a library is not there.
    """
    _need_libraries()
    target = Path(target)
    _check_target(target)
    bundle = Bundle.load(folder)
    model, name = bundle.model, bundle.manifest["model"]["name"]
    check_exportable(model, name)
    with replacing_folder(target) as partial, torch.no_grad():
        export = _Export(bundle, partial)
        measured = export.graphs()
        quantised = export.int8() if int8 else None
        times = bundle.dataset.log.times
        manifest = {
            "kind": "onnx",
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "bundle": bundle.manifest.get("digest"),
            "model": bundle.manifest["model"],
            "inner_product": model.inner_product,
            "history_length": model.history_length,
            "length": export.length,
            "least_length": LEAST_LENGTH,
            "now": int(times.max()) if times is not None and len(times) else None,
            "graphs": export.names,
            "user_features": write_tables(bundle, "user", partial),
            "item_features": write_tables(bundle, "item", partial),
            "difference": measured,
            "int8": quantised,
        }
        export.item_states()
        write_json(partial / "manifest.json", manifest | {"files": hash_folder(partial)})
    return manifest


class _Export:
    """Writes the graphs of one bundle and measures them."""

    def __init__(self, bundle: Bundle, target: Path) -> None:
        self.bundle, self.model, self.target = bundle, bundle.model, target
        self.names: dict[str, dict[str, list[str]]] = {}
        known = torch.arange(FIRST_KNOWN, bundle.schema.num_users)[:CHECKED]
        items = bundle.item_ids[:CHECKED]
        if not len(known) or not len(items):
            raise InputError(f"{bundle.folder}: has no known users or no items, so its graphs cannot be checked")
        self.user_parts = [bundle.users(known[a:b]) for a, b in pairwise(CUTS) if len(known[a:b])]
        self.item_parts = [bundle.dataset.items(items[a:b]) for a, b in pairwise(CUTS) if len(items[a:b])]
        # A sample of one row, or of one event, would fix its size in the graph.
        self.users = bundle.users(known[:4].repeat(4)[:4])
        self.length = self._fixed()
        self.items = bundle.dataset.items(items[:5].repeat(5)[:5])

    def graphs(self) -> dict[str, float]:
        """Write the graphs; returns how far each is from PyTorch."""
        model, target = self.model, self.target
        self.names["user"] = self._write_user_tower()
        self.names["item"] = write_item_tower(model, self.items, target / "item.onnx")
        if not model.inner_product:
            users, items = model.encode_users(self.users), model.encode_items(self.items)
            self.names["score"] = write_score(model, users, items, target / "score.onnx")
        graphs = self._opened(".onnx")
        measured = {
            "user": parity.difference(
                (
                    (graphs["user"].run(self._feed(part)), parity.arrays(model.encode_users(part)))
                    for part in self.user_parts
                ),
                "user tower",
            ),
            "item": parity.difference(
                (
                    (graphs["item"].run(parity.item_feed(model, part)), parity.arrays(model.encode_items(part)))
                    for part in self.item_parts
                ),
                "item tower",
            ),
        }
        if "score" in graphs:
            users, items = model.encode_users(self.user_parts[-1]), model.encode_items(self.item_parts[-1])
            feed = parity.score_feed(parity.arrays(users), parity.arrays(items))
            wanted = {"scores": model.score(users, items).float().cpu().numpy()}
            measured["score"] = parity.difference([(graphs["score"].run(feed), wanted)], "score")
        return measured

    def _fixed(self) -> int | None:
        """Places of a history where so few are read that no graph is free in them."""
        most = self.model.history_length
        return None if most is None or most > LEAST_LENGTH else max(1, most)

    def _write_user_tower(self) -> dict[str, list[str]]:
        """With a free length where the model allows it; else with the longest that it reads, padded by whoever asks."""
        path, most = self.target / "user.onnx", self.model.history_length
        if self.length is None:
            try:
                users = parity.widened(self.users, LEAST_LENGTH + 1)
                return write_user_tower(self.model, users, path, length=None)
            except InputError:
                if most is None:
                    raise
                self.length = most
        return write_user_tower(self.model, parity.widened(self.users, self.length), path, length=self.length)

    def _feed(self, users: Users) -> Arrays:
        return parity.user_feed(self.model, parity.widened(users, self.length or LEAST_LENGTH))

    def int8(self) -> dict[str, Any]:
        """Write the towers with weights of 8 bits; returns what that loses and saves."""
        for side in ("user", "item"):
            parity.write_int8(self.target / f"{side}.onnx", self.target / f"{side}.int8.onnx")
        states: list[dict[str, Arrays]] = []
        scores = []
        for ending in (".onnx", ".int8.onnx"):
            graphs = self._opened(ending)
            users = graphs["user"].run(self._feed(self.user_parts[-1]))
            ids = self.bundle.item_ids[: RANKED[self.model.inner_product]]
            items = graphs["item"].run(parity.item_feed(self.model, self.bundle.dataset.items(ids)))
            states.append({"user": users, "item": items})
            if "score" in graphs:
                scores.append(graphs["score"].run(parity.score_feed(users, items))["scores"])
            else:
                scores.append(np.asarray(users["state"] @ items["state"].T))
        k = min(K, scores[0].shape[1])
        sizes = {
            ending: sum((self.target / f"{side}{ending}").stat().st_size for side in ("user", "item"))
            for ending in (".onnx", ".int8.onnx")
        }
        return {
            "relative_error": {
                side: parity.relative_error(states[0][side], states[1][side]) for side in ("user", "item")
            },
            "top_kept": parity.kept(scores[0], scores[1], k),
            "k": k,
            "users": len(scores[0]),
            "items": int(scores[0].shape[1]),
            "bytes": sizes[".int8.onnx"],
            "bytes_of_float32": sizes[".onnx"],
        }

    def item_states(self) -> None:
        """Write the stored states of known items, one file a tensor."""
        states = map_state(lambda part: part.cpu(), self.model.item_store.whole(self.bundle.item_states))
        for name, part in parity.arrays(states).items():
            np.save(self.target / f"items.{name}.npy", part)

    def _opened(self, ending: str) -> dict[str, Graph]:
        return {
            name: Graph(self.target / (f"{name}.onnx" if name == "score" else f"{name}{ending}"), names["outputs"])
            for name, names in self.names.items()
        }


def _check_target(target: Path) -> None:
    check_replaceable(target, kind="onnx", what="an export")


def _need_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"export to ONNX needs the extra 'onnx' ({error}): pip install 'twotower[onnx]'") from None
