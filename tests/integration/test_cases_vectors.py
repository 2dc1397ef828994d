"""What is no coordinate stays out of the space, and a damaged file is one line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.diagnosis.readers.parquet import read_parquet
from twotower.diagnosis.readers.text import read_text

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


def written(separator: str, *, comma: bool = False, header: bool = True) -> str:
    """The space as text, with ids and a title that holds the other separators."""
    lines = [["id", "title", *NAMES]] if header else []
    lines += [[f"k{row}", '"a, b; c"', *(f"{number:.4f}" for number in vector)] for row, vector in enumerate(SPACE)]
    if comma:
        lines = [[cell.replace(".", ",") if place > 1 else cell for place, cell in enumerate(line)] for line in lines]
    return "".join(separator.join(line) + "\n" for line in lines)


def objects(*, lists: bool) -> str:
    """The space as JSON lines, with ids and titles."""
    rows = [vector.round(4).tolist() for vector in SPACE]
    vectors = [{"vector": row} if lists else dict(zip(NAMES, row, strict=True)) for row in rows]
    more = {"title": "a, b; c", "genre": "x", "made": {"by": 1}}
    return "".join(json.dumps({"id": f"k{row}", **more, **vector}) + "\n" for row, vector in enumerate(vectors))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.csv", written(";").encode()),
        ("v.jsonl", objects(lists=True).encode()),
        ("v.json", objects(lists=False).encode("utf-16")),
        ("v.ndjson.gz", gzip.compress(objects(lists=True).encode())),
        ("v.csv", written(";", comma=True).encode()),
        ("v.csv", written("\t").encode()),
        ("v.tsv", written("\t").encode()),
        ("v.csv", written(",").encode("utf-16")),
        ("v.csv", written(";", comma=True).encode("utf-16")),
        ("v.csv", gzip.compress(written(",").encode())),
        ("v.csv.gz", gzip.compress(written(";", comma=True).encode())),
        ("v.csv.gz", written(",").encode()),
        ("v.tsv.gz", gzip.compress(written("\t").encode())),
    ],
)
@pytest.mark.usefixtures("quick_map")
def test_a_table_is_healthy_however_it_is_written(tmp_path, diagnose, name, content) -> None:
    from twotower.diagnosis.load import load_table

    (tmp_path / name).write_bytes(content)
    status, out, _ = diagnose(tmp_path / name, "--html", str(tmp_path / "page.html"))
    assert (status, out.splitlines()[0]) == (0, "HEALTHY  60 vectors of 16 dimensions")
    table = load_table(tmp_path / name)
    assert (table.ids[:2], table.titles[0]) == (["k0", "k1"], "a, b; c")  # type: ignore[index]
    np.testing.assert_allclose(table.vectors, SPACE, atol=1e-4)


def test_numbers_with_decimal_commas_and_no_header_are_coordinates(tmp_path, diagnose) -> None:
    rows = "".join(";".join(f"{number:.4f}".replace(".", ",") for number in vector) + "\n" for vector in SPACE)
    (tmp_path / "v.csv").write_text(rows)
    assert diagnose(tmp_path / "v.csv")[1].startswith("HEALTHY  60 vectors of 16 dimensions\n")


def test_a_comma_after_each_row_is_an_empty_column_and_no_id(tmp_path, diagnose) -> None:
    (tmp_path / "v.csv").write_text("".join(",".join(map(str, vector)) + ",\n" for vector in SPACE))
    status, out, _ = diagnose(tmp_path / "v.csv")
    assert (status, out.splitlines()[0]) == (0, "HEALTHY  60 vectors of 16 dimensions")
    assert "left out: column 17 (empty)" in " ".join(out.split())


def test_a_comma_after_each_row_and_the_names_is_no_id_either(tmp_path, diagnose) -> None:
    names = "id," + ",".join(f"d{place}" for place in range(16)) + ",\n"
    rows = "".join(f"a{row}," + ",".join(map(str, vector)) + ",\n" for row, vector in enumerate(SPACE))
    (tmp_path / "v.csv").write_text(names + rows)
    _, out, _ = diagnose(tmp_path / "v.csv")
    assert "id: id; left out: unnamed column 18 (empty)" in " ".join(out.split())
    names = ",".join(f"d{place}" for place in range(16)) + ",\n"
    (tmp_path / "bare.csv").write_text(names + "".join(",".join(map(str, vector)) + ",\n" for vector in SPACE))
    _, out, _ = diagnose(tmp_path / "bare.csv")
    assert "(16 columns); left out: unnamed column 17 (empty)" in " ".join(out.split())


def test_half_a_packed_table_is_one_line(tmp_path, diagnose) -> None:
    (tmp_path / "v.csv.gz").write_bytes(gzip.compress(written(",").encode())[:200])
    status, _, error = diagnose(tmp_path / "v.csv.gz")
    assert (status, error.count("\n")) == (2, 1)
    assert "v.csv.gz: not a readable text table" in error


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


def write_array(path: Path, array: np.ndarray) -> Path:
    """Write a matrix without column names, in the format of the ending."""
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, states=array)
    elif path.suffix == ".safetensors":
        save_file({"states": torch.from_numpy(array.copy()).float()}, path)
    elif path.suffix == ".csv":
        rows = "".join(f'"{row}"\n' for row in array.tolist())
        path.write_text(f"vector\n{rows}", encoding="utf-8")
    else:
        listed = ", ".join(f"({row})" for row in array.tolist())
        duckdb.sql(f"COPY (SELECT * FROM (VALUES {listed}) AS t(vector)) TO '{path}' (FORMAT parquet)")
    return path


@pytest.mark.parametrize("name", ["v.npy", "v.npz", "v.safetensors", "v.csv", "v.parquet"])
@pytest.mark.parametrize(("first", "shown"), [(0, "0"), (701, "701")])
def test_row_numbers_in_an_array_are_no_coordinate(tmp_path, diagnose, name, first, shown) -> None:
    from twotower.diagnosis.load import load_table

    path = write_array(tmp_path / name, np.column_stack([np.arange(60.0) + first, SPACE]))
    status, out, _ = diagnose(path)
    assert (status, out.splitlines()[0]) == (0, "HEALTHY  60 vectors of 16 dimensions")
    said = " ".join(out.split())
    assert "id: column 1" in said
    assert "column 1 holds whole numbers that are all different, so it was taken for the id" in said
    table = load_table(path)
    assert table.ids is not None
    assert (table.ids[0], len(table.ids)) == (shown, 60)
    np.testing.assert_allclose(np.asarray(table.vectors), SPACE, atol=1e-6)


def test_own_ids_beside_an_array_stay_and_its_row_numbers_are_left_out(tmp_path) -> None:
    from twotower.diagnosis.load import load_table

    np.savez(tmp_path / "v.npz", states=np.column_stack([np.arange(60), SPACE]), id=np.array(WORDS))
    table = load_table(tmp_path / "v.npz")
    assert table.ids == WORDS
    assert table.account.left_out == {"column 1": "a second key"}
    assert table.vectors.shape == (60, 16)


@pytest.mark.parametrize("kind", ["int8", "uint8", "float32"])
def test_whole_numbers_of_an_array_are_coordinates(tmp_path, kind) -> None:
    from twotower.diagnosis.load import load_table

    whole = np.random.default_rng(3).integers(0, 120, size=(60, 16)).astype(kind)
    whole[:, 4] = np.random.default_rng(4).permutation(60)
    np.save(tmp_path / "v.npy", whole)
    table = load_table(tmp_path / "v.npy")
    assert isinstance(table.vectors, np.memmap)
    assert table.vectors.shape == (60, 16)


def test_a_tilde_is_a_letter_of_the_name_of_a_parquet_file(tmp_path, diagnose, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_array(tmp_path / "~v.parquet", SPACE)
    assert diagnose(Path("~v.parquet"))[1].startswith("HEALTHY  60 vectors of 16 dimensions\n")


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


LONG_IDS = [2**60 + 3 * row for row in SHUFFLED]


@pytest.mark.parametrize("header", [None, ["tweet", *NAMES], ["id", *NAMES]], ids=["no header", "tweet", "id"])
@pytest.mark.parametrize("keys", [LONG_IDS, [f"{row:06d}" for row in SHUFFLED]], ids=["long", "leading zeros"])
def test_ids_keep_their_digits(tmp_path, header, keys):
    path = write_csv(tmp_path / "vectors.csv", header, keys)
    table = read_text(path)
    assert table.vectors.shape == SPACE.shape
    assert table.ids == [str(key) for key in keys]


def test_long_ids_of_a_parquet_file_keep_their_digits(tmp_path):
    table = pa.table({"tweet": LONG_IDS, **{name: SPACE[:, place] for place, name in enumerate(NAMES)}})
    pq.write_table(table, tmp_path / "vectors.parquet")
    read = read_parquet(tmp_path / "vectors.parquet")
    assert (read.vectors.shape, read.ids) == (SPACE.shape, [str(key) for key in LONG_IDS])
    assert read.account.id == "tweet"


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        ([None, *range(1, 60)], ["", *map(str, range(1, 60))]),
        ([float(row) for row in ROWS], [str(row) for row in ROWS]),
        ([word.encode() for word in WORDS], WORDS),
        ([None, *WORDS[1:]], ["", *WORDS[1:]]),
    ],
    ids=["a gap in whole numbers", "floats", "bytes", "a gap in texts"],
)
def test_ids_beside_vectors_have_one_text_and_gaps_are_no_ids(tmp_path, ids, read):
    pq.write_table(pa.table({"id": ids, "title": ids, "vector": list(SPACE)}), tmp_path / "vectors.parquet")
    table = read_parquet(tmp_path / "vectors.parquet")
    assert (table.ids, table.titles) == (read, read)


def test_a_gap_in_the_popularity_is_refused(tmp_path, diagnose):
    pq.write_table(pa.table({"count": [None, *range(1, 60)], "vector": list(SPACE)}), tmp_path / "vectors.parquet")
    code, _, error = diagnose(tmp_path / "vectors.parquet")
    assert (code, "column 'count' is empty in 1 of 60 rows; fill or drop them" in error) == (2, True)


def test_a_list_of_texts_beside_the_vectors_is_no_vector(tmp_path):
    table = pa.table({"genres": [["a", "b"]] * 60, "v": list(SPACE)})
    pq.write_table(table, tmp_path / "vectors.parquet")
    assert read_parquet(tmp_path / "vectors.parquet").account.vector == ("v",)
    pq.write_table(table.append_column("history", [[[1, 2]] * 60]), tmp_path / "two.parquet")
    with pytest.raises(InputError, match=r"name one with --column; it holds v \(60, 16\), history \(60, 2\)"):
        read_parquet(tmp_path / "two.parquet")


def test_a_first_line_that_counts_from_one_is_a_header(tmp_path):
    path = write_csv(tmp_path / "vectors.csv", [str(place) for place in range(1, 17)])
    read = read_text(path)
    assert read.vectors.shape == SPACE.shape
    assert read.account.notices == ("the first line counts 1, 2, 3, …, so it was taken for column names",)


@pytest.mark.parametrize("name", ["year", "emb_year"])
def test_whole_numbers_beside_fractions_are_told(tmp_path, name):
    path = write_csv(tmp_path / "vectors.csv", [name, *(f"x_{one}" for one in "abcdefghijklmnop")], [1990, 1991] * 30)
    (told,) = read_text(path).account.notices
    assert told == f"{name} holds whole numbers beside fractions, and is read as a coordinate"


@pytest.mark.parametrize(
    "write",
    [
        lambda row: str(list(row)),
        lambda row: str(row),
        lambda row: str(tuple(map(float, row))),
        lambda row: " ".join(map(str, row)),
        lambda row: ";".join(map(str, row)),
    ],
    ids=["list", "NumPy", "tuple", "blanks", "semicolons"],
)
def test_vectors_as_texts_of_one_column_are_read_however_they_are_written(tmp_path, write):
    with (tmp_path / "vectors.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("id", "embedding"), *((key, write(row)) for key, row in zip(WORDS, SPACE, strict=True))]
        )
    assert read_text(tmp_path / "vectors.csv").vectors == pytest.approx(SPACE, abs=1e-7)


@pytest.mark.parametrize("cell", ["0,5 0,25", "[0.1 ... 0.2]", "[[0.1, 0.2]]", "0.1", "[a, b]"])
def test_a_text_that_is_no_list_of_numbers_is_refused(tmp_path, diagnose, cell):
    (tmp_path / "vectors.csv").write_text(f'id,embedding\na,"{cell}"\nb,"{cell}"\n')
    code, _, error = diagnose(tmp_path / "vectors.csv")
    assert (code, "not a list of numbers like [0.1, 0.2]" in error) == (2, True)
