import unicodedata

import duckdb
import pytest

from twotower.data.prepare.text import words, words_sql


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "Heat (1995)",
        "snake_case don't",
        "ΟΔΟΣ ΣΑΣ",
        "İstanbul",
        "नमस्ते दुनिया",
        "東京 2020年",
        "e\u0301te\u0301",
        "Ⅷ ½ x²",
    ],
)
def test_sql_and_python_find_the_same_words(text):
    found = duckdb.connect().execute(f"SELECT {words_sql('t')} FROM (SELECT ? AS t)", [text]).fetchone()
    assert found is not None
    assert words(text) == found[0]


@pytest.mark.slow
def test_both_agree_on_every_letter_that_python_knows():
    letters = [chr(code) for code in range(1, 0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co")]
    # A letter between two others shows whether it joins or parts them, and what it is lower-cased to.
    texts = [f"a{letter}b" for letter in letters]
    found = (
        duckdb.connect().execute(f"SELECT {words_sql('t')} FROM (SELECT unnest(?::VARCHAR[]) AS t)", [texts]).fetchall()
    )
    wrong = [hex(ord(letter)) for letter, text, row in zip(letters, texts, found, strict=True) if words(text) != row[0]]
    assert wrong == []
