"""File systems behind fsspec: a local folder, memory, buckets and whatever else has a package for it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import posixpath
import secrets
import shutil
from pathlib import Path
from typing import Any

from twotower.core.address import open_address, reaching, shown_address
from twotower.core.errors import InputError
from twotower.core.folders import check_outside, replacing_folder
from twotower.core.manifest import check_files
from twotower.serving.share.address import (
    BUNDLE,
    MANIFEST,
    MOST_MANIFEST,
    NOTHING,
    OTHER,
    check_names,
)

BLOCK = 2**20


class Files:
    """Hold a bundle in a folder, given by an fsspec address, or by a plain path.

    A local folder is replaced in one step. Elsewhere, where there is no such step, files first go under a temporary
    name and are read back; then they are copied to their place, the manifest last, since a folder without one is no
    bundle.

    Args:
        address: such as ``s3://bucket/films``, ``gs://bucket/films``, ``memory://films``, ``runs/films``.

    Raises:
        InputError: if there is no such kind of address, its package is missing, or the address is not of one folder.
    """

    def __init__(self, address: str) -> None:
        self.address, self.name = address, shown_address(address)
        self.fs, self.path, self.local = open_address(address)
        if not posixpath.basename(self.path):
            raise InputError(f"{self.name}: name a folder, such as s3://bucket/name")

    def holds(self) -> str:
        """Return what is there: nothing, a bundle, or something else."""
        with reaching(self.address):
            self.fs.invalidate_cache()
            if self.fs.exists(f"{self.path}/{MANIFEST}"):
                try:
                    kind = json.loads(self.fs.cat_file(f"{self.path}/{MANIFEST}", start=0, end=MOST_MANIFEST))
                except (ValueError, RecursionError):
                    return OTHER
                return BUNDLE if isinstance(kind, dict) and kind.get("kind") == "bundle" else OTHER
            if not self.fs.exists(self.path):
                return NOTHING
            full = self.fs.isfile(self.path) or any(files for _, _, files in self.fs.walk(self.path))
            return OTHER if full else NOTHING

    def fetch(self, name: str, to: Path) -> None:
        """Copy one file from there."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with reaching(self.address):
            try:
                if name == MANIFEST:
                    data = self.fs.cat_file(f"{self.path}/{name}", start=0, end=MOST_MANIFEST + 1)
                    if len(data) > MOST_MANIFEST:
                        raise InputError(f"{self.name}: its {MANIFEST} is too large to be that of a bundle")
                    to.write_bytes(data)
                else:
                    self.fs.get_file(f"{self.path}/{name}", str(to))
            except (FileNotFoundError, NotADirectoryError):
                raise InputError(f"{self.name}: {name} is not there") from None

    def store(self, folder: Path, hashes: dict[str, str], *, replace: bool) -> None:
        """Copy a bundle to there."""
        if self.local is not None:
            self._store_locally(self.local, folder, hashes, replace=replace)
            return
        last = posixpath.basename(self.path)
        if last == self.path:
            raise InputError(f"{self.name}: a whole bucket; name a folder in it, such as {self.name.rstrip('/')}/films")
        partial = f"{self.path.removesuffix(last)}.{last}.{secrets.token_hex(4)}"
        kept = False
        try:
            with reaching(self.address):
                self._put(folder, partial, hashes)
            if self.holds() not in ((NOTHING, BUNDLE) if replace else (NOTHING,)):
                raise InputError(f"{self.name}: something came there meanwhile; nothing is changed")
            kept = replace
            with reaching(self.address):
                self._swap(partial, hashes)
            kept = False
        except ConnectionError as error:
            told = f"; the new bundle lies whole in {partial}" if kept else ""
            raise ConnectionAbortedError(f"{error}{told}") from None
        finally:
            if not kept:
                with contextlib.suppress(Exception):
                    self.fs.rm(partial, recursive=True)

    def _store_locally(self, to: Path, folder: Path, hashes: dict[str, str], *, replace: bool) -> None:
        check_outside(to)
        with replacing_folder(to) as partial:
            for name in (*hashes, MANIFEST):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, partial / name)
            check_files(partial, hashes, "bundle", "it changed while it was copied; push it again")
            if not replace and to.exists() and any(to.iterdir()):
                raise InputError(f"{self.name}: something came there meanwhile; nothing is changed")

    def _put(self, folder: Path, partial: str, hashes: dict[str, str]) -> None:
        """Copy the files under a temporary name, and read them back."""
        for name in (*hashes, MANIFEST):
            self.fs.put_file(str(folder / name), f"{partial}/{name}")
        for name, expected in hashes.items():
            if self._hash(f"{partial}/{name}") != expected:
                raise ConnectionAbortedError(f"{self.name}: {name} did not arrive as it was sent; nothing is changed")

    def _swap(self, partial: str, hashes: dict[str, str]) -> None:
        """Put the files in their place: the manifest goes first and comes last, so that no mixture is a bundle."""
        if self.fs.exists(f"{self.path}/{MANIFEST}"):
            old = check_names([n for n in self._below(self.path) if n != MANIFEST], self.name)
            for name in (MANIFEST, *old):
                self.fs.rm_file(f"{self.path}/{name}")
        for name in (*hashes, MANIFEST):
            target = f"{self.path}/{name}"
            self.fs.makedirs(posixpath.dirname(target), exist_ok=True)
            self.fs.cp_file(f"{partial}/{name}", target)

    def _below(self, path: str) -> list[str]:
        root = str(self.fs._strip_protocol(path)).rstrip("/") + "/"
        return [str(found).removeprefix(root) for found in self.fs.find(path)]

    def _hash(self, path: str) -> str:
        found = hashlib.sha256()
        file: Any
        with self.fs.open(path, "rb") as file:
            while block := file.read(BLOCK):
                found.update(block)
        return found.hexdigest()
