"""Modules with parts of one's own that a person named to be imported; processes that are started import them too."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from twotower.core.errors import InputError, shown

_named: list[str] = []


def import_own(name: str) -> None:
    """Load a module that registers parts, from this folder or an installed package.

    Raises:
        InputError: if there is no such module, or importing it fails; says why.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(
                f"--import {shown(name)}: no such module, neither in this folder nor installed; "
                "give its name as after 'import', without .py"
            ) from None
        raise InputError(f"--import {shown(name)}: it imports {shown(error.name)}, which is not installed") from error
    except Exception as error:
        raise InputError(f"--import {shown(name)}: {type(error).__name__}: {error}") from error
    if name not in _named:
        _named.append(name)


def own_modules() -> tuple[str, ...]:
    """Return the names that `import_own` was given, for processes that are to know the same parts."""
    return tuple(_named)
