"""Pairs of a first stage and a pre-ranker: judged, noted, mixed so that the first is not spoilt, and warned of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.records import TopK
from twotower.data.log import Log
from twotower.data.prepare.prepare import prepare
from twotower.data.sources.synthetic import Synthetic, write_synthetic
from twotower.data.split import Targets
from twotower.experiment.labelled_pairs import first_stage_lists, pairs_of
from twotower.experiment.pair import _unlearnt, judge_pair, judge_trained, validation_targets
from twotower.experiment.recipes import default_run
from twotower.models.mixture import mix
from twotower.serving.bundle import Bundle, changing_bundle
from twotower.serving.pairs import judgement_of, note_judgement
from twotower.serving.pipeline import load_pipeline

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, and bundles of models that need no training, as first stages and as second ones."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "raw").mkdir()
    spec = write_synthetic(folder / "raw", Synthetic(users=250, items=120, cold_items=0, events=14))
    prepare(replace(spec, folder=folder / "raw"), folder / "data")
    for name in ("popularity", "item_cosine", "random"):
        twotower.train(name, folder / "data", to=folder / name)
    return folder


def call(capsys: Capture, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    told = capsys.readouterr()
    return int(str(stop.value.code)), told.out, told.err


def test_a_mixture_is_the_first_order_at_0_the_second_at_1_and_by_both_between() -> None:
    first = TopK(torch.tensor([[4.0, 3.0, 1.0, -torch.inf]]), torch.tensor([[9, 4, 6, -1]]))
    second = TopK(torch.tensor([[20.0, 10.0, 0.0, -torch.inf]]), torch.tensor([[6, 4, 9, -1]]))
    assert mix(first, second, 0.0).ids.tolist() == [[9, 4, 6, -1]]
    assert mix(first, second, 1.0, 2).ids.tolist() == [[6, 4]]
    both = mix(first, second, 0.4)
    ours, theirs = (torch.tensor(values, dtype=torch.float64) for values in ([4.0, 3.0, 1.0], [0.0, 10.0, 20.0]))
    by_hand = sum(w * (s - s.mean()) / s.std(correction=0) for w, s in ((0.6, ours), (0.4, theirs)))
    assert both.ids.tolist() == [[*torch.tensor([9, 4, 6])[by_hand.argsort(descending=True)].tolist(), -1]]
    torch.testing.assert_close(both.scores[0, :3].double(), by_hand.sort(descending=True).values, atol=1e-6, rtol=0)


def test_a_second_stage_of_noise_gets_no_weight_so_the_pair_is_its_first_stage(work: Path) -> None:
    judged = judge_pair(work / "item_cosine", work / "random", candidates=50, write=False)
    assert judged.judgement.weight == 0.0
    assert judged.second.metrics["ndcg@10"] < judged.stage_one.metrics["ndcg@10"] / 2
    assert judged.pair.metrics == judged.stage_one.metrics


def test_a_better_second_stage_gets_weight_and_the_pair_is_better(work: Path, capsys: Capture) -> None:
    status, out, err = call(
        capsys, "evaluate", work / "popularity", "--then", work / "item_cosine", "--candidates", 60, "--json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["weight"] > 0
    assert found["pair"] > found["first"]
    assert found["chosen_on"] == "events that neither learnt"
    assert found["metrics"]["first stage"]["recall@10"] == pytest.approx(
        twotower.evaluate(work / "popularity").metrics["recall@10"]
    )
    noted = judgement_of(Bundle.load(work / "popularity"), Bundle.load(work / "item_cosine"))
    assert noted is not None
    assert (noted.weight, noted.candidates) == (found["weight"], 60)
    pipeline = load_pipeline(work / "popularity", work / "item_cosine")
    assert (pipeline.weight, pipeline.candidates) == (noted.weight, 60)
    assert len(pipeline.recommend(user="u000003", k=5)) == 5


def test_a_pair_that_was_never_judged_is_warned_of_in_one_line(work: Path, capsys: Capture) -> None:
    words = ("recommend", work / "random", "--then", work / "popularity", "--user", "u000003", "--json")
    status, out, _ = call(capsys, *words)
    (notice,) = json.loads(out)["notices"]
    assert status == 0
    assert "was never judged" in notice
    assert f"twotower evaluate {work / 'random'} --then {work / 'popularity'}" in notice


def test_a_pair_that_was_judged_worse_is_warned_of(work: Path, tmp_path: Path, caplog: Any) -> None:
    twotower.train("popularity", work / "data", to=tmp_path / "second")
    judged = judge_pair(work / "item_cosine", tmp_path / "second", candidates=50, write=False).judgement
    note_judgement(Bundle.load(work / "item_cosine"), tmp_path / "second", judged._replace(pair=0.01, weight=0.5))
    load_pipeline(work / "item_cosine", tmp_path / "second")
    assert "judged worse than the first stage alone: ndcg@10 0.0100 instead of" in caplog.text


def test_negatives_come_from_the_first_stages_list_and_the_test_stays(work: Path) -> None:
    data = twotower.Dataset.load(work / "data")
    run = default_run("dat")
    listed = run.with_settings(
        [f"data.split_options.candidates={work / 'item_cosine'}", "data.split_options.candidates_number=20"]
    )
    plain, hard = pairs_of(run, data), pairs_of(listed, data)
    assert torch.equal(plain.test.items, hard.test.items)
    lists = first_stage_lists(work / "item_cosine", data, 20)
    met = data.log.positives()
    rows = torch.arange(0, len(hard.train), 7)
    batch = hard.train.cut(rows)
    for user, item, label in zip(batch.users.ids.tolist(), batch.items.ids.tolist(), batch.labels, strict=True):
        own = met.items[met.offsets[user] : met.offsets[user + 1] - 1].tolist()
        assert (item in own) if label else (item in lists[user].tolist() and item not in own)
    truth = validation_targets(hard).truth
    assert int(truth.lengths.max()) == 1
    user = int(truth.lengths.nonzero()[0, 0])
    assert truth.items[truth.offsets[user]] == met.items[met.offsets[user + 1] - 2]


def test_a_pre_ranker_trained_on_candidates_is_judged_behind_them(work: Path, tmp_path: Path, capsys: Capture) -> None:
    options = [f"data.split_options.candidates={work / 'item_cosine'}", "data.split_options.candidates_number=40"]
    settings = [word for option in (*options, "training.epochs=1", "model.dim=8") for word in ("--set", option)]
    words = ("train", "--data", work / "data", "--model", "dat", "--to", tmp_path / "order", *settings)
    status, _, err = call(capsys, *words)
    assert status == 0, err
    assert "behind its first stage: test ndcg@10" in err
    noted = judgement_of(Bundle.load(work / "item_cosine"), Bundle.load(tmp_path / "order"))
    assert noted is not None
    assert noted.weight > 0 or noted.pair == noted.first
    assert judge_trained(default_run("dat"), tmp_path / "order") is None


def test_users_whose_test_event_the_first_stage_learnt_are_not_asked() -> None:
    def log(*items: list[int]) -> Log:
        offsets = torch.tensor([0, 0, 0, *[len(part) for part in items]]).cumsum(0)
        return Log(offsets, torch.tensor([item for part in items for item in part], dtype=torch.int64))

    # user 2 came back to item 5, which is in its history; the second time of user 3 was learnt
    targets = Targets(log([5, 6], [7, 8]), log([5], [7]))
    assert _unlearnt(targets, log([5, 6], [7, 8, 7])).users().tolist() == [2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--then", "NONE"), "no such bundle"),
        (("--candidates", "50"), "name the pre-ranker's bundle by --then"),
        (("--then", "random", "--candidates", "3"), "at least 10"),
        (("--then", "random", "--split", "validation"), "leave out --data and --split"),
    ],
)
def test_a_pair_that_cannot_be_judged_is_one_line(
    words: tuple[str, ...], message: str, work: Path, capsys: Capture
) -> None:
    given = [work / word if word in ("NONE", "random") else word for word in words]
    status, _, err = call(capsys, "evaluate", work / "item_cosine", *given)
    assert (status, len(err.strip().splitlines())) == (2, 1)
    assert message in err


@pytest.mark.parametrize("place", [0, 1])
def test_a_pair_of_which_one_has_learnt_all_events_is_refused(place: int, work: Path, tmp_path: Path) -> None:
    everything = tmp_path / "everything"
    shutil.copytree(work / "item_cosine", everything)
    with changing_bundle(everything) as (_, manifest):
        manifest["learnt"] = "all events"
    pair = [work / "popularity", work / "popularity"]
    pair[place] = everything
    with pytest.raises(InputError, match="everything: its model has learnt from all events"):
        judge_pair(*pair)


def test_a_pair_runs_on_the_device_that_is_named(work: Path, capsys: Capture) -> None:
    status, _, err = call(capsys, "evaluate", work / "item_cosine", "--then", work / "random", "--device", "cuda:99")
    assert (status, len(err.strip().splitlines())) == (2, 1)
    assert "device 'cuda:99': not there" in err


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "option", ["candidates_number=0", "candidates_share=2.0", "candidates=NONE", 'candidates_share="all"']
)
def test_options_of_candidates_are_checked(option: str, work: Path) -> None:
    options = [f"data.split_options.candidates={work / 'item_cosine'}", f"data.split_options.{option}"]
    with pytest.raises(InputError):
        pairs_of(default_run("dat").with_settings(options), twotower.Dataset.load(work / "data"))
