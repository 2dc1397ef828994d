"""Fetch one file over HTTP so that a broken connection costs only what was under way."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from twotower.data.sources.base import Archive, Progress, SourceUnavailable

BLOCK = 1 << 16
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may change when asked again."""


def download(
    archive: Archive,
    target: Path,
    *,
    progress: Progress | None = None,
    timeout: float = 10.0,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Fetch ``archive`` to ``target`` and return ``target``; a file there that passes the checks is kept.

    Bytes gather in ``target`` + ``.part``, which a later call goes on from. What the server calls the version is kept
    in ``.part.version``, so that two versions of a file are never joined; without one a checksum must be published.

    Args:
        timeout: seconds to wait for a connection or for the next bytes.
        attempts: failures in a row, without one new byte, before giving up.
        pause: seconds before the second attempt, doubled for each further one.

    Raises:
        SourceUnavailable: if the address is wrong or does not answer, or the file is not the published one.
    """
    if target.is_file() and _fault(archive, target) is None:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(archive, part, progress, timeout)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in BUSY:
                raise SourceUnavailable(
                    f"{archive.address}: the server answers {error.code} {error.reason}; "
                    f"fetch it by hand and give it with --from"
                ) from None
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            if not _worth_another_try(error):
                raise SourceUnavailable(f"{archive.address}: cannot be reached ({reason})") from None
        failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
        if failures >= attempts:
            raise SourceUnavailable(
                f"{archive.address}: stopped after {failures} failures ({reason}); call again to go on from {part.name}"
            )
        time.sleep(pause * 2 ** max(failures - 1, 0))
    fault = _fault(archive, part)
    _version_file(part).unlink(missing_ok=True)
    if fault is not None:
        part.unlink()
        raise SourceUnavailable(f"{archive.address}: {fault}; it was thrown away")
    part.replace(target)
    return target


def _fetch(archive: Archive, part: Path, progress: Progress | None, timeout: float) -> None:
    """One request, for the bytes that ``part`` lacks; raises what urllib raises, and when the answer breaks off."""
    have = part.stat().st_size if part.exists() else 0
    version = _version_file(part).read_text(encoding="utf-8") if _version_file(part).exists() else ""
    if have and not version and archive.md5 is None:
        have = 0
    request = urllib.request.Request(archive.address, headers={"User-Agent": "twotower"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version:
            request.add_header("If-Range", version)
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return None
        part.unlink()
        return _fetch(archive, part, progress, timeout)
    with answer:
        start = _start(answer.headers.get("Content-Range")) if answer.status == 206 else 0
        if start not in (0, have):
            raise http.client.HTTPException(f"asked for byte {have}, got byte {start}")
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        tag = answer.headers.get("ETag") or ""
        _version_file(part).write_text(tag if tag and not tag.startswith("W/") else "", encoding="utf-8")
        with part.open("ab" if start else "wb") as file:
            done = _copy(answer, file, start, total, archive.name, progress)
    if total is not None and done < total:
        raise ConnectionResetError(f"the connection broke at byte {done} of {total}")
    return None


def _copy(
    answer: http.client.HTTPResponse, file: BinaryIO, done: int, total: int | None, name: str, progress: Progress | None
) -> int:
    while block := answer.read(BLOCK):
        file.write(block)
        done += len(block)
        if progress is not None:
            progress(name, done, total)
    return done


def _start(content_range: str | None) -> int:
    """The first byte of ``bytes 5-9/10``; -1 when it cannot be read."""
    first = (content_range or "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _worth_another_try(error: Exception) -> bool:
    """A name that does not resolve, a refused connection or a bad certificate will not mend within seconds; a broken
    or a slow answer may."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(cause, (TimeoutError, ConnectionResetError, BrokenPipeError, http.client.HTTPException))


def _fault(archive: Archive, path: Path) -> str | None:
    """What tells that ``path`` is not the published file, None when nothing does."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"it has {size:,} bytes, published are {archive.size:,}"
    if archive.md5 is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if digest != archive.md5:
            return f"its MD5 is {digest}, published is {archive.md5}"
    return None
