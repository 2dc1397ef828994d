"""Two stages for all users in one file: the same as one by one, in parts, resumed, with users numbered otherwise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.models.base import Model, attach_items
from twotower.serving import second_stage
from twotower.serving.everyone import write_recommendations
from twotower.serving.pairs import Judgement, note_judgement
from twotower.serving.pipeline import Pipeline

Write = Callable[..., Model]
USERS = ["u2", "u3", "u4", "u5", "u6"]
TINY = {"field_dim": 4, "hidden": [8, 6]}
RANKERS = {
    "fit": {**TINY, "dim": 8, "meta_queries": 5},
    "cold": TINY,
    "int_tower": {**TINY, "dim": 6, "item_heads": 2, "user_heads": 3},
    "rank_tower": {**TINY, "dim": 6, "item_heads": 2, "user_heads": 3},
    "dat": {**TINY, "dim": 6},
    "two_tower": {"dim": 5, "field_dim": 3, "hidden": [4], "score": "mlp"},
    "sasrec": {},
    "item_cosine": {},
}


@pytest.fixture
def ranker_of(write: Write, titled_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Write the bundle of a second stage whose history features are attached, and return its folder."""

    def made(name: str, dataset: Dataset = titled_dataset) -> Path:
        with monkeypatch.context() as patched:
            build = write.__globals__["build_model"]

            def attached(*arguments: object) -> Model:
                model = build(*arguments)
                attach_items(model, dataset.all_items())
                return model

            patched.setitem(write.__globals__, "build_model", attached)
            write(tmp_path / f"then-{name}", dataset, name, parameters=RANKERS[name])
        return tmp_path / f"then-{name}"

    return made


def lists(path: Path) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for user, _, item, score in duckdb.sql(f"SELECT * FROM '{path}'").fetchall():
        found[user].append((item, score))
    return dict(found)


def alone(pipeline: Pipeline, k: int, **more: bool) -> dict[str, list[tuple[str, float]]]:
    return {
        user: [(answer.id, pytest.approx(answer.score, abs=1e-5)) for answer in pipeline.recommend(user, k=k, **more)]
        for user in USERS
    }


