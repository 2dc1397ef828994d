"""Registrations that a bundle needs: what its manifest notes of parts from outside, and which import is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, shown
from twotower.core.registry import Registry
from twotower.index.registry import INDEXES
from twotower.models.registry import MODELS
from twotower.scorers.registry import SCORERS
from twotower.towers.registry import TOWERS

OF_A_MODEL: Mapping[str, Registry[Any]] = {"score": SCORERS, "tower": TOWERS}
"""Parts that a model names among its settings, by the key."""


def note(registries: Mapping[str, Registry[Any]], names: Iterable[tuple[str, Any]]) -> list[dict[str, str]]:
    """Return what a manifest notes of the parts that are not the package's own: kind, name and module.

    Args:
        registries: by kind.
        names: kind and name of each part; a name that its registry lacks is left out.
    """
    found = []
    for what, name in names:
        if isinstance(name, str) and name in registries[what]:
            module = registries[what].module_of(name)
            if module.partition(".")[0] != "twotower":
                found.append({"part": what, "name": name, "module": module})
    return found


def check_registered(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a bundle whose model, index, scorer or tower is not registered in this process.

    No file makes us import code: the names in it are only compared.

    Raises:
        InputError: says which import is missing.
    """
    model, index = manifest["model"], manifest.get("index")
    check_known(folder, "model", model["name"], MODELS, model.get("module"))
    if index is not None:
        check_known(folder, "index", index, INDEXES, manifest.get("index_module"))
    check_noted(folder, manifest, OF_A_MODEL)


def check_noted(folder: Path, manifest: dict[str, Any], registries: Mapping[str, Registry[Any]]) -> None:
    """Refuse a bundle with a noted part of one of these kinds that is not registered in this process.

    Raises:
        InputError: says which import is missing.
    """
    for noted in manifest.get("parts", []):
        if noted["part"] in registries:
            check_known(folder, noted["part"], noted["name"], registries[noted["part"]], noted["module"])


def check_known(folder: Path, what: str, name: str, registry: Registry[Any], module: str | None) -> None:
    """Refuse a name that a registry lacks, and say which module brings it.

    Raises:
        InputError: if the registry lacks it.
    """
    if name not in registry:
        named = module and module != "__main__"  # a script or notebook is nothing to import
        where = f"import {module}" if named else f"import the module that registers {shown(name)}"
        raise InputError(
            f"{folder}: its {what} {shown(name)} is not registered here; {where} before you load it "
            f"(command line: twotower --import {module if named else 'MODULE'} …)"
        )
