"""Ids as callers have them: retired ones, NumPy and data frame values; vectors go out with their ids."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch

import twotower
from twotower.core.errors import InputError
from twotower.experiment.front import train
from twotower.serving import finder as module


@pytest.fixture(scope="module")
def retriever(tmp_path_factory):
    rows = [(user, (user + step) % 9, 60 * step) for user in range(8) for step in range(5)]
    events = {name: [row[place] for row in rows] for place, name in enumerate(("user", "item", "time"))}
    data = twotower.Dataset.from_frames(events, unit="s", name="rings")
    folder = tmp_path_factory.mktemp("ids") / "bundle"
    train("two_tower", data, to=folder, epochs=1, dim=4, device="cpu")
    return twotower.load(folder)


def ids(answers) -> list[str]:
    return [answer.id for answer in answers]


def test_a_retired_item_in_a_history_is_told_of_and_left_aside(retriever, caplog):
    with caplog.at_level(logging.WARNING):
        answers = retriever.recommend(history=["1", "retired", "2"], k=3)
    assert ids(answers) == ids(retriever.recommend(history=["1", "2"], k=3))
    assert "1 of 3 items are unknown here and left aside: 'retired'" in caplog.text


def test_leaving_out_what_is_not_there_changes_nothing(retriever, caplog):
    with caplog.at_level(logging.WARNING):
        answers = retriever.recommend("1", k=3, exclude=["retired"])
    assert ids(answers) == ids(retriever.recommend("1", k=3))
    assert "not in the catalogue, such as 'retired'" in caplog.text


def test_a_history_in_which_nothing_is_known_is_an_error(retriever):
    with pytest.raises(InputError, match="unknown item 'gone'"):
        retriever.recommend(history=["gone", "lost"])
    with pytest.raises(InputError, match="history is empty"):
        retriever.recommend(history=np.array([], dtype=np.int64))
    with pytest.raises(InputError, match="unknown user '77'"):
        retriever.recommend(77)


@pytest.mark.parametrize(
    "make", [np.array, tuple, lambda v: np.array(v, dtype=np.float64), lambda v: np.array([str(x) for x in v])]
)
def test_arrays_answer_as_lists_do(retriever, make):
    expected = ids(retriever.recommend(history=["1", "2"], k=3, exclude=["5"]))
    assert ids(retriever.recommend(history=make([1, 2]), k=3, exclude=make([5]))) == expected
    assert ids(retriever.rank(np.int64(1), make([5, 6, 7]))) == ids(retriever.rank("1", ["5", "6", "7"]))
    assert [ids(one) for one in retriever.recommend_many(make([1, 2]), k=2)] == [
        ids(retriever.recommend(user, k=2)) for user in ("1", "2")
    ]


@pytest.mark.parametrize("scalar", [np.array(1), np.float32(1), torch.tensor(1), torch.tensor(1.0)])
def test_scalars_of_arrays_answer_as_numbers_do(retriever, scalar):
    assert ids(retriever.recommend(scalar, k=3)) == ids(retriever.recommend("1", k=3))
    assert ids(retriever.similar(scalar, k=3)) == ids(retriever.similar("1", k=3))
    assert ids(retriever.recommend(history=[scalar], k=3)) == ids(retriever.recommend(history=["1"], k=3))


def test_columns_of_a_data_frame_answer_as_lists_do(retriever):
    pandas = pytest.importorskip("pandas")
    expected = ids(retriever.recommend(history=["1", "2"], k=3))
    assert ids(retriever.recommend(history=pandas.Series([1, 2]), k=3)) == expected


def test_vectors_go_out_with_their_ids(retriever):
    items, vectors = retriever.item_vectors()
    assert vectors.dtype == np.float32
    assert vectors.shape == (9, 4)
    users, asked = retriever.user_vectors(["3", 5])
    assert users == ["3", "5"]
    best = {answer.id: answer.score for answer in retriever.recommend("5", k=9, include_seen=True)}
    assert best == pytest.approx(dict(zip(items, (vectors @ asked[1]).tolist(), strict=True)), abs=1e-5)


def test_a_retriever_says_what_it_is(retriever):
    assert repr(retriever) == "Retriever(two_tower on rings, 9 items)"


def test_first_requests_of_several_threads_prepare_once(retriever, monkeypatch):
    fresh = twotower.load(retriever.bundle.folder)
    calls, answers = [], []
    monkeypatch.setattr(module, "prepare_serving", calls.append)
    threads = [threading.Thread(target=lambda: answers.append(ids(fresh.recommend("1", k=3)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert answers == [ids(retriever.recommend("1", k=3))] * 8


@pytest.mark.parametrize(("name", "text"), [("some.csv", "user\n3.0\n2.000\n1\n"), ("some.txt", "3.0\n2.000\n1\n")])
def test_whole_numbers_of_a_file_of_ids_are_those_of_the_log(retriever, tmp_path, name, text):
    """Though no table of users or items said in which form ids are written."""
    from twotower.serving.listed import listed_rows

    (tmp_path / name).write_text(text)
    users = retriever.bundle.user_vocabulary.ids(listed_rows(retriever.bundle, tmp_path / name, "user").tolist())
    assert users == ["3", "2", "1"]
    (tmp_path / name).write_text(text.replace("user", "item"))
    items = retriever.bundle.item_vocabulary.ids(listed_rows(retriever.bundle, tmp_path / name, "item").tolist())
    assert items == ["3", "2", "1"]


@pytest.mark.parametrize("ids", [[np.float32(2**24)], np.array([1, 2**24 + 1], np.float32), torch.tensor([2.0**24])])
def test_ids_in_floats_that_lost_digits_are_refused_not_taken_for_their_neighbours(retriever, ids):
    with pytest.raises(InputError, match=r"item 16777216 is a float32, in which neighbouring ids this large are one"):
        retriever.recommend(history=ids)
    with pytest.raises(InputError, match="is a float64"):
        retriever.recommend(float(2**53))
