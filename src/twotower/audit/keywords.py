"""Keywords of raw texts by a library: part of the extra ``[text]``, beside the sentence encoders."""

from __future__ import annotations

from collections.abc import Sequence

from twotower.core.errors import InputError, unknown_name

FEATURE = "text_keywords"
"""Name of the feature, and of the column of a table, that holds an item's keywords."""
IDF = "idf"
"""Stands for no library: the semantic model takes the words of highest idf."""
LIBRARIES = (IDF, "yake")
MOST = 8
"""Keywords of a text, at most."""
WORDS = 2
"""Words of a keyword, at most: names often have two."""


def extract_keywords(texts: Sequence[str], library: str = "yake") -> list[list[str]]:
    """Extract the keywords of each text, lower case, best first, each once; none for a text without words.

    Source: Campos et al., "YAKE! Keyword extraction from single documents using multiple local features", 2020, by the
    authors' package, with its English stop words. It judges each text alone, and needs neither a model nor the network.

    Raises:
        InputError: if the library is unknown or missing (names what to install).
    """
    if library not in LIBRARIES[1:]:
        raise unknown_name("keyword library", library, LIBRARIES[1:])
    try:
        import yake
    except ImportError:
        raise InputError(f"keywords by '{library}' need its package: pip install 'twotower[text]'") from None
    extractor = yake.KeywordExtractor(lan="en", n=WORDS, top=MOST)
    return [
        list(dict.fromkeys(word.lower() for word, _ in extractor.extract_keywords(text))) if text.strip() else []
        for text in texts
    ]
