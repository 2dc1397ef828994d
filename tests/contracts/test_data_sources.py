"""What every public data set keeps to; a set named in `SOURCES` is a member by its line there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twotower.core.errors import InputError
from twotower.data.sources.base import Source
from twotower.data.sources.registry import SOURCES, source_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "data-sets.md"


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> Source:
    return source_of(request.param)


class TestDataSource:
    """One class for all."""

    def test_its_name_is_one_word_in_small_letters(self, source):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", source.name)

    def test_says_what_it_is_on_what_terms_and_whom_to_cite(self, source):
        assert source.title.strip()
        assert "\n" not in source.title
        assert len(source.licence) > 10
        assert len(source.citation) > 10

    def test_has_a_home_page(self, source):
        assert source.home.startswith("https://") or source.drawn

    def test_its_archives_can_be_told_apart_and_checked(self, source):
        names = [archive.name for archive in source.archives]
        assert len(set(names)) == len(names)
        for archive in source.archives:
            assert archive.address.startswith(("https://", "http://"))
            assert archive.address.endswith(archive.name)
            assert archive.size is None or archive.size > 0
            assert archive.md5 is None or re.fullmatch(r"[0-9a-f]{32}", archive.md5)

    def test_a_category_stands_in_the_address_where_there_are_categories(self, source):
        for archive in source.archives:
            assert ("{category}" in archive.name) == ("{category}" in archive.address)
        asked = any("{category}" in archive.address for archive in source.archives)
        assert asked <= bool(source.categories)
        assert len(set(source.categories)) == len(source.categories)

    def test_its_size_is_the_sum_or_unknown(self, source):
        sizes = [archive.size for archive in source.archives]
        assert source.size == (None if not sizes or None in sizes else sum(size or 0 for size in sizes))

    def test_its_name_stands_in_the_reference(self, source):
        assert f"`{source.name}`" in PAGE.read_text(encoding="utf-8")

    def test_a_folder_without_its_files_is_refused_in_one_line(self, source, tmp_path):
        if source.drawn:
            assert not source.archives
            return
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / "other.txt").write_text("nothing of it")
        (tmp_path / "out").mkdir()
        with pytest.raises(InputError) as error:
            source.read(tmp_path / "copy", tmp_path / "out", next(iter(source.categories), None))
        assert "\n" not in str(error.value)
        assert "copy" in str(error.value)


def test_the_contract_refuses_a_set_whose_archives_have_one_name():
    """A fault planted in a record of the test's own is seen."""
    first = next(source for source in SOURCES.values() if source.archives)
    twice = Source("twice", "t", "https://x", "l", "c", first.read, (first.archives[0], first.archives[0]))
    with pytest.raises(AssertionError):
        TestDataSource().test_its_archives_can_be_told_apart_and_checked(twice)
