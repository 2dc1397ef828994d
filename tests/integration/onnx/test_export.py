"""An export is a folder that a program without PyTorch reads: raw ids and columns in, states and lists out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.serving.asking import asker_of

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_exports")]

WITHOUT_TORCH = """
import json, sys
for name in ("torch", "faiss", "duckdb", "scipy", "sklearn", "safetensors", "onnx"):
    sys.modules[name] = None  # an import of it now fails
from twotower.serving.onnx.loader import Towers
towers = Towers(sys.argv[1], threads=1)
users = towers.users([["i8", "i2"], ["i3"]], columns={"age": [30, None], "city": ["city2", "nowhere"]})
items = towers.items(["i4", "new"], columns={"brand": ["brand3", None], "genres": [None, "genres2|genres9"]})
print(json.dumps({
    "users": users["state"].tolist(), "items": items["state"].tolist(),
    "list": towers.recommend(["i8", "i2"], columns={"age": 30, "city": "city2"}, k=4, exclude=["i9"]),
    "torch": "torch" in {name for name, module in sys.modules.items() if module is not None},
}))
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what several tests only read."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def bundle(write: Callable[..., Model], titled_dataset: Dataset, kept: Path) -> Path:
    """A two-tower whose users have a table of values too, written once and only read."""
    import duckdb

    path = titled_dataset.folder / "vocabulary" / "user.city.parquet"  # type: ignore[operator]
    duckdb.connect().execute(f"COPY (SELECT row, 'city' || row AS value FROM range(2, 4) AS t(row)) TO '{path}'")
    if not (kept / "bundle").is_dir():
        write(kept / "bundle", titled_dataset)
    return kept / "bundle"


@pytest.fixture
def out(bundle: Path, kept: Path, tmp_path: Path) -> Path:
    """A copy of its export, which is made once: an export takes seconds."""
    from twotower.serving.onnx.export import export_onnx

    if not (kept / "out").is_dir():
        export_onnx(bundle, kept / "out")
    return Path(shutil.copytree(kept / "out", tmp_path / "out"))


def test_a_process_that_cannot_import_torch_answers_as_the_retriever(bundle: Path, out: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["torch"] is False
    retriever = twotower.load(bundle)
    wanted = retriever.recommend(history=["i8", "i2"], features={"age": 30, "city": "city2"}, k=4, exclude=["i9"])
    assert [item for item, _ in answer["list"]] == [item.id for item in wanted]
    assert [score for _, score in answer["list"]] == pytest.approx([item.score for item in wanted], abs=1e-4)
    asker = asker_of(retriever.bundle, None, ["i3"], {"city": "nowhere"})
    with torch.inference_mode():
        second = retriever.bundle.model.encode_users(asker.users)[0].tolist()
    assert answer["users"][1] == pytest.approx(second, abs=1e-4)


def test_somebody_new_is_answered_by_columns_alone(bundle: Path, out: Path) -> None:
    from twotower.serving.onnx.loader import Towers

    found = Towers(out).recommend([], columns={"age": 30, "city": "city2"}, k=4)
    wanted = twotower.load(bundle).recommend(features={"age": 30, "city": "city2"}, k=4)
    assert [id for id, _ in found] == [answer.id for answer in wanted]
    assert [score for _, score in found] == pytest.approx([answer.score for answer in wanted], abs=1e-4)


def test_columns_are_read_as_the_training_data_was(bundle: Path, out: Path) -> None:
    from twotower.data.prepare.encode import prepare_table
    from twotower.serving.onnx.loader import Towers

    rows: list[dict[str, Any]] = [
        {
            "id": "a",
            "brand": "brand2",
            "genres": "genres2|genres3| genres4 |genres5",
            "price": "1e3",
            "title": "TITLE2",
        },
        {
            "id": "b",
            "brand": "other",
            "genres": "['genres2', 'genres9']",
            "price": "nonsense",
            "title": "title3, Title4!",
        },
        {"id": "c", "brand": "", "genres": "", "price": None, "title": "", "picture": "[1.5 2.5 -3]"},
        {"id": "d", "brand": None, "genres": "||", "price": "true", "title": "!?", "picture": "1 2"},
        {"id": "e", "picture": "1 2 inf", "price": "-0.5"},
    ]
    schema = twotower.load(bundle).bundle.schema
    _, wanted = prepare_table(rows, schema, bundle / "vocabulary", "item")
    towers = Towers(out)
    columns = {name: [row.get(name) for row in rows] for name in ("brand", "genres", "price", "title", "picture")}
    found = towers._features("item", columns, len(rows))
    for place, feature in enumerate(schema.item_features):
        np.testing.assert_array_equal(found[f"feature_{place}"], wanted[feature.name].numpy(), err_msg=feature.name)


def test_weights_of_8_bits_say_what_they_lose(bundle: Path, tmp_path: Path) -> None:
    from twotower.serving.onnx.export import export_onnx
    from twotower.serving.onnx.loader import Towers

    out = tmp_path / "out"
    export_onnx(bundle, out, int8=True)
    loss = json.loads((out / "manifest.json").read_text())["int8"]
    assert 0.0 < loss["relative_error"]["user"] < 0.2
    assert 0.5 < loss["top_kept"] <= 1.0
    whole, quantised = Towers(out), Towers(out, int8=True)
    apart = np.abs(whole.users([["i2"]])["state"] - quantised.users([["i2"]])["state"]).max()
    assert 0.0 < apart < 0.2


def test_what_cannot_be_loaded_says_so(bundle: Path, out: Path) -> None:
    from twotower.serving.onnx.loader import Towers

    with pytest.raises(InputError, match="nothing that 'twotower export"):
        Towers(bundle)
    with pytest.raises(InputError, match="--int8"):
        Towers(out, int8=True)
    towers = Towers(out)
    with pytest.raises(InputError, match="did you mean 'age'"):
        towers.users([["i2"]], columns={"agee": [3]})
    with pytest.raises(InputError, match="2 cells for 1 rows"):
        towers.users([["i2"]], columns={"age": [3, 4]})
    with pytest.raises(InputError, match="nothing in the history is known"):
        towers.recommend(["gone"])
    (out / "item.ids.json").write_text('{"i2": 2}\n')
    with pytest.raises(InputError, match="missing or changed"):
        Towers(out)


def test_the_command_writes_and_says_what_it_measured(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["export", str(bundle), "--onnx", "--to", str(tmp_path / "out"), "--json"])
    assert done.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"]["name"] == "two_tower"
    assert told["int8"] is None
    assert set(told["difference"]) == {"user", "item"}
    for arguments, text in (
        (["--to", str(tmp_path / "x")], "--onnx"),
        (["--onnx"], "--to FOLDER"),
        (["--onnx", "--to", str(bundle)], "holds something other"),
        (["--onnx", "--to", str(bundle / "inside")], "lies inside the bundle"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(bundle), *arguments])
        assert stopped.value.code == 2
        assert text in capsys.readouterr().err
