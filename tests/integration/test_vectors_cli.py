"""`twotower vectors` and `twotower compare` on small bundles."""

from __future__ import annotations

import json

import duckdb
import numpy as np
import pytest

import twotower
from twotower.cli.main import main


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    rows = [(user, (user + step) % 9, 60 * step) for user in range(8) for step in range(5)]
    events = {name: [row[place] for row in rows] for place, name in enumerate(("user", "item", "time"))}
    items = {"item": list(range(9)), "title": [f"film {i}" for i in range(9)], "x": [float(i) for i in range(9)]}
    data = twotower.Dataset.from_frames(events, items=items, unit="s", name="rings")
    folder = tmp_path_factory.mktemp("vectors")
    for name, more in (("two_tower", {"epochs": 1, "dim": 4}), ("ease", {}), ("popularity", {})):
        twotower.train(name, data, to=folder / name, device="cpu", **more)
    return folder


def call(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def test_vectors_lie_beside_their_ids_and_columns(bundles, tmp_path, capsys):
    assert call("vectors", bundles / "two_tower", "--to", tmp_path / "v.parquet") == 0
    assert "9 items" in capsys.readouterr().out
    found = duckdb.sql(f"SELECT id, vector, title, x FROM '{tmp_path / 'v.parquet'}'").fetchall()
    ids, vectors = twotower.load(bundles / "two_tower").item_vectors()
    assert [row[0] for row in found] == ids
    np.testing.assert_allclose([row[1] for row in found], vectors, rtol=1e-6)
    assert [row[2] for row in found] == [f"film {id}" for id in ids]
    assert [row[3] for row in found] == [float(id) for id in ids]


def test_users_too(bundles, tmp_path):
    assert call("vectors", bundles / "two_tower", "--to", tmp_path / "u.parquet", "--side", "users") == 0
    found = duckdb.sql(f"SELECT id, vector FROM '{tmp_path / 'u.parquet'}'").fetchall()
    ids, vectors = twotower.load(bundles / "two_tower").user_vectors([row[0] for row in found])
    np.testing.assert_allclose([row[1] for row in found], vectors, rtol=1e-6)
    assert sorted(ids) == [str(user) for user in range(8)]


def test_a_map_names_the_nearest_rows(bundles, tmp_path):
    assert call("vectors", bundles / "two_tower", "--to", tmp_path / "a.parquet", "--atlas") == 0
    columns = duckdb.sql(f"SELECT x, y, neighbors, vector FROM '{tmp_path / 'a.parquet'}'").fetchall()
    vectors = np.array([row[3] for row in columns], dtype=np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for place, (x, y, near, _) in enumerate(columns):
        assert np.isfinite([x, y]).all()
        distance = 1.0 - unit @ unit[place]
        expected = sorted((other for other in range(9) if other != place), key=lambda other: distance[other])
        assert near["ids"][0] == expected[0]
        assert sorted(near["ids"]) == sorted(expected)
        np.testing.assert_allclose(near["distances"], distance[near["ids"]], atol=1e-5)


def test_bundles_are_compared_with_a_paired_test(bundles, capsys):
    assert call("compare", bundles / "popularity", bundles / "ease", "--metric", "ndcg@10", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["metric"] for row in found["rows"]] == ["ndcg@10", "ndcg@10"]
    assert {row["corrected"] is None for row in found["rows"]} == {True, False}
    assert call("compare", bundles / "popularity", bundles / "ease") == 0
    assert "Holm" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vectors", "ease", "--to", "v.parquet"], "has no vectors"),
        (["vectors", "two_tower", "--to", "v.csv"], "name it *.parquet"),
        (["vectors", "two_tower", "--to", "v.parquet", "--side", "item"], "did you mean 'items'"),
        (["compare", "ease"], "two different bundles"),
        (["compare", "ease", "ease"], "two different bundles"),
        (["compare", "ease", "popularity", "--metric", "ndgc@10"], "did you mean 'ndcg@10'"),
        (["compare", "ease", "popularity", "--data", "no.data"], "not a prepared data set"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_no_file(bundles, words, said, tmp_path, capsys):
    placed = [
        bundles / word if (bundles / word).is_dir() else tmp_path / word if "." in word else word for word in words
    ]
    assert call(*placed) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
