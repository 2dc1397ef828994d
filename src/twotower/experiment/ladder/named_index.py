"""Index that a fit is asked for by name: whether any model of the ladder takes it, and the winner's bundle with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Schema
from twotower.experiment.index_tuning import rebuild_index
from twotower.experiment.placement import pick_device
from twotower.experiment.recipes import default_run
from twotower.experiment.run import IndexSection
from twotower.index.registry import build_index, index_class, serves
from twotower.models.registry import build_model
from twotower.serving.manifest import read_manifest

PROBE = Schema(FIRST_KNOWN + 1024, FIRST_KNOWN + 1024)
"""Of models that are built to be asked which indexes they take."""
DEFAULT = IndexSection().kind


def check_index(kind: str, models: Sequence[str]) -> None:
    """Refuse an index that none of these models can be searched by, before anything is read or trained for it.

    Raises:
        InputError: if no index has that name (the closest is named), or no model takes it.
    """
    index_class(kind)
    if kind == DEFAULT:
        return
    why = "there is no model"
    for name in models:
        try:
            with torch.random.fork_rng([]):
                model = build_model(name, PROBE, default_run(name).model.settings)
            if serves(kind, inner_product=model.inner_product):
                build_index(kind, {}, model)
                return
            why = f"index '{kind}' finds inner products, and model '{name}' has another score"
        except InputError as error:
            why = str(error)
    raise InputError(f"no model that fit tries can be searched by index '{kind}' ({why})")


def give_index(bundle: Path, kind: str, device: str, tell: Callable[[str], None]) -> str | None:
    """Build the index of a finished bundle, which keeps its own where that cannot be built; return what it then has.

    Args:
        bundle: its folder.
        kind: name from `twotower.INDEXES`.
        device: where the model runs.
        tell: hears why the index is another one.
    """
    if kind != DEFAULT:
        try:
            rebuild_index(bundle, kind, device=str(pick_device(device)))
        except InputError as error:
            tell(f"the bundle has its default index, not '{kind}': {error}")
    has: str | None = read_manifest(bundle)["index"]
    return has
