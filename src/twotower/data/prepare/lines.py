"""Text files of any encoding, packing and line end as plain UTF-8 lines: one file form for all that read on."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from twotower.core.errors import InputError, shown

BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"


def plain_lines(path: Path, encoding: str, target: Path) -> Path:
    """Return the file itself when it is plain UTF-8 with one kind of line end, else ``target``, a copy that is.

    Packed files are known by their first bytes, whatever they are called. Line ends may be LF, CRLF, CR or a mixture.

    Raises:
        InputError: if the encoding is unknown or is not the file's, or a packed file is broken.
    """
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise InputError(f"encoding {shown(encoding)} is not known; try utf-8, latin-1, cp1252 or utf-16") from None
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    utf8 = name in ("utf-8", "ascii", "utf-8-sig")
    try:
        if utf8 and not packed and _is_even(path):
            return path
        with _open(path, packed) as raw, target.open("wb") as copy:
            for block in _newlines(_blocks(raw) if utf8 else _in_utf8(raw, name)):
                copy.write(block)
    except UnicodeError as error:
        raise InputError(f"{path}: is not {encoding}: {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: begins as a gzip file but cannot be unpacked ({error})") from None
    return target


def _open(path: Path, packed: bool) -> io.BufferedIOBase:
    return gzip.GzipFile(path, "rb") if packed else path.open("rb")


def _blocks(raw: io.BufferedIOBase) -> Iterator[bytes]:
    while block := raw.read(BLOCK):
        yield block


def _in_utf8(raw: io.BufferedIOBase, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    for block in _blocks(raw):
        yield decoder.decode(block).encode("utf-8", errors="surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", errors="surrogatepass")


def _newlines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes with every CRLF and CR as LF."""
    held = b""
    for block in blocks:
        block = held + block
        held = b"\r" if block.endswith(b"\r") else b""  # an LF may follow in the next block
        yield block[: len(block) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if held:
        yield b"\n"


def _is_even(path: Path) -> bool:
    """Whether every line ends in LF, or every one in CRLF."""
    returns = pairs = newlines = 0
    last = b""
    with path.open("rb") as file:
        for block in _blocks(file):
            returns += block.count(b"\r")
            newlines += block.count(b"\n")
            pairs += block.count(b"\r\n") + (last == b"\r" and block.startswith(b"\n"))
            last = block[-1:]
    return returns == 0 or returns == pairs == newlines
