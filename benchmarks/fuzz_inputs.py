"""The inputs of ``fuzz.py``: small healthy files of each kind, and what is done to them."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import numpy as np
import tomli_w
from safetensors.numpy import save

Made = tuple[list[str], int | None]
"""The words of the command, and how many lines its log has (None: not to be compared)."""

TOKENS = [
    "", " ", "nan", "NaN", "null", "None", "NA", "inf", "-inf", "1e999", "-1e308", "1e-320", "0x10", "1_000", "1,5",
    "007", "1.0", "-0", "true", "TRUE", "'", '"', '""', '"a', "\\", '\\"', ",", ";", "\t", "|", "::", "[", "]", "{}",
    "[]", "['a', 'b']", "\r", "\n", "\r\n", "\x00", "\x1b[31m", "\x7f", "\ufeff", "\u2028", "\u202e", "é", "漢字",
    "🙂", "e\u0301", "--", "../..", "/", "*", "?", "[a-z]", "%s", "{0}", "$HOME", "<script>", "[bold]x[/bold]", "row",
    "id", "__id", "__fault", "__row", "rowid", "user", "User", "select", "9" * 30, "9" * 400, "9" * 5000, "x" * 300,
    "x" * 20_000, "[" * 5000, '{"a":' * 3000, "2020-01-01", "9999-99-99", "2020-01-01T00:00:00+99:00", "1600000000000",
]  # fmt: skip

VALUES: list[Callable[[Random], Any]] = [
    lambda random: random.choice(TOKENS),
    lambda random: random.choice([-1, 0, 1, 2, 3, 2**31, 2**63 - 1, -(2**63), 2**64, 10**30, 10**12, 1000, 99_999]),
    lambda random: random.choice([-1.0, 0.0, 0.5, 1.0, 1e-320, 1e308, float("inf"), float("nan"), 0.1, 1.5]),
    lambda random: random.random() < 0.5,
    lambda random: [],
    lambda random: {},
    lambda random: [value(random) for _ in range(random.randrange(4))],
    lambda random: {random.choice(TOKENS): value(random) for _ in range(random.randrange(3))},
    lambda random: f"deep {random.choice((3, 150, 400))}",  # see `toml`
]

BYTES = [b"\xff", b"\xfe\xff", b"\xff\xfe", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\x1f\x8b", b"PK\x03\x04", b"\x00" * 8]


def value(random: Random) -> Any:
    """A value that TOML and JSON can hold, of any kind."""
    return random.choice(VALUES)(random)


def toml(table: dict[str, Any]) -> bytes:
    """The table as TOML, its deep lists written out."""
    text = tomli_w.dumps(table)
    return _DEEP.sub(lambda found: "[" * int(found[1]) + "]" * int(found[1]), text).encode("utf-8", "surrogatepass")


_DEEP = re.compile('"deep ([0-9]+)"')


def spoilt(data: bytes, random: Random, most: int = 4) -> bytes:
    """Some bytes changed, put in, taken out, doubled or cut off; in one of six cases nothing."""
    for _ in range(random.randrange(most + 2) if random.random() < 5 / 6 else 0):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 2, 8, 40)))
        token = random.choice([*TOKENS]).encode("utf-8", "surrogatepass") if random.random() < 0.8 else b""
        token = token or random.choice(BYTES)
        change = random.randrange(7)
        if change == 0 and data:
            data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
        elif change == 1:
            data = data[:at] + token + data[at:]
        elif change == 2:
            data = data[:at] + data[end:]
        elif change == 3:
            data = data[:end] + data[at:end] + data[end:]
        elif change == 4:
            data = data[:at] if random.random() < 0.3 else data
        elif change == 5:
            sign = random.choice((b"\n", b",", b'"', b"\t"))
            data = data.replace(sign, token, random.choice((1, 1, 3, -1)))
        else:
            data = data[:at] + token + data[end:]
    return data


def changed(table: dict[str, Any], random: Random, most: int = 3) -> dict[str, Any]:
    """A nested dict with some keys replaced, removed or added."""
    table = json.loads(json.dumps(table))
    for _ in range(random.randrange(most + 1)):
        place = table
        while True:
            inner = [part for part in place.values() if isinstance(part, dict)]
            if not inner or random.random() < 0.3:
                break
            place = random.choice(inner)
        keys = list(place)
        change = random.randrange(4)
        if change == 0 and keys:
            place.pop(random.choice(keys))
        elif change == 1:
            place[random.choice(TOKENS)] = value(random)
        elif keys:
            place[random.choice(keys)] = value(random)
    return table


def log_csv(random: Random, rows: int = 24) -> bytes:
    """A healthy log."""
    lines = ["user,item,time,rating"]
    lines += [
        f"u{random.randrange(5)},{random.randrange(7)},{1_500_000_000 + row},{random.randrange(1, 6)}"
        for row in range(rows)
    ]
    return ("\n".join(lines) + "\n").encode()


def _records(random: Random) -> list[dict[str, Any]]:
    names, *rows = [line.split(",") for line in log_csv(random).decode().splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _parquet(folder: Path, name: str, query: str) -> bytes:
    duckdb.sql(f"COPY ({query}) TO '{folder / name}'")
    return (folder / name).read_bytes()


def _log_file(random: Random, folder: Path) -> tuple[str, bytes]:
    kind = random.choice(("csv", "csv", "csv", "tsv", "jsonl", "parquet", "csv.gz"))
    if kind == "jsonl":
        rows = [changed(row, random, 1) if random.random() < 0.1 else row for row in _records(random)]
        return "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "parquet":
        query = "SELECT 'u' || (range % 5) AS user, range % 7 AS item, range AS time, 3.0 AS rating FROM range(24)"
        return "log.parquet", _parquet(folder, "log.parquet", query)
    data = log_csv(random)
    if kind == "csv.gz":
        return "log.csv.gz", gzip.compress(spoilt(data, random, 1))
    return f"log.{kind}", data.replace(b",", b"\t") if kind == "tsv" else data


def spec_of(name: str) -> dict[str, Any]:
    """A healthy spec of a log."""
    log = {"path": name, "user": "user", "item": "item", "time": "time", "value": "rating"}
    return {"name": "fuzzed", "interactions": log}


def a_log(random: Random, folder: Path, prepared: Path) -> Made:
    """A spoilt log under a healthy spec, or one with a rule for labels."""
    name, data = _log_file(random, folder)
    data = spoilt(data, random)
    (folder / name).write_bytes(data)
    spec = spec_of(name)
    spec["interactions"]["max_bad_share"] = 1.0
    if random.random() < 0.5:
        spec["interactions"].pop("value")
    if random.random() < 0.3:
        spec["label"] = random.choice(
            [{"column": "rating", "at_least": 3}, {"column": "rating", "equals": "3", "keep": "all"}]
        )
    if random.random() < 0.3:
        spec["interactions"] |= random.choice(({"escape": "\\"}, {"decimal": ","}, {"escape": "\\", "decimal": ","}))
    (folder / "spec.toml").write_text(tomli_w.dumps(spec))
    is_text = not name.endswith(("parquet", "gz")) and not data.startswith(b"\x1f\x8b")
    return ["data", "prepare", "spec.toml", "--to", "out", "--json"], _lines(data) if is_text else None


def _lines(data: bytes) -> int:
    even = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return even.count(b"\n") + bool(even and not even.endswith(b"\n"))


def a_table(random: Random, folder: Path, prepared: Path) -> Made:
    """A spoilt table of items beside a healthy log."""
    (folder / "log.csv").write_bytes(log_csv(random))
    lines = ["item,title,price,genres,vector"]
    lines += [f'{row},"Film, {row}",{row}.5,a|b{row % 3},0.1 0.2 {row}' for row in range(7)]
    (folder / "items.csv").write_bytes(spoilt(("\n".join(lines) + "\n").encode(), random))
    kinds = {"title": "text", "price": "numeric", "genres": "multi_categorical", "vector": "vector"}
    spec = spec_of("log.csv")
    spec["interactions"]["max_bad_share"] = 1.0
    features = {name: kind for name, kind in kinds.items() if random.random() < 0.7}
    spec["items"] = {"path": "items.csv", "id": "item", "title": "title", "features": features}
    (folder / "spec.toml").write_text(tomli_w.dumps(spec))
    return ["data", "prepare", "spec.toml", "--to", "out", "--json"], None


def a_spec(random: Random, folder: Path, prepared: Path) -> Made:
    """A spoilt spec of healthy files."""
    (folder / "log.csv").write_bytes(log_csv(random))
    (folder / "items.csv").write_bytes(b"item,title,price\n0,a,1\n1,b,2\n2,c,3\n")
    spec = spec_of("log.csv") | {
        "label": {"column": "rating", "at_least": 2},
        "items": {"path": "items.csv", "id": "item", "features": {"title": {"kind": "text"}, "price": "numeric"}},
        "split": {"kind": "last-n", "n": 1},
    }
    text = toml(changed(spec, random))
    (folder / "spec.toml").write_bytes(spoilt(text, random, 2) if random.random() < 0.3 else text)
    return ["data", "prepare", "spec.toml", "--to", "out", "--json"], None


def a_run(random: Random, folder: Path, prepared: Path) -> Made:
    """A spoilt run file on healthy data, and now and then a spoilt setting on the command line."""
    model = random.choice(
        [
            {"name": "two_tower", "dim": 4, "history_length": 3},
            {"name": "sasrec", "dim": 4, "layers": 1, "heads": 1, "history_length": 4},
            {"name": "ease", "lambda_": 5.0},
            {"name": "item_cosine", "neighbours": 3},
            {"name": "popularity"},
        ]
    )
    run = {
        "model": model,
        "objective": {"loss": random.choice(["full_softmax", "sampled_softmax", "bpr"]), "regularise": {}},
        "sampling": {"sources": ["in_batch"], "number": 4, "hard": "none"},
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "metric": "ndcg@10", "optimizer": "adam"},
        "evaluation": {"ks": [1, 5], "mask_seen": True},
        "data": {"split": "leave-one-out", "split_options": {}},
        "index": {"kind": "exact"},
    }
    text = toml(changed(run, random))
    (folder / "run.toml").write_bytes(spoilt(text, random, 2) if random.random() < 0.2 else text)
    words = ["train", "run.toml", "--data", str(prepared), "--to", "bundle"]
    if random.random() < 0.2:
        key = random.choice(["model.dim", "training.epochs", "evaluation.ks", "sampling.hard", random.choice(TOKENS)])
        words += ["--set", f"{key}={random.choice(TOKENS)}".replace("\x00", "")]
    return words, None


def a_space(random: Random, folder: Path, prepared: Path) -> Made:
    """A spoilt file of vectors."""
    draws = np.random.default_rng(random.randrange(1 << 30))
    vectors = draws.standard_normal((random.choice((0, 1, 2, 30)), random.choice((1, 2, 6)))).astype(np.float32)
    if random.random() < 0.2:
        vectors = vectors * np.float32(random.choice((0.0, 1e-38, 1e38, float("inf"), float("nan"))))
    kind = random.choice(("npy", "npz", "csv", "tsv", "parquet", "safetensors", "index"))
    packed = io.BytesIO()
    if kind == "npy":
        np.save(packed, vectors.astype(random.choice((np.float32, np.float64, np.float16, np.int8, np.complex64))))
    elif kind == "npz":
        np.savez(packed, a=vectors, b=vectors[:1])
    elif kind in ("csv", "tsv"):
        lines = [",".join(["id", *(f"d{place}" for place in range(vectors.shape[1]))])]
        lines += [",".join([f"i{row}", *map(str, vector)]) for row, vector in enumerate(vectors.tolist())]
        text = "\n".join(lines) + "\n"
        packed.write((text.replace(",", "\t") if kind == "tsv" else text).encode())
    elif kind == "parquet":
        packed.write(_parquet(folder, "x", "SELECT 'i' || range AS id, [random(), random()] AS v FROM range(30)"))
    elif kind == "safetensors":
        packed.write(save({"a": vectors}))
    else:
        packed.write(_faiss(vectors, folder) if random.random() < 0.2 else b"IxFI" + vectors.tobytes())
    data = packed.getvalue()
    (folder / f"space.{kind}").write_bytes(spoilt(data, random))
    return ["diagnose", f"space.{kind}", "--json"], None


def _faiss(vectors: np.ndarray[Any, Any], folder: Path) -> bytes:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    if len(vectors):
        index.add(vectors)
    faiss.write_index(index, str(folder / "x"))
    return (folder / "x").read_bytes()


KINDS: dict[str, Callable[[Random, Path, Path], Made]] = {
    "log": a_log,
    "table": a_table,
    "spec": a_spec,
    "run": a_run,
    "diagnose": a_space,
}
"""What writes an input of each kind into a folder, and gives the command for it."""
