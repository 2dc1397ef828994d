"""What all tests share: fixed seeds, one thread a process, small data, and real data where it is at hand."""

from __future__ import annotations

import copy
import gc
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Reading thousands of tests makes no garbage, and what was read stays: it isn't looked through again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs = {
        "gpu": (torch.cuda.is_available(), "needs CUDA"),
        "browser": (bool(shutil.which("chromium") or shutil.which("google-chrome")), "needs Chromium"),
    }
    for item in items:
        for marker, (there, reason) in needs.items():
            if not there and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """Tests that draw from the global generators get the same numbers whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _nobody_waits_for_the_disk() -> Iterator[None]:
    """What a test writes need not outlive a power cut; tests of what happens when the disk fails put in their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def quick_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws the points of a page by principal axes where t-SNE, which takes seconds, would be drawn from them."""
    from twotower.diagnosis import projections

    def drawn(axes: torch.Tensor, width: int, perplexity: float, seed: int) -> torch.Tensor:
        return torch.nn.functional.pad(axes[:, :width], (0, max(0, width - axes.shape[1]))).double()

    monkeypatch.setattr(projections, "_t_sne", drawn)


@pytest.fixture(scope="session")
def quick_exports() -> Iterator[None]:
    """Keeps the table of operators that torch.onnx reads from its source at every export, in a third of its time."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    registry = registration.ONNXRegistry
    read, kept = registry.from_torchlib, {}

    def once(*given: object, **named: object) -> object:
        key = (given, tuple(sorted(named.items())))
        if key not in kept:
            kept[key] = read(*given, **named)
            gc.freeze()  # and with it all the modules of an exporter
        copied = copy.copy(kept[key])
        copied.functions = {name: list(forms) for name, forms in copied.functions.items()}
        return copied

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(once))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """The folder of a real data set that lies beside the checkout; the test is skipped where it does not."""

    def find(name: str) -> Path:
        folder = ROOT.parent / "shared" / "data" / name
        if not folder.is_dir():
            pytest.skip(f"real data '{name}' is not beside the checkout")
        return folder

    return find


@pytest.fixture
def tiny_log():
    """Five known users (rows 2 to 6) and eight known items (rows 2 to 9), 18 events; one user has a single event."""
    from twotower.data.log import Log

    lengths = torch.tensor([0, 0, 5, 1, 4, 2, 6])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    items = torch.tensor([2, 3, 4, 5, 6, 7, 3, 8, 2, 9, 4, 4, 6, 2, 7, 9, 3, 5])
    return Log(offsets, items, times=1_000_000_000 + 60 * torch.arange(len(items)))


@pytest.fixture
def tiny_dataset(tiny_log):
    """`tiny_log` with a feature of every kind on the item side and two on the user side."""
    from twotower.core.schema import Feature, Schema
    from twotower.data.dataset import Dataset

    schema = Schema(
        num_users=7,
        num_items=10,
        user_features=(Feature("city", "categorical", 4), Feature("age", "numeric", 1, mean=30.0, std=10.0)),
        item_features=(
            Feature("brand", "categorical", 5),
            Feature("genres", "multi_categorical", 6, width=3),
            Feature("price", "numeric", 1, mean=2.0, std=1.5),
            Feature("title", "text", 12, width=4),
            Feature("picture", "vector", 3),
        ),
    )
    generator = torch.Generator().manual_seed(7)

    def draw(size: int, *shape: int) -> torch.Tensor:
        values = torch.randint(1, size, shape, generator=generator)
        values[0] = 0
        return values

    users = {"city": draw(4, 7), "age": 20.0 + 30.0 * torch.rand(7, generator=generator)}
    items = {
        "brand": draw(5, 10),
        "genres": draw(6, 10, 3),
        "price": 5.0 * torch.rand(10, generator=generator),
        "title": draw(12, 10, 4),
        "picture": torch.randn(10, 3, generator=generator),
    }
    items["price"][4] = float("nan")
    return Dataset(schema, tiny_log, users, items, {"name": "tiny"})


@pytest.fixture
def prepared_folder(tiny_dataset, tmp_path: Path) -> Path:
    """`tiny_dataset` as a prepared folder on disk (without vocabularies)."""
    from twotower.data.folder import finish_folder

    folder = tmp_path / "tiny"
    columns = {
        "log": {"offsets": tiny_dataset.log.offsets, "items": tiny_dataset.log.items, "times": tiny_dataset.log.times},
        "users": tiny_dataset.user_features,
        "items": tiny_dataset.item_features,
    }
    for part, tensors in columns.items():
        (folder / part).mkdir(parents=True)
        for name, values in tensors.items():
            np.save(folder / part / f"{name}.npy", values.numpy())
    finish_folder(folder, tiny_dataset.schema, {"name": "tiny"})
    return folder
