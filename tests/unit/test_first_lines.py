"""First lines of public docstrings: what it does, verb first, in the terms of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "twotower"

# Imperative, since most lines are. A verb that is missing here may be added; a noun may not.
VERBS = """
    Account Add Answer Append Apply Attach Attend Build Call Change Check Choose Close Combine Compare Compile Compute
    Configure Convert Convolve Copy Correct Count Cut Delete Dequantise Describe Diagnose Do Download Draw Drop Embed
    Encode End Estimate Evaluate Exchange Extract Fetch Fill Find Fit Flatten Flush Follow Forget Gather Give Guess
    Hand Handle Hold Index Join Keep Learn Leave Let List Load Log Look Make Map Measure Merge Move Name Narrow Note
    Number Offer Open Order Parse Pass Permute Pool Predict Prepare Print Project Put Quantise Raise Rank Read Recognise
    Recommend Record Reduce Refuse Release Remove Replace Report Represent Reserve Restore Resume Return Round Run Scale
    Schedule Score Search Select Send Serve Set Shorten Show Solve Sort Split Start Stop Store Sum Summarise Switch Take
    Test Train Tune Turn Undo Unpack Update Verify Warn Watch Weight Wrap Write Yield
"""
# Verbs that are nouns as well: "Score of every user" is a noun phrase.
NOUN_PHRASE = re.compile(r"^\w+ of ")
QUESTIONS = {"How", "What", "When", "Where", "Whether", "Which", "Who", "Whom", "Why"}
# Pictures where the field has a term: judge -> evaluate, cure -> remedy, floor -> baseline, who asks -> user.
PICTURES = re.compile(
    r"\b(anew|asker|blam\w+|cur(e|es|ed)|door|floor of|guests?|hangs? on|house|judg(e|es|ed|ing)|learnt|lies|likeness"
    r"|meets?|of now|of one piece|rooms?|sick|stands?|stood|tell(s|ing)?|told|weigh(s|ed)?|who asks|whom|wish(es)?)\b",
    re.IGNORECASE,
)
# Formats, units, machines and terms that stand in every textbook. Names of methods are spelled out in their file.
ACRONYMS = """
    API ASGI AUC CPU CSV CUDA FAISS GB GELU GPU GRU HTML HTTP IDF JSON MAP MLP MRR NDCG NULL PCA ROC SHA SIGTERM SIMD
    SNE SQL SVD SVG TF TOML TSV UMAP UTF DOUBLE FLOAT VARCHAR NAME DATA ID
"""
# Names of public data sets, of their files, and of one variable of the environment.
NAMES = {"ALS", "CC", "MIND", "TT", "UT"}


@dataclass(frozen=True)
class Line:
    """Hold one first line: where it is, of what, and the docstrings that may spell its acronyms out."""

    place: str
    of_module: bool
    text: str
    around: str


def lines_of(source: str, place: str, elsewhere: str = "") -> Iterator[Line]:
    """Yield the first line of the module and of everything public in it."""
    module = ast.parse(source)
    head = ast.get_docstring(module) or ""
    if head:
        yield Line(place, True, head.splitlines()[0], f"{head}\n{elsewhere}")

    def inside(node: ast.Module | ast.ClassDef, prefix: str, around: str) -> Iterator[Line]:
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if child.name.startswith("_") and not child.name.startswith("__"):
                continue
            text = ast.get_docstring(child) or ""
            name = f"{prefix}{child.name}"
            if text:
                yield Line(f"{place}:{child.lineno} {name}", False, text.splitlines()[0], f"{text}\n{around}")
            if isinstance(child, ast.ClassDef):
                yield from inside(child, f"{name}.", f"{text}\n{around}")

    yield from inside(module, "", f"{head}\n{elsewhere}")


def faults(line: Line) -> list[str]:
    """Return what is wrong with a first line, in words."""
    found = []
    first = re.split(r"\W", line.text, maxsplit=1)[0]
    plain = re.sub(r"`+[^`]*`+", "", line.text)
    if not line.text.endswith("."):
        found.append("it does not end with a period")
    if len(line.text) > 120:
        found.append(f"it has {len(line.text)} characters, more than 120")
    if first in QUESTIONS:
        found.append(f"it opens with {first!r}")
    elif not line.of_module and (first not in VERBS.split() or NOUN_PHRASE.match(line.text)):
        found.append(f"it opens with {first!r}, which is no verb in the imperative (VERBS)")
    found += [f"{match[0]!r} is a picture or out of use; say the term" for match in PICTURES.finditer(plain)]
    for acronym in set(re.findall(r"\b[A-Z]{2,}(?=s?\b)", plain)) - set(ACRONYMS.split()) - NAMES:
        if not spelled_out(acronym, line.around):
            found.append(f"{acronym} is spelled out neither there nor in the docstring of the file")
    return found


def spelled_out(acronym: str, text: str) -> bool:
    """Return whether "ACRONYM (words)", "words (ACRONYM)" or "(words, ACRONYM)" is in the text.

    The words have the acronym's letters in order; the first one begins a word.
    """
    flat = " ".join(text.split())
    after = re.findall(rf"\b\w?{acronym} \(([^)]*)\)", flat)
    before = [flat[: match.start()][-120:] for match in re.finditer(rf"(?<=[(,]) ?\w?{acronym}\b", flat)]
    letters = rf"\b{acronym[0]}" + "".join(rf".*?{letter}" for letter in acronym[1:])
    return any(re.search(letters, words, re.IGNORECASE) for words in after + before)


def all_lines() -> list[Line]:
    """Return every first line of the package; a folder's own docstring may spell out what its files use."""
    lines = []
    for path in sorted(PACKAGE.rglob("*.py")):
        folder = ast.get_docstring(ast.parse((path.parent / "__init__.py").read_text(encoding="utf-8"))) or ""
        lines += lines_of(path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGE)), folder)
    return lines


def test_every_public_first_line_says_what_it_does() -> None:
    lines = all_lines()
    assert len(lines) > 1_000
    found = [f"{line.place}: {fault}\n    {line.text}" for line in lines for fault in faults(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The mean over rows.", "no verb"),
        ("Score of every user with every item.", "no verb"),
        ("What the bundle keeps.", "opens with 'What'"),
        ("Return the mean over rows", "period"),
        ("Return " + "the mean of " * 10 + "rows.", "characters"),
        ("Judge a bundle again.", "'Judge'"),
        ("Return what the model is told of them.", "told"),
        ("Refuse to draw by XYZ.", "XYZ"),
    ],
)
def test_a_planted_bad_line_is_found(text: str, reason: str) -> None:
    source = f'"""Module of a test."""\n\ndef planted():\n    """{text}"""\n'
    found = [fault for line in lines_of(source, "planted.py") for fault in faults(line)]
    assert any(reason in fault for fault in found), found


@pytest.mark.parametrize(
    "source",
    [
        '"""Samplers of negatives."""\n\ndef draw():\n    """Draw ``count`` items."""\n',
        '"""ABC (alternating balanced cuts): a method."""\n\nclass Zoo:\n    """Score by ABC."""\n',
        '"""Alternating balanced cuts (ABC)."""\n\nclass Zoo:\n    def _told(self):\n        """What is private."""\n',
        'def draw():\n    """Write ``NAME.md`` and `what stands`."""\n',
    ],
)
def test_a_good_line_is_let_through(source: str) -> None:
    assert [fault for line in lines_of(source, "good.py") for fault in faults(line)] == []
