"""Push a bundle to an address, and pull one from there: whole, checked against its manifest, and never over another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.errors import InputError
from twotower.core.folders import replacing_folder
from twotower.serving.bundle import check_target
from twotower.serving.manifest import read_manifest, verify_files
from twotower.serving.share.address import BUNDLE, MANIFEST, NOTHING, Place, check_names
from twotower.serving.share.files import Files
from twotower.serving.share.hub import SCHEME, Hub


class Sent(NamedTuple):
    """Hold what was copied: the address as it may be shown, its files, their bytes, and the digest of the manifest."""

    address: str
    files: int
    bytes: int
    digest: str


def push(bundle: Path | str, address: str, *, replace: bool = False, private: bool = True) -> Sent:
    """Copy a bundle to an address.

    Args:
        bundle: folder of the bundle; every file is compared with its hash first.
        address: an fsspec address (``s3://bucket/name``, ``gs://…``, ``memory://…``, a folder), or ``hf://user/name``.
        replace: whether it may take the place of a bundle that is there.
        private: whether a repository that is made on a hub is for its owner alone: a bundle has personal data.

    Raises:
        InputError: if the folder is no bundle or a damaged one, or the address holds something already.
        ConnectionError: if the address cannot be reached.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    place = _place(address, private=private)
    there = place.holds()
    if there != NOTHING and (there != BUNDLE or not replace):
        advice = "--replace puts this one in its place" if there == BUNDLE else "name another address"
        raise InputError(f"{place.name}: holds {there}; {advice}")
    place.store(folder, manifest["hashes"], replace=replace)
    return _sent(place, folder, manifest)


def pull(address: str, to: Path | str, *, replace: bool = False) -> Sent:
    """Fetch the bundle of an address into a folder: the files that its manifest names, each compared with its hash.

    Args:
        address: as for `push`.
        to: folder of the bundle; it is there whole, or not at all.
        replace: whether it may take the place of a bundle that is there.

    Raises:
        InputError: if there is no bundle or a damaged one, a file name leads elsewhere, or ``to`` holds something.
        ConnectionError: if the address cannot be reached.
    """
    to, place = Path(to), _place(address)
    check_target(to)
    _check_free(to, replace=replace)
    with replacing_folder(to) as partial:
        place.fetch(MANIFEST, partial / MANIFEST)
        try:
            manifest = read_manifest(partial)
            hashes = manifest.get("hashes")
            names = check_names(list(hashes), place.name) if isinstance(hashes, dict) else []
            for name in names:
                place.fetch(name, partial / name)
            if "versions" not in manifest or "model" not in manifest or not names:
                raise InputError(f"{place.name}: its manifest.json is not that of a bundle")
            verify_files(partial, manifest)
        except InputError as error:  # it is known by its address, not by where it was being written
            raise InputError(str(error).replace(str(partial.resolve()), place.name)) from None
        _check_free(to, replace=replace)
        sent = _sent(place, partial, manifest)
        shutil.rmtree(partial / ".fetched", ignore_errors=True)
    return sent


def _place(address: str, *, private: bool = True) -> Place:
    return Hub(address, private=private) if address.startswith(SCHEME) else Files(address)


def _check_free(to: Path, *, replace: bool) -> None:
    if not replace and to.is_dir() and any(to.iterdir()):
        raise InputError(f"{to}: holds a bundle; --replace puts the one that is fetched in its place")


def _sent(place: Place, folder: Path, manifest: dict[str, Any]) -> Sent:
    names = [*manifest["hashes"], MANIFEST]
    return Sent(place.name, len(names), sum((folder / name).stat().st_size for name in names), manifest["digest"])
