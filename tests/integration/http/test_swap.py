"""Another bundle in the place of the one that is served: without a failed request, or not at all."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import twotower
from twotower.data.dataset import Dataset
from twotower.models.base import Model

TOKEN = "a-token-for-tests-only"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
Build = Callable[..., Any]
Write = Callable[..., Model]


@pytest.fixture
def folders(write: Write, titled_dataset: Dataset, tmp_path: Path) -> tuple[Path, Path]:
    """Two bundles side by side whose answers differ."""
    place = tmp_path / "bundles"
    write(place / "one", titled_dataset)
    write(place / "two", titled_dataset, "sasrec", parameters={"dim": 4, "heads": 1})
    return place / "one", place / "two"


def test_no_request_of_two_hundred_fails_or_is_answered_by_two_bundles_during_five_swaps(
    build: Build, folders: tuple[Path, Path]
) -> None:
    httpx = pytest.importorskip("httpx")
    app = build(folders[0], token=TOKEN)
    right = {}
    for folder in folders:
        retriever = twotower.load(folder)
        found = [item.id for item in retriever.recommend("u3", k=5)]
        right[retriever.bundle.manifest["digest"][:12]] = found
    first, second = right.values()
    assert first != second

    async def hammer() -> tuple[list[Any], list[Any]]:
        answers: list[Any] = []
        swapped: list[Any] = []
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://service", headers=HEADERS
        ) as client:

            async def swap() -> None:
                for turn in range(5):
                    body = {"bundle": "two" if turn % 2 == 0 else "one"}
                    swapped.append(await client.post("/admin/swap", json=body, timeout=60))

            async def request() -> None:
                while len(answers) < 200 or not swapping.done():
                    answers.append(await client.post("/v1/recommend", json={"user": "u3", "k": 5}))
                    await asyncio.sleep(0)  # without a socket nothing else would let the swap go on

            swapping = asyncio.ensure_future(swap())
            await asyncio.gather(swapping, *(request() for _ in range(8)))
        return answers, swapped

    answers, swapped = asyncio.run(hammer())
    assert [answer.status_code for answer in swapped] == [200] * 5
    assert len(answers) >= 200
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        body = answer.json()
        assert [item["id"] for item in body["items"]] == right[body["bundle"]]
    assert len({answer.json()["bundle"] for answer in answers}) == 2


def refusal(build: Build, ask: Build, folders: tuple[Path, Path], body: Any, **settings: Any) -> tuple[int, str]:
    """Status and text of a swap; what was served before must answer afterwards."""
    app = build(folders[0], token=TOKEN, **settings)
    before = ask(app, "/v1/recommend", {"user": "u3"}, headers=HEADERS).json()
    answer = ask(app, "/admin/swap", body, headers=HEADERS)
    if answer.status_code == 200:
        return 200, ""
    assert ask(app, "/v1/recommend", {"user": "u3"}, headers=HEADERS).json() == before
    assert 'twotower_swaps_total{outcome="refused"} 1' in ask(app, "/metrics", headers=HEADERS).text
    return answer.status_code, answer.json()["error"]


def test_a_bundle_with_a_changed_byte_is_refused(build: Build, ask: Build, folders: tuple[Path, Path]) -> None:
    weights = folders[1] / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    status, text = refusal(build, ask, folders, {"bundle": "two"})
    assert status == 409
    assert "what was served stays" in text
    assert "weights.safetensors was changed" in text


def rewritten(folder: Path, change: Callable[[Path], object]) -> None:
    """Change a bundle and give it right hashes again, as a faulty writer would."""
    from twotower.serving.bundle import changing_bundle

    with changing_bundle(folder) as (partial, _):
        change(partial)


@pytest.mark.parametrize("name", ["vocabulary/items.parquet", "vocabulary/users.parquet", "items/states.safetensors"])
def test_a_bundle_whose_catalogue_cannot_be_read_is_refused(
    name: str, build: Build, ask: Build, folders: tuple[Path, Path]
) -> None:
    rewritten(folders[1], lambda partial: (partial / name).write_bytes(b"not what it should be"))
    status, text = refusal(build, ask, folders, {"bundle": "two"})
    assert (status, "cannot be served" in text) == (409, True)


def test_a_collapsed_bundle_is_refused_unless_it_is_allowed(
    build: Build, ask: Build, folders: tuple[Path, Path]
) -> None:
    rewritten(folders[1], lambda partial: (partial / "diagnosis.json").write_text('{"verdict": "collapsed"}'))
    status, text = refusal(build, ask, folders, {"bundle": "two"})
    assert (status, "have collapsed" in text) == (409, True)
    assert refusal(build, ask, folders, {"bundle": "two"}, allow_collapsed=True)[0] == 200
    rewritten(folders[1], lambda partial: (partial / "diagnosis.json").write_text('{"verdict": "suspect"}'))
    assert refusal(build, ask, folders, {"bundle": "two"})[0] == 200


def with_index(folder: Path, *, wrong: bool) -> None:
    """Give a bundle an HNSW index: over its items, or with the vectors of all items turned round."""
    from twotower.index.registry import build_index
    from twotower.serving.bundle import Bundle, changing_bundle

    bundle = Bundle.load(folder)
    index = build_index("hnsw", {}, bundle.model)
    index.build(-bundle.item_states if wrong else bundle.item_states, bundle.item_ids)
    with changing_bundle(folder) as (partial, manifest):
        shutil.rmtree(partial / "index", ignore_errors=True)
        (partial / "index").mkdir()
        index.save(partial / "index")
        manifest |= {"index": "hnsw", "index_settings": index.settings, "index_module": type(index).__module__}


def test_a_bundle_whose_index_finds_too_little_is_refused(
    build: Build,
    ask: Build,
    titled_dataset: Dataset,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from twotower.serving.index_recall import index_recall

    folders = tmp_path / "bundles" / "one", tmp_path / "bundles" / "two"
    for folder in folders:
        write(folder, titled_dataset)
    with_index(folders[1], wrong=True)
    body, whole = {"bundle": "two"}, {"recall_floor": 0.99}
    monkeypatch.setattr("twotower.serving.http.swap.index_recall", partial(index_recall, k=3))
    status, text = refusal(build, ask, folders, body)
    assert status == 409
    assert "of exact search's top 3 (5 of its users), below the floor of 90.0%" in text
    assert "what was served stays" in text
    assert refusal(build, ask, folders, body, recall_floor=0.0)[0] == 200
    with_index(folders[1], wrong=False)
    assert refusal(build, ask, folders, body, **whole)[0] == 200


def test_recall_of_an_index_counts_equal_scores_alike_and_needs_no_histories(
    titled_dataset: Dataset, write: Write, tmp_path: Path
) -> None:
    from twotower.serving.bundle import Bundle
    from twotower.serving.index_recall import index_recall

    write(tmp_path / "none", titled_dataset, histories=None)
    assert index_recall(Bundle.load(tmp_path / "none")) is None
    for wrong, recall in ((False, 1.0), (True, 0.0)):
        with_index(tmp_path / "none", wrong=wrong)
        found = index_recall(Bundle.load(tmp_path / "none"), k=2)
        assert found is not None
        assert (found.k, found.users) == (2, 8)
        assert found.recall == pytest.approx(recall, abs=0.01) if not wrong else found.recall < 0.5
    same = write(tmp_path / "same", titled_dataset, "popularity")
    assert not same.state_dict()["counts"].any()  # untrained: every score is 0
    with_index(tmp_path / "same", wrong=False)
    tied = index_recall(Bundle.load(tmp_path / "same"), k=3)
    assert tied is not None
    assert tied.recall == 1.0


def test_a_folder_that_is_no_bundle_is_refused(build: Build, ask: Build, folders: tuple[Path, Path]) -> None:
    status, text = refusal(build, ask, folders, {"bundle": "three"})
    assert (status, "no such bundle" in text) == (409, True)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", ".", "", "one/../..", "two\0"])
def test_only_bundles_beside_the_first_may_be_swapped_in(
    name: str, build: Build, ask: Build, folders: tuple[Path, Path]
) -> None:
    shutil.copytree(folders[1], folders[1].parents[1] / "elsewhere")
    status, text = refusal(build, ask, folders, {"bundle": name})
    assert (status, "lies in the folder of the first" in text) == (400, True)


def test_without_a_token_nobody_swaps(build: Build, ask: Build, folders: tuple[Path, Path]) -> None:
    answer = ask(build(folders[0]), "/admin/swap", {"bundle": "two"})
    assert (answer.status_code, "--token-file" in answer.json()["error"]) == (403, True)


def test_a_bundle_in_memory_needs_its_folder_no_more(build: Build, ask: Build, folders: tuple[Path, Path]) -> None:
    app = build(folders[0])
    before = ask(app, "/v1/recommend", {"history": ["i2"]}).json()
    shutil.rmtree(folders[0])
    assert ask(app, "/v1/recommend", {"history": ["i2"]}).json() == before
    assert ask(app, "/v1/similar", {"item": "i3"}).status_code == 200
    assert ask(app, "/v1/rank", {"user": "u3", "candidates": ["i3"]}).status_code == 200
    assert "did you mean 'u3'?" in ask(app, "/v1/recommend", {"user": "u33"}).json()["error"]
    assert ask(app, "/readyz").json()["ready"] is True


def test_one_swap_at_a_time(build: Build, ask: Build, folders: tuple[Path, Path]) -> None:
    app = build(folders[0], token=TOKEN)
    with app.state.service.slot._lock:
        answer = ask(app, "/admin/swap", {"bundle": "two"}, headers=HEADERS)
    assert (answer.status_code, "another swap" in answer.json()["error"]) == (409, True)
    assert ask(app, "/admin/swap", {"bundle": "two"}, headers=HEADERS).json()["folder"] == "two"
    assert ask(app, "/readyz").json()["model"] == "sasrec"
