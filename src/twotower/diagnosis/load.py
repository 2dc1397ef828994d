"""Vectors from files: arrays, tables, a FAISS index, a bundle. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from twotower.core.errors import InputError, shown
from twotower.diagnosis.table import Table

Reader = Callable[[Path, str | None], Table]

READERS = {
    ".npy": ("arrays:read_npy", "a readable .npy array of numbers"),
    ".npz": ("arrays:read_npz", "a readable .npz of numbers"),
    ".safetensors": ("arrays:read_safetensors", "a readable safetensors file"),
    ".parquet": ("parquet:read_parquet", "a readable Parquet file"),
    ".csv": ("text:read_text", "a readable text table"),
    ".tsv": ("text:read_text", "a readable text table"),
    ".jsonl": ("json_lines:read_json_lines", "a readable table of JSON lines"),
    ".ndjson": ("json_lines:read_json_lines", "a readable table of JSON lines"),
    ".json": ("json_lines:read_json_lines", "a readable table of JSON lines"),
    ".faiss": ("faiss:read_faiss", "a readable FAISS index"),
    ".index": ("faiss:read_faiss", "a readable FAISS index"),
}
"""By suffix: module and function under ``readers``, and what the file should be."""
_PACKED = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
"""Suffixes before ``.gz``."""
_BUNDLE = ("bundle:read_bundle", "a bundle that can be read")


def load_table(path: Path, *, column: str | None = None) -> Table:
    """Read vectors from ``path``.

    ====================  =============================================================================================
    .npy                  the array, mapped from disk
    .npz                  the array named ``column``, or the only 2-d one
    .safetensors          the tensor named ``column``, or the only 2-d one
    .parquet              the list column ``column``, or the only one, or the numeric columns that are coordinates
    .csv, .tsv            the columns that are coordinates, or ``column`` with a list of numbers in each cell; packed or
                          not (.csv.gz)
    .jsonl, .ndjson       the key ``column``, or the only one with a list of numbers, or the keys with a number that are
    (.json)               coordinates; packed or not
    .faiss, .index        the vectors that the index can rebuild
    a bundle (folder)     its item states
    ====================  =============================================================================================

    `twotower.diagnosis.columns` says how keys, titles, labels and row numbers are told from coordinates;
    ``Table.account`` tells what was read as what.

    Raises:
        InputError: if the file is missing, of another kind, broken, or holds no vectors.
    """
    if path.is_dir():
        return _read(path, column, *_BUNDLE)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if suffix == ".gz" and (inner := path.with_suffix("").suffix.lower()) in _PACKED:
        suffix = inner
    if suffix not in READERS:
        raise InputError(
            f"{path}: cannot read {shown(path.suffix or 'no suffix')}; give {', '.join(READERS)}, or a bundle folder"
        )
    return _read(path, column, *READERS[suffix])


def _read(path: Path, column: str | None, reader: str, wanted: str) -> Table:
    """Read, and turn whatever an engine raises over a damaged file into one line with the file's name."""
    module, _, name = reader.partition(":")
    read: Reader = getattr(import_module(f"twotower.diagnosis.readers.{module}"), name)
    try:
        return read(path, column)
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except UnicodeDecodeError as error:
        how = ", as by: iconv -f latin1 -t utf-8" if error.encoding.startswith("utf-8") else ""
        byte = f"byte {error.object[error.start]:#04x} is none of {error.encoding.upper()}"
        raise InputError(f"{path}: not {wanted}: {byte}; save it as UTF-8{how}") from None
    except MemoryError:
        raise InputError(f"{path}: not {wanted}: it claims more than the memory holds") from None
    except Exception as error:
        line = (" ".join(str(error).split()) or type(error).__name__)[:160]
        raise InputError(f"{path}: not {wanted} ({line})") from None
