"""Keywords of texts by a library: a stand-in, and YAKE itself where it is installed."""

from __future__ import annotations

import sys
import types

import pytest

from twotower.audit.keywords import MOST, extract_keywords
from twotower.core.errors import InputError


class Words:
    """A stand-in for YAKE: the words of a text in their order, with scores."""

    def __init__(self, lan: str, n: int, top: int) -> None:
        assert lan == "en"
        self.top = top

    def extract_keywords(self, text: str) -> list[tuple[str, float]]:
        assert text.strip()
        return [(word, 0.5) for word in text.split()][: self.top]


def test_lower_case_each_once_and_none_of_a_blank_text(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("yake")
    monkeypatch.setattr(module, "KeywordExtractor", Words, raising=False)
    monkeypatch.setitem(sys.modules, "yake", module)
    assert extract_keywords(["Heat heat Ran", " \n", ""]) == [["heat", "ran"], [], []]


@pytest.mark.bad_input
def test_an_unknown_or_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean 'yake'"):
        extract_keywords(["Heat"], "yakee")
    monkeypatch.setitem(sys.modules, "yake", None)
    with pytest.raises(InputError, match=r"pip install 'twotower\[text\]'") as told:
        extract_keywords(["Heat"])
    assert "\n" not in str(told.value)


def test_yake_finds_names_and_takes_any_text() -> None:
    pytest.importorskip("yake")
    about = "Amazon GuardDuty detects threats. Learn how Amazon GuardDuty and IAM policies keep identities safe."
    found, *others = extract_keywords([about, "the of and", "!!! ???", "日本語", "123 456"])
    assert "amazon guardduty" in found
    assert len(found) <= MOST
    assert all(word == word.lower() and word.strip() for word in found)
    assert others[:2] == [[], []]
