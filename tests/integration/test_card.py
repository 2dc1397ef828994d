"""The model card of a bundle: what it says, that it is hashed and follows changes, that a text stays a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import twotower
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.serving.bundle import Bundle, changing_bundle

Write = Callable[..., Model]
SOURCE = {"name": "tiny", "home": "https://example.org", "licence": "CC BY 4.0", "citation": "Someone, 2020"}


def test_the_card_says_what_the_bundle_holds(write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    told = replace(titled_dataset, manifest={"name": "tiny", "counts": {"events": 18_000}, "source": SOURCE})
    write(
        tmp_path / "bundle",
        told,
        intervals={"recall@10": [0.2, 0.3]},
        diagnosis={"verdict": "healthy", "statistics": {"mean_cosine": 0.125}},
        learnt="all events",
    )
    text = (tmp_path / "bundle" / "README.md").read_text()
    for line in (
        "# two_tower on tiny",
        "| events | 18,000 |",
        "| licence | CC BY 4.0 |",
        "| user features | city (categorical), age (numeric) |",
        "| model.dim | 5 |",
        "| training.seed | 3 |",
        "| recall@10 | 0.2500 | 0.2000 to 0.3000 |",
        "Item vectors: **healthy**.",
        "| mean_cosine | 0.1250 |",
        "It has learnt from all events.",
        f"| twotower | {twotower.__version__} |",
    ):
        assert line in text.splitlines(), text


def test_what_is_not_known_is_said(bundle_folder: Path) -> None:
    text = (bundle_folder / "README.md").read_text()
    assert "| licence | not known" in text
    assert "| recall@10 | 0.2500 |  |" in text
    assert "not checked" in text


def test_the_card_is_hashed_and_follows_what_changes(bundle_folder: Path) -> None:
    with changing_bundle(bundle_folder) as (_, manifest):
        manifest["metrics"] = {"recall@10": 0.5}
    assert "| recall@10 | 0.5000 |" in (bundle_folder / "README.md").read_text()
    Bundle.load(bundle_folder)
    (bundle_folder / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README.md was changed"):
        Bundle.load(bundle_folder)


def test_a_card_of_ones_own_stays(bundle_folder: Path) -> None:
    for text in ("# Mine\n", None):
        with changing_bundle(bundle_folder) as (copy, _):
            if text is not None:
                (copy / "README.md").write_text(text)
        assert (bundle_folder / "README.md").read_text() == "# Mine\n"


def test_a_text_of_the_data_stays_a_text(write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    hostile = "a|b\n# head <script>x</script> [link](http://x) `code`"
    write(tmp_path / "bundle", replace(titled_dataset, manifest={"name": hostile, "source": {"licence": hostile}}))
    text = (tmp_path / "bundle" / "README.md").read_text()
    assert "<script" not in text
    assert "\n# head" not in text
    assert "| licence | a\\|b # head &lt;script>x&lt;/script> \\[link](http://x) \\`code\\` |" in text


def test_the_licence_travels_from_the_fetched_files_to_the_card(tmp_path: Path, write: Write) -> None:
    events = "".join(f"u{user},i{(user + step) % 5},{step}\n" for user in range(6) for step in range(4))
    (tmp_path / "log.csv").write_text("user,item,time\n" + events)
    (tmp_path / "spec.toml").write_text(
        'name = "fetched"\n[interactions]\npath = "log.csv"\nuser = "user"\nitem = "item"\ntime = "time"\n'
    )
    (tmp_path / "source.json").write_text(json.dumps({**SOURCE, "origin": "elsewhere", "category": None}))
    dataset = Dataset.prepare(tmp_path / "spec.toml", tmp_path / "prepared")
    assert dataset.manifest["source"] == SOURCE
    write(tmp_path / "bundle", dataset, "popularity")
    assert "| licence | CC BY 4.0 |" in (tmp_path / "bundle" / "README.md").read_text()
