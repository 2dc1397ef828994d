"""Vectors from every kind of file, and one clear line for every bad one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from twotower.core.errors import InputError
from twotower.diagnosis.load import load_table
from twotower.diagnosis.table import describe_account

VECTORS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


def write_parquet(path: Path, query: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")


class TestArrays:
    def test_npy_is_mapped_from_disk(self, tmp_path: Path) -> None:
        np.save(tmp_path / "v.npy", VECTORS)
        table = load_table(tmp_path / "v.npy")
        assert isinstance(table.vectors, np.memmap)
        np.testing.assert_array_equal(table.vectors, VECTORS)

    def test_npz_takes_what_lies_beside_the_vectors(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "v.npz", anything=VECTORS, id=np.arange(7), popularity=np.arange(7) * 2)
        table = load_table(tmp_path / "v.npz")
        assert table.ids == [str(i) for i in range(7)]
        assert table.popularity is not None
        assert table.popularity.tolist() == [0, 2, 4, 6, 8, 10, 12]

    def test_npz_with_two_arrays_asks_which(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "v.npz", users=VECTORS, items=VECTORS + 1)
        with pytest.raises(InputError, match=r"name one with --column; it holds users \(7, 3\), items \(7, 3\)"):
            load_table(tmp_path / "v.npz")
        np.testing.assert_array_equal(load_table(tmp_path / "v.npz", column="items").vectors, VECTORS + 1)
        with pytest.raises(InputError, match="no array 'item'; did you mean 'items'"):
            load_table(tmp_path / "v.npz", column="item")

    def test_objects_are_not_unpickled(self, tmp_path: Path) -> None:
        np.save(tmp_path / "v.npy", np.array([{}], dtype=object), allow_pickle=True)
        np.savez(tmp_path / "v.npz", a=np.array([{}], dtype=object))
        for name in ("v.npy", "v.npz"):
            with pytest.raises(InputError, match="not a readable"):
                load_table(tmp_path / name)

    def test_safetensors(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file({"bias": torch.ones(4), "weight": torch.from_numpy(VECTORS).bfloat16()}, tmp_path / "v.safetensors")
        assert load_table(tmp_path / "v.safetensors").vectors.shape == (7, 3)


class TestTables:
    def test_a_folder_above_a_file_is_no_column(self, tmp_path: Path) -> None:
        (tmp_path / "id=9").mkdir()
        rows = ", ".join(f"('a{row}', {vector.tolist()})" for row, vector in enumerate(VECTORS))
        write_parquet(tmp_path / "id=9" / "v.parquet", f"SELECT * FROM (VALUES {rows}) AS t(id, vector)")
        assert load_table(tmp_path / "id=9" / "v.parquet").ids == [f"a{row}" for row in range(7)]

    def test_parquet_list_column(self, tmp_path: Path) -> None:
        write_parquet(
            tmp_path / "v.parquet",
            "SELECT 'n' || i AS item_id, [i, i * 2.5, -1]::FLOAT[] AS embedding, 3 * i AS count FROM range(5) t(i)",
        )
        table = load_table(tmp_path / "v.parquet")
        assert table.vectors.tolist() == [[i, i * 2.5, -1] for i in range(5)]
        assert table.ids == ["n0", "n1", "n2", "n3", "n4"]
        assert table.popularity is not None
        assert table.popularity.tolist() == [0, 3, 6, 9, 12]

    def test_parquet_numeric_columns(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "v.parquet", "SELECT i AS id, i + 0.5 AS a, -i AS b, 'x' AS note FROM range(4) t(i)")
        table = load_table(tmp_path / "v.parquet")
        assert table.vectors.tolist() == [[i + 0.5, -i] for i in range(4)]
        assert table.ids == ["0", "1", "2", "3"]

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("SELECT [1, 2]::FLOAT[] AS v UNION ALL SELECT [1, 2, 3]", "holds lists of 2 to 3 numbers"),
            ("SELECT [1, 2]::FLOAT[] AS v UNION ALL SELECT NULL", "is empty in 1 of 2 rows"),
            ("SELECT 'a' AS x", "neither a list column nor numeric columns"),
            ("SELECT ['a', 'b'] AS v", "not lists of numbers"),
        ],
    )
    def test_bad_parquet(self, tmp_path: Path, query: str, message: str) -> None:
        write_parquet(tmp_path / "v.parquet", query)
        with pytest.raises(InputError, match=message):
            load_table(tmp_path / "v.parquet")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("1,2\n3,4\n", [[1, 2], [3, 4]]),
            ("id,a,b\nx,1,2\n\ny,3,4\n", [[1, 2], [3, 4]]),
            ('title,embedding\n"one, two","[1, 2]"\nb,"[3, 4]"\n', [[1, 2], [3, 4]]),
            ("\ufeffa,b\n1,2\n3,4\n", [[1, 2], [3, 4]]),
        ],
    )
    def test_csv(self, tmp_path: Path, text: str, expected: list[list[float]]) -> None:
        (tmp_path / "v.csv").write_text(text, encoding="utf-8")
        assert load_table(tmp_path / "v.csv").vectors.tolist() == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n1,2\n3\n", "line 3 has 1 cells, the first line has 2"),
            ("a,b\n1,2\n3,four\n", "line 3, column 'b' holds 'four', not a number"),
            ("1,2\n3,\n", "line 2, column '2' holds '', not a number"),
            ("", "the file is empty"),
            ("a,b\n", "no line of numbers"),
            ('v\n"[1, 2]"\n', "not a number"),
            ('embedding\n"[1, 2]"\n"[1]"\n', "line 3, column 'embedding' holds 1 numbers, earlier lines 2"),
            ("embedding\nabc\n", r"line 2, column 'embedding' holds 'abc', not a list of numbers"),
            ("id,a,popularity\nx,1,many\n", "line 2, column 'popularity' holds 'many', not a number"),
        ],
    )
    def test_bad_csv_names_line_and_column(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "v.csv").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            load_table(tmp_path / "v.csv")

    @pytest.mark.parametrize("name", ["v.jsonl", "v.ndjson", "v.json", "v.jsonl.gz"])
    def test_json_lines_with_lists(self, tmp_path: Path, name: str) -> None:
        lines = [
            {"id": f"00{row}", "vector": vector.tolist(), "title": f"é {row}", "count": 3 * row, "year": 1990}
            for row, vector in enumerate(VECTORS)
        ]
        text = "\n\n".join(json.dumps(line | ({"late": [1]} if line["count"] == 9 else {})) for line in lines)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        table = load_table(tmp_path / name)
        np.testing.assert_array_equal(table.vectors, VECTORS.astype(float))
        assert table.ids == [f"00{row}" for row in range(7)]
        assert table.titles is not None
        assert table.titles[3] == "é 3"
        assert table.popularity is not None
        assert table.popularity.tolist() == [0, 3, 6, 9, 12, 15, 18]
        assert describe_account({"rows": 7, **table.account.to_json()}) == (
            "read: 7 rows; vector: vector; id: id; title: title; popularity: count; left out: year (stands beside the "
            "lists), late (stands beside the lists)"
        )

    def test_json_lines_with_numbers(self, tmp_path: Path) -> None:
        lines = [
            {"key": 2**60 + row, "a": row + 0.5, "b": -row, "code": "7", "sold": True, "more": {"x": 1}, "none": None}
            for row in range(4)
        ]
        (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, lines)))
        table = load_table(tmp_path / "v.jsonl")
        assert table.vectors.tolist() == [[row + 0.5, -row] for row in range(4)]
        assert table.ids == [str(2**60 + row) for row in range(4)]
        assert table.account.left_out["sold"] == "true or false"
        assert table.account.left_out["more"] == "an object"
        assert table.account.left_out["none"] == "empty"

    def test_json_lines_with_two_lists_ask_which(self, tmp_path: Path) -> None:
        (tmp_path / "v.jsonl").write_text('{"users": [1, 2], "items": [3, 4], "id": 1}\n')
        with pytest.raises(InputError, match="which key holds the vectors"):
            load_table(tmp_path / "v.jsonl")
        assert load_table(tmp_path / "v.jsonl", column="items").vectors.tolist() == [[3, 4]]
        with pytest.raises(InputError, match="no key 'item'; did you mean 'items'"):
            load_table(tmp_path / "v.jsonl", column="item")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "v.jsonl: the file is empty"),
            ('[{"vector": [1, 2]}]', "line 1 is no JSON object; write one object a line"),
            ('{"v": [1, 2]}\n\n{"v": [1', "line 3 is no JSON object"),
            ('{"v": [1, 2]}\n{"v": [1, 2], "v": [3, 4]}', "line 2 has the key 'v' twice"),
            ('{"v": [1, 2]}\n{"v": [1]}', "line 2, column 'v' holds 1 numbers, earlier lines 2"),
            ('{"v": [1, 2]}\n{"v": [1, null]}', r"line 2, column 'v' holds \[1, None\], not a list of numbers"),
            ('{"v": [1, 2]}\n{"w": [1, 2]}', "which key holds the vectors"),
            ('{"v": [1, 2]}\n{"id": 3}', "line 2, column 'v' holds '', not a list of numbers"),
            ('{"a": 1, "b": 2}\n{"a": 1}', "line 2, column 'b' holds '', not a number"),
            ('{"a": 1, "b": 2}\n{"a": 1, "b": "x"}', "line 2, column 'b' holds 'x', not a number"),
            ('{"id": 1, "title": "x", "genre": "y"}', "no key holds a list of numbers or a number; it has id, title"),
            ('{"popularity": [1, 2]}', r"line 1, column 'popularity' holds '\[1, 2\]', not a number"),
            ('{"v": [1, 2], "popularity": "many"}', "line 1, column 'popularity' holds 'many', not a number"),
        ],
    )
    def test_bad_json_lines_name_line_and_key(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "v.jsonl").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message) as error:
            load_table(tmp_path / "v.jsonl")
        assert "\n" not in str(error.value)

    def test_binary_csv(self, tmp_path: Path) -> None:
        (tmp_path / "v.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match="not a readable text table"):
            load_table(tmp_path / "v.csv")


class TestIndexes:
    @pytest.mark.parametrize("kind", ["Flat", "IDMap,Flat", "HNSW8,Flat", "IVF2,Flat"])
    def test_faiss(self, tmp_path: Path, kind: str) -> None:
        faiss = pytest.importorskip("faiss")
        index = faiss.index_factory(3, kind)
        rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
        index.train(rows)
        if kind.startswith("IDMap"):
            index.add_with_ids(rows, np.arange(200) + 50)
        else:
            index.add(rows)
        faiss.write_index(index, str(tmp_path / "v.faiss"))
        table = load_table(tmp_path / "v.faiss")
        np.testing.assert_allclose(table.vectors, rows, rtol=1e-6)
        assert (table.ids is None) == (not kind.startswith("IDMap"))

    def test_not_an_index(self, tmp_path: Path) -> None:
        pytest.importorskip("faiss")
        (tmp_path / "v.faiss").write_bytes(b"no index")
        with pytest.raises(InputError, match="not a readable FAISS index"):
            load_table(tmp_path / "v.faiss")

    def test_bundle(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        (tmp_path / "items").mkdir()
        with pytest.raises(InputError, match="not a bundle with item states"):
            load_table(tmp_path)
        save_file({"state": torch.from_numpy(VECTORS)}, tmp_path / "items" / "states.safetensors")
        np.save(tmp_path / "items" / "ids.npy", np.arange(2, 9))
        table = load_table(tmp_path)
        assert table.ids == [str(i) for i in range(2, 9)]
        np.save(tmp_path / "items" / "ids.npy", np.arange(2, 5))
        with pytest.raises(InputError, match="7 item states but 3 ids"):
            load_table(tmp_path)


def test_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_table(tmp_path / "nothing.npy")
    (tmp_path / "v.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"cannot read '\.pt'; give \.npy"):
        load_table(tmp_path / "v.pt")
    (tmp_path / "v.npz").write_bytes(b"x")
    with pytest.raises(InputError, match="not a readable"):
        load_table(tmp_path / "v.npz")
