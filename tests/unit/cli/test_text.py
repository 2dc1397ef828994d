"""Text of a user reaches the terminal as text: brackets stay, control characters are shown."""

from __future__ import annotations

import io
import json
import sys

import pytest

from twotower.cli import answers
from twotower.cli.main import _fail, main
from twotower.core.terminal import json_text
from twotower.serving.retriever import Answer
from twotower.serving.vocabulary import Record

TITLE = "[rec] again [/] :heart: \x1b[31m \u202e"
SHOWN = "[rec] again [/] :heart: \\x1b[31m \\u202e"


def test_titles_are_shown_letter_for_letter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    seen = [Record("[i]8", {"[title]": "[u]"})]
    answers.print_beside(f"For user {TITLE}", [Answer("[b]7", 0.5, {"[title]": TITLE})], "[/s]", seen)
    out = capsys.readouterr().out
    assert SHOWN in out.replace("\n", " ")
    assert all(text in out for text in ("[b]7", "[/s]", "[i]8", "[u]"))
    assert not {"\x1b", "\u202e"} & set(out)


def test_an_error_line_shows_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert _fail("a\rb\x1b]0;title\x07 [/x]") == 2
    assert capsys.readouterr().err == "error: a b\\x1b]0;title\\x07 [/x]\n"


def test_json_keeps_the_text_and_obeys_nothing() -> None:
    written = json_text({"title": TITLE + "\x9b"})
    assert json.loads(written) == {"title": TITLE + "\x9b"}
    assert not {"\x1b", "\u202e", "\x9b"} & set(written)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_of_few_letters_loses_none(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding=encoding))
    with pytest.raises(SystemExit):
        main(["--version"])
    title = "Amélie 東京 \U0001f3b5"
    print(json_text({"title": title}), flush=True)
    line = screen.getvalue().decode(encoding).splitlines()[-1]
    assert json.loads(line) == {"title": title}
    assert ("é" in line) == (encoding == "cp1252")