def pipeline_of(first: Path, second: Path, **more: float) -> Pipeline:
    return Pipeline(twotower.load(first), twotower.load(second), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", RANKERS)
def test_every_user_gets_what_each_gets_alone(
    name: str,
    weight: float,
    bundle_folder: Path,
    ranker_of: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(second_stage, "CPU_PAIRS", 12)  # two users at a time
    pipeline = pipeline_of(bundle_folder, ranker_of(name), candidates=6, weight=weight)
    done = write_recommendations(pipeline.retriever, tmp_path / "a.parquet", k=3, then=pipeline, part=4)
    assert lists(tmp_path / "a.parquet") == alone(pipeline, 3)
    assert done.users == 5


def test_the_second_stage_changes_the_order_and_sees_candidates_alone(
    bundle_folder: Path, ranker_of: Callable, tmp_path: Path
) -> None:
    pipeline = pipeline_of(bundle_folder, ranker_of("fit"), candidates=3)
    write_recommendations(pipeline.retriever, tmp_path / "first.parquet", k=3)
    write_recommendations(pipeline.retriever, tmp_path / "both.parquet", k=3, then=pipeline)
    first, both = lists(tmp_path / "first.parquet"), lists(tmp_path / "both.parquet")
    assert {user: {item for item, _ in found} for user, found in first.items()} == {
        user: {item for item, _ in found} for user, found in both.items()
    }
    assert first != both


def test_a_stopped_run_goes_on_and_another_second_stage_starts_anew(
    bundle_folder: Path, ranker_of: Callable, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    pipeline, other = (pipeline_of(bundle_folder, ranker_of(name), candidates=5) for name in ("fit", "dat"))
    to = tmp_path / "a.parquet"
    for then, resumed in ((pipeline, 3), (other, 0)):
        with pytest.raises(KeyboardInterrupt):
            write_recommendations(pipeline.retriever, to, k=2, then=pipeline, part=1, on_progress=stop)
        assert write_recommendations(pipeline.retriever, to, k=2, then=then, part=1).resumed == resumed
        assert lists(to) == alone(then, 2)


@pytest.fixture
def turned(titled_dataset: Dataset, tmp_path: Path) -> Dataset:
    """The same users in the other order, without features, and one more: who was u2 has row 6 here, and so on."""
    vocabulary = tmp_path / "turned" / "vocabulary"
    vocabulary.mkdir(parents=True)
    items = titled_dataset.folder / "vocabulary" / "items.parquet"  # type: ignore[operator]
    (vocabulary / "items.parquet").write_bytes(items.read_bytes())
    duckdb.sql(f"COPY (SELECT row, 'u' || (8 - row) AS id FROM range(2, 7) t(row)) TO '{vocabulary / 'users.parquet'}'")
    log = titled_dataset.log
    spans = [slice(int(log.offsets[row]), int(log.offsets[row + 1])) for row in (0, 1, 6, 5, 4, 3, 2)]
    offsets = torch.tensor([0, *(span.stop - span.start for span in spans)]).cumsum(0)
    assert log.times is not None
    parts = [torch.cat([part[span] for span in spans]) for part in (log.items, log.times)]
    return replace(titled_dataset, log=Log(offsets, *parts), folder=vocabulary.parent)


def test_users_that_the_second_bundle_numbers_otherwise_are_found_by_their_ids(
    turned: Dataset, bundle_folder: Path, ranker_of: Callable, tmp_path: Path
) -> None:
    pipeline = pipeline_of(bundle_folder, ranker_of("sasrec", turned), candidates=6)
    write_recommendations(pipeline.retriever, tmp_path / "a.parquet", k=3, then=pipeline)
    assert lists(tmp_path / "a.parquet") == alone(pipeline, 3)


def test_users_whom_the_second_bundle_does_not_know_are_refused_before_any_work(
    turned: Dataset, bundle_folder: Path, ranker_of: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = turned.folder / "vocabulary" / "users.parquet"  # type: ignore[operator]
    duckdb.sql(f"COPY (SELECT row, 'v' || row AS id FROM range(2, 7) t(row)) TO '{users}'")
    second = ranker_of("sasrec", turned)
    with pytest.raises(SystemExit) as end:
        main(["recommend", str(bundle_folder), "--all", "--then", str(second), "--to", str(tmp_path / "a.parquet")])
    assert end.value.code == 2
    assert "does not know 5 of the users, such as 'u2'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*a.parquet*"))


def test_who_has_no_history_and_no_features_keeps_the_first_order_with_a_warning(
    write: Write, titled_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = titled_dataset.log
    offsets = log.offsets.clone()
    offsets[3:] -= offsets[3].item()  # u2 has no event
    assert log.times is not None
    bare = replace(
        titled_dataset,
        schema=Schema(7, 10, (), titled_dataset.schema.item_features),
        user_features={},
        log=Log(offsets, log.items[5:], log.times[5:]),
    )
    write(tmp_path / "first", bare, "two_tower")
    write(tmp_path / "second", bare, "sasrec", parameters={})
    pipeline = pipeline_of(tmp_path / "first", tmp_path / "second", candidates=6)
    write_recommendations(pipeline.retriever, tmp_path / "first.parquet", k=3)
    write_recommendations(pipeline.retriever, tmp_path / "both.parquet", k=3, then=pipeline)
    first, both = lists(tmp_path / "first.parquet"), lists(tmp_path / "both.parquet")
    assert both["u2"] == first["u2"]
    assert both["u4"] == [(a.id, pytest.approx(a.score, abs=1e-5)) for a in pipeline.recommend("u4", k=3)]
    assert "1 users have neither a history nor features" in caplog.text


def test_a_pair_answers_as_it_was_judged(
    bundle_folder: Path, ranker_of: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = ranker_of("fit")
    judged = Judgement(4, 0.3, "ndcg@10", 5, 0.1, 0.1, 0.2, "events that neither learnt")
    note_judgement(twotower.load(bundle_folder).bundle, second, judged)
    with pytest.raises(SystemExit) as end:
        main(
            [
                "recommend",
                str(bundle_folder),
                "--all",
                "--then",
                str(second),
                "-k",
                "2",
                "--to",
                str(tmp_path / "a.parquet"),
            ]
        )
    assert end.value.code == 0
    assert "10 rows of 5 users" in capsys.readouterr().out
    assert lists(tmp_path / "a.parquet") == alone(pipeline_of(bundle_folder, second, candidates=4, weight=0.3), 2)


def test_more_items_than_candidates_are_refused(bundle_folder: Path, ranker_of: Callable, tmp_path: Path) -> None:
    pipeline = pipeline_of(bundle_folder, ranker_of("dat"), candidates=2)
    with pytest.raises(InputError, match="k = 3 of 2 candidates"):
        write_recommendations(pipeline.retriever, tmp_path / "a.parquet", k=3, then=pipeline)
