"""A folder of files, here or behind fsspec, in which every file appears whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import posixpath
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twotower.core.address import is_address, open_address, reaching, shown_address
from twotower.core.errors import InputError, cut
from twotower.core.files import replacing_file, sha256

BLOCK = 2**20


class Store:
    """Read and write the files of one folder.

    A file is written under a temporary name, which begins with a dot, and renamed when it is whole; behind fsspec it is
    made here, copied to a temporary name there, and its size is compared before it is renamed.

    Args:
        address: an fsspec address such as ``s3://bucket/lists``, or a plain path.

    Raises:
        InputError: if there is no such kind of address, or its package is missing.
    """

    def __init__(self, address: str) -> None:
        self.name = shown_address(address)
        if is_address(address):
            self.fs, self.path, self.local = open_address(address)
        else:  # whatever signs its name holds
            self.fs, self.path, self.local = None, str(Path(address).resolve()), Path(address).resolve()
        self.address = address if self.local is None else self.path
        """By which another process finds the same folder."""

    def check_name(self) -> None:
        """Refuse what is no folder of its own.

        Raises:
            InputError: if it is a whole bucket, or the root of a file system.
        """
        if not posixpath.basename(self.path) or (self.local is None and "/" not in self.path):
            raise InputError(f"{self.name}: name a folder in it, such as {self.name.rstrip('/')}/lists")

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file by its name, temporary ones too; none where the folder is not there.

        Raises:
            InputError: if the address is that of a file.
        """
        if self.local is not None:
            if self.local.is_file():
                raise InputError(f"{self.name}: a file; name a folder")
            there = self.local.iterdir() if self.local.is_dir() else ()
            return {path.name: path.stat().st_size for path in there}
        with reaching(self.address):
            self.fs.invalidate_cache()
            try:
                found = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                return {}
            return {
                posixpath.basename(str(one["name"]).rstrip("/")): int(one.get("size") or 0)
                for one in found
                if str(one["name"]).strip("/") != self.path.strip("/")
            }

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a local path to write; what is there when the block ends becomes the file ``name``."""
        if self.local is not None:
            with replacing_file(self.local / name) as path:
                yield path
            return
        with tempfile.TemporaryDirectory(prefix="twotower-") as folder:
            path = Path(folder) / name
            yield path
            self._send(path, name)

    def _send(self, path: Path, name: str) -> None:
        partial, target = f"{self.path}/.{name}.{secrets.token_hex(4)}", f"{self.path}/{name}"
        with reaching(self.address):
            try:
                self.fs.makedirs(self.path, exist_ok=True)
                self.fs.put_file(str(path), partial)
                self.fs.invalidate_cache()
                if self.fs.size(partial) != path.stat().st_size:
                    raise ConnectionAbortedError(f"{self.name}: {name} did not arrive whole; run the command again")
                if self.fs.exists(target):
                    self.fs.rm_file(target)
                self.fs.mv(partial, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.fs.rm_file(partial)
                raise

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Yield a local path of the file: itself, or a copy for as long as the block runs.

        Raises:
            InputError: if it is not there.
        """
        if self.local is not None:
            if not (self.local / name).is_file():
                raise InputError(f"{self.name}: {name} is not there")
            yield self.local / name
            return
        with tempfile.TemporaryDirectory(prefix="twotower-") as folder:
            path = Path(folder) / name
            self.fetch(name, path)
            yield path

    def fetch(self, name: str, to: Path) -> None:
        """Copy a file to a local path.

        Raises:
            InputError: if it is not there.
            ConnectionError: if the place cannot be reached.
        """
        with reaching(self.address):
            try:
                self.fs.get_file(f"{self.path}/{name}", str(to))
            except FileNotFoundError:
                raise InputError(f"{self.name}: {name} is not there") from None

    def read_json(self, name: str) -> Any:
        """Read a file of JSON.

        Raises:
            InputError: if it is not there, or is not JSON.
        """
        with self.reading(name) as path:
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.name}: {name} is damaged, no JSON ({cut(str(error), 80)})") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a file of JSON."""
        with self.writing(name) as path:
            path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
            return
        with reaching(self.address), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.path}/{name}")

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file's bytes.

        Raises:
            InputError: if it is not there.
        """
        if self.local is not None:
            with self.reading(name) as path:
                return sha256(path)
        found = hashlib.sha256()
        with reaching(self.address):
            try:
                with self.fs.open(f"{self.path}/{name}", "rb") as file:
                    while block := file.read(BLOCK):
                        found.update(block)
            except FileNotFoundError:
                raise InputError(f"{self.name}: {name} is not there") from None
        return found.hexdigest()


@contextlib.contextmanager
def local_file(address: str) -> Iterator[Path]:
    """Yield a local path of a file: itself, or a copy of the file at an address for as long as the block runs.

    Raises:
        InputError: if there is none at an address.
        ConnectionError: if the address cannot be reached.
    """
    if not is_address(address):
        yield Path(address)
        return
    folder, _, name = address.rpartition("/")
    with Store(folder).reading(name) as path:
        yield path
