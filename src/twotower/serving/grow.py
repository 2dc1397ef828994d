"""New items in a bundle without training: encoded by their features, and searched like all others."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.files import replacing_file
from twotower.core.records import UNKNOWN, Features, Items, State
from twotower.core.states import join, map_state, to_tensors
from twotower.data.dataset import Dataset
from twotower.data.prepare.encode import missing, prepare_table
from twotower.index.registry import load_index
from twotower.models.base import Model, attach_items, new_item_model, prepare_serving
from twotower.models.encode import TILE, encode_items, inference
from twotower.models.enlarge import enlarged
from twotower.serving.bundle import Bundle, changing_bundle
from twotower.serving.filters.fill import fill_columns
from twotower.serving.table import raw_columns
from twotower.serving.vocabulary import append_items

log = logging.getLogger(__name__)


class Added(NamedTuple):
    """Hold how many items were added, how many the catalogue had already, and how many there are now."""

    added: int
    known: int
    items: int


def add_items(folder: Path | str, items: Path | str, *, to: Path | str | None = None, device: str = "cpu") -> Added:
    """Add the new items of a file to a bundle without training: their features go through the item tower.

    A new item gets the id vector of the unknown item, in its own state as in histories. Items that the catalogue has
    already keep their states. The index takes the new ones, too. Metrics, diagnosis and the tuning of the index stay
    those of the items before.

    Args:
        folder: of the bundle.
        items: CSV, TSV, JSON lines or Parquet file with the columns of the raw item table.
        to: folder of the new bundle; None: the bundle itself is replaced, in one step.
        device: where the item tower runs.

    Raises:
        InputError: if the model reads no item features, the file cannot be read, names an id twice or has nothing new,
            the item states are stored in fewer bytes, or the model's tables cannot grow.
    """
    items = Path(items)
    bundle = Bundle.load(folder, device)
    name = bundle.manifest["model"]["name"]
    if not bundle.schema.item_features:
        raise InputError(f"model '{name}' has no item features here: new items need a training, with 'twotower train'")
    ids, features = prepare_table(items, bundle.schema, bundle.folder / "vocabulary", "item")
    (twice, times), *_ = Counter(ids).most_common(1)
    if times > 1:
        raise InputError(f"{items}: id {shown(twice)} comes {times} times; write each item once")
    known = bundle.item_vocabulary.known(ids)
    new = [place for place, id in enumerate(ids) if id not in known]
    if not new:
        raise InputError(f"{items}: all of its {len(ids):,} items are in the catalogue already; there is none to add")
    if known:
        log.warning("%d of %d items are in the catalogue already and stay as they are", len(known), len(ids))
    features = {feature: column[new].to(bundle.device) for feature, column in features.items()}
    _check_reads(bundle, features, items)
    dataset = _grown_dataset(bundle, features)
    model = _grown_model(bundle, dataset)
    rows = torch.arange(bundle.schema.num_items, dataset.schema.num_items, device=bundle.device)
    with inference(model):
        states = encode_items(model, dataset, rows, TILE)
    _check_alike(bundle, states)
    index = None
    if bundle.manifest["index"] is not None:
        prepare_serving(model)
        kind = bundle.manifest["index"]
        index = load_index(kind, bundle.folder / "index", model=model, device=bundle.device)
        with inference(model):
            index.add(states, rows)
    raw = raw_columns(items, bundle)
    with changing_bundle(folder, to=to) as (copy, manifest):
        if manifest["digest"] != bundle.manifest["digest"]:
            raise InputError(f"{folder}: another process has changed it meanwhile; run this again")
        dataset.schema.save(copy / "schema.json")
        with replacing_file(copy / "weights.safetensors") as file:
            save_model(model, str(file))
        for feature, column in dataset.item_features.items():
            np.save(copy / "items" / "features" / f"{feature}.npy", column.cpu().numpy())
        np.save(copy / "items" / "ids.npy", torch.cat([bundle.item_ids, rows]).cpu().numpy())
        with replacing_file(copy / "items" / "states.safetensors") as file:
            save_file(to_tensors(map_state(Tensor.cpu, join([bundle.item_states, states]))), file)
        append_items(
            copy / "vocabulary" / "items.parquet", rows.tolist(), [ids[at] for at in new], [raw[at] for at in new]
        )
        if index is not None:
            shutil.rmtree(copy / "index")
            (copy / "index").mkdir()
            fill_columns(index, copy / "vocabulary" / "items.parquet", dataset.schema.num_items, rows)
            index.save(copy / "index")
        manifest["added_items"] = manifest.get("added_items", 0) + len(new)
    return Added(len(new), len(known), len(bundle.item_ids) + len(new))


def _check_reads(bundle: Bundle, features: Features, path: Path) -> None:
    """Refuse a model, or a file, by which every new item is the same as one without columns."""
    number = len(next(iter(features.values())))
    rows = torch.full((number,), UNKNOWN, device=bundle.device)
    blank = {
        feature.name: torch.from_numpy(missing(feature, number)).to(bundle.device)
        for feature in bundle.schema.item_features
    }
    with inference(bundle.model):
        given, nothing = (to_tensors(bundle.model.encode_items(Items(rows, part))) for part in (features, blank))
    if all(torch.allclose(part.float(), nothing[name].float(), rtol=0, atol=1e-6) for name, part in given.items()):
        raise InputError(
            f"{path}: model '{bundle.manifest['model']['name']}' makes the same of every new item as of one without "
            "columns: it reads no item features, or the file has none of their columns; train it again to add items"
        )


def _grown_dataset(bundle: Bundle, features: Features) -> Dataset:
    number = len(next(iter(features.values())))
    dataset = bundle.dataset
    columns = {name: torch.cat([column, features[name]]) for name, column in dataset.item_features.items()}
    schema = replace(bundle.schema, num_items=bundle.schema.num_items + number)
    return replace(dataset, schema=schema, item_features=columns)


def _grown_model(bundle: Bundle, dataset: Dataset) -> Model:
    """The same model with a row more for each new item in every table of items: the unknown item's row, or one that the
    model makes of the item's features."""
    before, after = bundle.schema.num_items, dataset.schema.num_items
    described: dict[str, Any] = bundle.manifest["model"]
    model = enlarged(bundle.model, described["name"], described["parameters"], dataset.schema)
    items = dataset.all_items()
    attach_items(model, items)
    serving = new_item_model(model)
    if serving is not None and (events := _events(bundle, after)) is not None:
        serving.settle_items(torch.arange(after, device=bundle.device) >= before, events, items)
    return model.eval()


def _events(bundle: Bundle, rows: int) -> Tensor | None:
    """Training events of each item, 0 for those that are added; None where the bundle does not note them."""
    path = bundle.folder / "items" / "events.npy"
    if not path.is_file():
        return None
    events = torch.zeros(rows, dtype=torch.int64, device=bundle.device)
    noted = torch.from_numpy(np.load(path)).to(events)
    events[bundle.item_ids[: len(noted)]] = noted
    return events


def _check_alike(bundle: Bundle, states: State) -> None:
    """Refuse states that are stored otherwise than the model makes them."""
    stored, made = to_tensors(bundle.item_states), to_tensors(states)
    if {name: (part.dtype, part.shape[1:]) for name, part in stored.items()} != {
        name: (part.dtype, part.shape[1:]) for name, part in made.items()
    }:
        raise InputError(
            f"{bundle.folder}: its item states are stored in fewer bytes; add items first, then compact it"
        )
