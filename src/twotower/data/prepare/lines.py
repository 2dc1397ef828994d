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
FOREIGN = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "sound or a picture",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save the sheet as CSV, and give that",
    b"SQLite format 3": "an SQLite database; export a table as CSV",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file; export a table as CSV or Parquet",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or pack it by gzip",
    b"\xfd7zXZ": "packed by xz; unpack it, or pack it by gzip",
    b"BZh": "packed by bzip2; unpack it, or pack it by gzip",
}
"""First bytes of files that are no text, what they are, and what to do."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def plain_lines(path: Path, encoding: str, target: Path) -> Path:
    """Return the file itself when it is plain UTF-8 with one kind of line end, else ``target``, a copy that is.

    Packed files are known by their first bytes, whatever they are called. Line ends may be LF, CRLF, CR or a mixture.

    Raises:
        InputError: if the encoding is unknown or is not the file's, a packed file is broken, or it is no text.
    """
    try:
        codec = codecs.lookup(encoding)
        if not getattr(codec, "_is_text_encoding", True):  # such as base64, which makes bytes of bytes
            raise LookupError
        name = codec.name
    except (LookupError, ValueError):
        raise InputError(f"encoding {shown(encoding)} is not known; try utf-8, latin-1, cp1252 or utf-16") from None
    with path.open("rb") as file:
        start = file.read(BLOCK)
    packed, utf8 = start.startswith(_GZIP), name in ("utf-8", "ascii", "utf-8-sig")
    if packed:
        start = _unpacked(path)
        if start.startswith(_GZIP):
            raise InputError(f"{path}: is packed by gzip twice; unpack it once")
    elif path.suffix.lower() == ".gz" and b"\0" in start and utf8:
        raise InputError(f"{path}: is called .gz, but is neither packed by gzip nor text")
    for sign, words in FOREIGN.items():
        if start.startswith(sign):
            raise InputError(f"{path}: is {words}")
    if start.startswith(b"PAR1"):
        raise InputError(f"{path}: is a Parquet file: set format = 'parquet'")
    if utf8 and start.startswith(_UTF16):
        raise InputError(f"{path}: begins as UTF-16: set encoding = 'utf-16'")
    try:
        if utf8 and not packed and _is_even(path):
            return path
        with _open(path, packed) as raw, target.open("wb") as copy:
            for block in _newlines(_blocks(raw) if utf8 else _in_utf8(raw, name)):
                copy.write(block)
    except UnicodeError as error:
        raise InputError(f"{path}: is not {encoding}: {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(path, error) from None
    return target


def _unpacked(path: Path) -> bytes:
    """The first bytes of what a gzip file holds."""
    try:
        with gzip.GzipFile(path, "rb") as file:
            return file.read(16)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: begins as a gzip file but cannot be unpacked ({error})")


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
