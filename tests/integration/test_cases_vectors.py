"""What is no coordinate stays out of the space, and a damaged file is one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import numpy as np
import pytest

from twotower.cli.main import main

SPACE = np.random.default_rng(0).normal(size=(60, 16))
NAMES = [f"d{place}" for place in range(16)]


@pytest.fixture
def diagnose(capsys):
    def run(path: Path, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["diagnose", str(path), *words])
        return int(stop.value.code), *capsys.readouterr()  # type: ignore[return-value, arg-type]

    return run


def write_csv(path: Path, header: list[str] | None, *before: object) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        if header is not None:
            lines.writerow(header)
        for row, vector in enumerate(SPACE):
            lines.writerow([*(column[row] for column in before), *vector])  # type: ignore[index]
    return path


ROWS, SHUFFLED = range(60), np.random.default_rng(1).permutation(60) + 700
WORDS = [f"w{row}" for row in range(60)]


@pytest.mark.parametrize(
    ("header", "before", "id_column"),
    [
        ([str(place) for place in range(16)], (), None),
        (["", *NAMES], (ROWS,), "unnamed column 1"),
        (["Unnamed: 0", *NAMES], (ROWS,), "Unnamed: 0"),
        (["movieId", *NAMES], (SHUFFLED,), "movieId"),
        (["asin", *(f"x_{name}" for name in "abcdefghijklmnop")], (SHUFFLED,), "asin"),
        (["number", *(f"x_{name}" for name in "abcdefghijklmnop")], (ROWS,), "number"),
        (["", *map(str, range(16))], (ROWS,), "unnamed column 1"),
        (["index", "id", *NAMES], (ROWS, WORDS), "id"),
        (["genre", "year", *NAMES], (WORDS, [1990] * 60), None),
        (["label", "title", *NAMES], ([row % 3 for row in ROWS], WORDS), None),
        (None, (), None),
        (None, (ROWS,), "column 1"),
        (None, (WORDS,), "column 1"),
    ],
)
def test_keys_headers_and_labels_are_no_coordinates(tmp_path, diagnose, header, before, id_column) -> None:
    path = write_csv(tmp_path / "v.csv", header, *before)
    status, out, _ = diagnose(path)
    assert (status, out.splitlines()[0]) == (0, "HEALTHY  60 vectors of 16 dimensions")
    assert out.splitlines()[1].startswith("read: 60 rows; vector: ")
    assert json.loads(diagnose(path, "--json")[1])["read"]["id"] == id_column


def test_whole_numbers_can_be_coordinates(tmp_path, diagnose) -> None:
    whole = (SPACE * 40).round().astype(int)
    np.savetxt(tmp_path / "v.csv", whole, fmt="%d", delimiter=",", header=",".join("abcdefghijklmnop"), comments="")
    assert diagnose(tmp_path / "v.csv")[1].startswith("HEALTHY  60 vectors of 16 dimensions\n")


@pytest.mark.parametrize("key", ["__index_level_0__", "year_of_nothing", "item_id"])
def test_a_key_in_parquet_is_no_coordinate(tmp_path, diagnose, key) -> None:
    import duckdb

    path = write_csv(tmp_path / "v.csv", [key, *NAMES], ROWS)
    target = tmp_path / "v[1].parquet"
    duckdb.sql(f"COPY (FROM read_csv('{path}', header = true)) TO '{target}' (FORMAT parquet)")
    assert diagnose(target)[1].startswith("HEALTHY  60 vectors of 16 dimensions\n")
    assert json.loads(diagnose(target, "--json")[1])["read"]["id"] == key


@pytest.mark.parametrize("kind", ["IDMap,RR16,Flat", "RR16,IVF4,Flat", "IVF4,Flat", "IDMap,Flat"])
def test_own_ids_of_an_index_name_real_vectors(tmp_path, kind) -> None:
    import faiss

    from twotower.diagnosis.load import load_table

    rows, ids = np.tile(SPACE, (4, 1)).astype("f4") + np.arange(240, dtype="f4")[:, None] / 100, np.arange(240) * 3 + 50
    prefix, _, rest = kind.partition("IDMap,")
    inner = faiss.index_factory(16, rest if not prefix else kind)
    index = faiss.IndexIDMap(inner) if not prefix else inner
    index.train(rows)
    index.add_with_ids(rows, ids)
    faiss.write_index(index, str(tmp_path / "v.faiss"))
    table = load_table(tmp_path / "v.faiss")
    assert table.ids == [str(number) for number in ids]
    np.testing.assert_allclose(table.vectors, rows, atol=1e-4)


@pytest.mark.slow
def test_changed_bytes_end_in_a_verdict_or_one_line(tmp_path, diagnose) -> None:
    import duckdb
    import faiss
    import torch
    from safetensors.torch import save_file

    np.save(tmp_path / "v.npy", SPACE)
    np.savez_compressed(tmp_path / "v.npz", vectors=SPACE, id=np.arange(60))
    save_file({"v": torch.from_numpy(SPACE)}, tmp_path / "v.safetensors")
    path = write_csv(tmp_path / "v.csv", NAMES)
    duckdb.sql(f"COPY (FROM read_csv('{path}')) TO '{tmp_path / 'v.parquet'}' (FORMAT parquet)")
    index = faiss.IndexFlatIP(16)
    index.add(SPACE.astype("f4"))
    faiss.write_index(index, str(tmp_path / "v.faiss"))
    random = np.random.default_rng(7)
    for suffix in ("npy", "npz", "safetensors", "csv", "parquet", "faiss"):
        whole = (tmp_path / f"v.{suffix}").read_bytes()
        for _ in range(3 if suffix == "faiss" else 12):
            changed = bytearray(whole)
            for place in random.integers(0, random.choice([60, len(whole)]), size=3):
                changed[place] ^= int(random.integers(1, 256))
            (tmp_path / f"bad.{suffix}").write_bytes(changed)
            status, out, error = diagnose(tmp_path / f"bad.{suffix}")
            one_line = status == 2 and error.startswith("error: ") and error.count("\n") == 1
            assert status in (0, 3) or one_line, (suffix, status, out, error)


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [1e300, np.inf])
def test_numbers_too_large_are_one_line(tmp_path, diagnose, value) -> None:
    space = SPACE.copy()
    space[3, 2] = value
    np.save(tmp_path / "v.npy", space)
    status, _, error = diagnose(tmp_path / "v.npy")
    assert (status, error.count("\n")) == (2, 1)
    assert "3" in error


def test_what_pandas_notes_in_a_parquet_file_is_read_and_its_index_is_no_coordinate(tmp_path, diagnose) -> None:
    columns = ", ".join(f"random() - 0.5 AS d{place}" for place in range(16))
    noted = json.dumps({"index_columns": ["key"], "columns": [], "pandas_version": "2.2.0"}).replace("'", "''")
    duckdb.sql(
        f"COPY (SELECT {columns}, range * 0.5 AS key FROM range(60)) TO '{tmp_path / 'framed.parquet'}' "
        f"(FORMAT parquet, KV_METADATA {{pandas: '{noted}'}})"
    )
    status, out, err = diagnose(tmp_path / "framed.parquet")
    assert (status, err) == (0, "")
    assert out.startswith("HEALTHY  60 vectors of 16 dimensions")
    assert "id: key" in out
