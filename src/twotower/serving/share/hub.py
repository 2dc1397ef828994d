"""Hubs of models that speak as Hugging Face's does: a bundle is the whole of one repository (extra ``hub``)."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

from twotower.core.address import reaching
from twotower.core.errors import InputError, shown
from twotower.serving.share.address import BUNDLE, MANIFEST, NOTHING, OTHER

SCHEME = "hf://"
THEIRS = ".gitattributes"
"""The hub puts it into each repository."""


class Hub:
    """Hold a bundle in a repository of models, given by ``hf://user/name``, or ``hf://user/name@revision``.

    The hub is that of ``HF_ENDPOINT``, else Hugging Face's own; who asks is said by ``HF_TOKEN`` or by
    ``hf auth login``. A bundle arrives in one commit: a reader sees the old one or the new one.

    Args:
        address: of the repository.
        private: whether a repository that has to be made is for its owner alone.

    Raises:
        InputError: if the address is none of a repository, or huggingface_hub is not installed.
    """

    def __init__(self, address: str, *, private: bool = True) -> None:
        found = re.fullmatch(r"hf://(\w[\w.-]*/\w[\w.-]*?)(?:@(\w[\w./-]*))?", address.rstrip("/"))
        if found is None or ".." in address:
            raise InputError(f"{shown(address)}: write hf://user/name, or hf://user/name@revision")
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ImportError:
            raise InputError("hf:// addresses need huggingface_hub: pip install 'twotower[hub]'") from None
        self.name, self.repository, self.revision = address, found[1], found[2]
        self.private = private
        self._library: Any = huggingface_hub
        self._errors: Any = errors
        self._api: Any = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        self._at: str | None = None

    def holds(self) -> str:
        """Return what the repository has: nothing (or it is not there), a bundle, or something else."""
        with reaching(self.name):
            names = set(self._info()[1]) - {THEIRS}
        return BUNDLE if MANIFEST in names else OTHER if names else NOTHING

    def fetch(self, name: str, to: Path) -> None:
        """Copy one file from there: all of them as of one commit, that of the first."""
        with reaching(self.name):
            if self._at is None:
                self._at, names = self._info()
                if name not in names:
                    raise InputError(f"{self.name}: {name} is not there, or you may not see it")
            try:
                got = self._api.hf_hub_download(
                    self.repository, name, revision=self._at, local_dir=str(to.parent / ".fetched")
                )
            except self._errors.EntryNotFoundError:
                raise InputError(f"{self.name}: {name} is not there") from None
            shutil.move(got, to)
            shutil.rmtree(to.parent / ".fetched")

    def store(self, folder: Path, hashes: dict[str, str], *, replace: bool) -> None:
        """Copy a bundle to there, in one commit upon what was there when it was looked at."""
        with reaching(self.name), warnings.catch_warnings():
            for harmless in ("It seems that you are about to commit a data file", "Warnings while validating metadata"):
                warnings.filterwarnings("ignore", message=harmless)
            self._api.create_repo(self.repository, private=self.private, exist_ok=True)
            parent, there = self._info()
            names = [*hashes, MANIFEST]
            stale = set(there) - {*names, THEIRS}
            if not replace and set(there) - {THEIRS}:
                raise InputError(f"{self.name}: something came there meanwhile; nothing is changed")
            add, delete = self._library.CommitOperationAdd, self._library.CommitOperationDelete
            made = self._api.create_commit(
                self.repository,
                [*(add(name, str(folder / name)) for name in names), *(delete(name) for name in sorted(stale))],
                commit_message="A bundle, by twotower push",
                revision=self.revision,
                parent_commit=parent,
            )
            self._check(folder, hashes, names, made.oid)

    def _info(self) -> tuple[str | None, list[str]]:
        """The latest commit of the repository, and its files; nothing where there is no repository yet."""
        try:
            info = self._api.model_info(self.repository, revision=self.revision)
        except self._errors.RevisionNotFoundError:
            raise InputError(f"{self.name}: the repository has no revision {shown(self.revision)}") from None
        except self._errors.RepositoryNotFoundError:
            return None, []
        return info.sha, [sibling.rfilename for sibling in info.siblings or []]

    def _check(self, folder: Path, hashes: dict[str, str], names: list[str], commit: str) -> None:
        """Compare what the hub holds with what was sent, by the hashes that it keeps of large and of small files."""
        found = {info.path: info for info in self._api.get_paths_info(self.repository, names, revision=commit)}
        for name in names:
            info = found.get(name)
            if info is not None and info.lfs is not None:
                same = name in hashes and info.lfs.sha256 == hashes[name]
            else:
                same = info is not None and info.blob_id == git_hash(folder / name)
            if not same:
                raise ConnectionAbortedError(f"{self.name}: {name} did not arrive as it was sent; push again")


def git_hash(path: Path) -> str:
    """Return the hash by which git knows a file's content."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
