"""Every registered model exports both towers, or says in its class why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twotower
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.models.base import ClosedForm, Model, attach_items
from twotower.models.encode import encode_known_items
from twotower.models.registry import MODELS, build_model, model_class
from twotower.serving.contents import Contents, write_bundle

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_exports")]
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL: dict[str, dict[str, Any]] = {
    "two_tower": {"dim": 5, "field_dim": 3, "hidden": [4], "user_id": True},
    "fit": {"meta_queries": 4},
    "sparcode": {"codebook": 4},
    "t2diff": {"dim": 8},
    "int_tower": {"dim": 16, "field_dim": 4, "hidden": [6, 5], "user_heads": 4, "item_heads": 2},
    "rank_tower": {"dim": 12, "field_dim": 4, "hidden": [6, 5]},
    "cold": {"field_dim": 4, "hidden": [6, 5]},
    "semantic": {"blocks": 1},
    # Each step of a recurrence and each layer is written out in a graph; histories here have nine places at most.
    **{name: {"dim": 8, "history_length": 10} for name in ("caser", "gru4rec")},
    **{
        name: {"dim": 8, "history_length": 10, "layers": 1}
        for name in ("bert4rec", "contrast_vae", "hstu", "ligr", "sasrec", "stosa")
    },
    "diffurec": {"dim": 8, "history_length": 10, "layers": 1, "restore_steps": 2},
    "mamba4rec": {"dim": 8, "history_length": 6, "states": 5},
}


@pytest.fixture
def written(titled_dataset: Dataset, tmp_path: Path) -> Callable[[str], Path]:
    """Write the bundle of a model that has seen the data, as training leaves it."""

    def made(name: str, **more: Any) -> Path:
        parameters = SMALL.get(name, {}) | more
        model = build_model(name, titled_dataset.schema, parameters)
        attach_items(model, titled_dataset.all_items())
        if isinstance(model, ClosedForm):
            model.fit_log(titled_dataset.log)
        contents = Contents(
            model=model,
            model_name=name,
            model_parameters=parameters,
            dataset=titled_dataset,
            items=encode_known_items(model, titled_dataset),
            run_toml="[training]\nseed = 3\n",
            histories=titled_dataset.log,
        )
        write_bundle(tmp_path / name, contents)
        return tmp_path / name

    return made


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_exports_both_towers_or_says_why_not(name: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    from twotower.serving.onnx.export import export_onnx
    from twotower.serving.onnx.loader import Towers

    bundle = written(name)
    if reason := model_class(name).no_onnx:
        with pytest.raises(InputError, match="has no ONNX form"):
            export_onnx(bundle, tmp_path / "out")
        assert len(reason) > 20
        assert not (tmp_path / "out").exists()
        return
    made = export_onnx(bundle, tmp_path / "out")
    assert max(made["difference"].values()) <= 1e-4
    towers = Towers(tmp_path / "out")
    retriever = twotower.load(bundle)
    for history in (["i8"], ["i2", "i4", "i5", "i9", "i3"], [f"i{row}" for row in (2, 3, 4, 5, 6, 7, 8, 9, 2)]):
        wanted = retriever.rank(history=history, features={}, candidates=towers.item_ids)
        found = dict(zip(towers.item_ids, towers.score(towers.users([history]), towers.item_states)[0], strict=True))
        for answer in wanted:
            assert float(found[answer.id]) == pytest.approx(answer.score, rel=1e-4, abs=1e-4)


def test_a_sequence_model_that_reads_features_exports_them(written: Callable[..., Path], tmp_path: Path) -> None:
    from twotower.serving.onnx.export import export_onnx
    from twotower.serving.onnx.loader import Towers

    bundle = written("sasrec", item_features=True)
    assert max(export_onnx(bundle, tmp_path / "out")["difference"].values()) <= 1e-4
    towers, retriever = Towers(tmp_path / "out"), twotower.load(bundle)
    wanted = retriever.rank(history=["i2", "i4", "i5"], features={}, candidates=towers.item_ids)
    scores = towers.score(towers.users([["i2", "i4", "i5"]]), towers.item_states)[0]
    found = dict(zip(towers.item_ids, scores, strict=True))
    assert all(float(found[answer.id]) == pytest.approx(answer.score, rel=1e-4, abs=1e-4) for answer in wanted)


def test_a_graph_that_differs_from_pytorch_is_refused(
    written: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twotower.serving.onnx import export

    def shifted(model: Model, users: Any) -> dict[str, Any]:
        feed = original(model, users)
        return feed | {"history": np.roll(feed["history"], 1, axis=1)}

    original = export.parity.user_feed
    monkeypatch.setattr(export.parity, "user_feed", shifted)
    with pytest.raises(InputError, match="differs from PyTorch"):
        export.export_onnx(written("sasrec"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
