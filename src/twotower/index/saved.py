"""Folder of a saved index: the note that names its kind and settings, and what is said where its files are wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from twotower.core.errors import InputError
from twotower.core.files import read_json, write_json

NOTE = "index.json"


def write_note(folder: Path, kind: type, settings: dict[str, Any], **more: Any) -> None:
    """Write the note of an index of a class, called with ``settings``, and what else its `load` needs."""
    write_json(folder / NOTE, {"class": kind.__name__, "settings": settings, **more})


@contextlib.contextmanager
def saved_index(folder: Path, kind: type) -> Iterator[dict[str, Any]]:
    """Read the note of a saved index; files that are missing or wrong in the block become one line about the folder.

    Args:
        folder: that was saved to.
        kind: class of the index that is read.

    Yields:
        What `write_note` wrote.

    Raises:
        InputError: if there is no note, it is of another class, or the block meets a file that is missing, cut short
            or does not hold what it should.
    """
    if not (folder / NOTE).is_file():
        raise InputError(f"{folder / NOTE}: no such file, so this folder holds no index of this kind")
    try:
        note = read_json(folder / NOTE)
        if note["class"] != kind.__name__:
            raise ValueError(f"it is a {note['class']}")
        yield note
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file, so this folder holds no whole index") from None
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder}: not an index of this kind ({why})") from None
