"""A generated log is exactly as large, as skewed and as likely as its settings say, whatever the partitions."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data import generate as drawing
from twotower.data import planted_world
from twotower.data.dataset import Dataset
from twotower.data.generate import events_of_block, generate
from twotower.data.planted_world import START, World, WorldSettings
from twotower.data.power_law import PowerLaw
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec

SMALL = WorldSettings(users=300, items=500, events=6_000, clusters=12, seed=3)


def rows(folder: Path, table: str = "interactions/*.parquet") -> dict[str, np.ndarray]:
    """All rows of a table, in the order of the files."""
    return duckdb.sql(f"FROM read_parquet('{folder / table}')").fetchnumpy()


def status(words: list[str]) -> object:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


def slope(counts: np.ndarray, law: PowerLaw, upto: int) -> float:
    """The exponent that the counts by rank have, from many equally wide steps of the logarithm of the rank."""
    edges = np.unique(np.geomspace(1, upto, 12).astype(int)) - 1
    means = np.array([counts[a:b].mean() for a, b in itertools.pairwise(edges)])
    places = np.array([np.exp(np.log(np.arange(a, b) + 0.5 + law.offset).mean()) for a, b in itertools.pairwise(edges)])
    return float(-np.polyfit(np.log(places), np.log(means), 1)[0])


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 1.6])
def test_ranks_are_drawn_as_often_as_their_probability_says(exponent):
    law, draws = PowerLaw(exponent, 3.0), 200_000
    found = np.bincount(law.draw(np.random.default_rng(0).random(draws), 40), minlength=40)
    expected = law.probability(np.arange(40), 40)
    assert expected.sum() == pytest.approx(1.0)
    assert np.abs(found / draws - expected).max() < 0.004
    assert law.draw(np.array([0.0, np.nextafter(1.0, 0.0)]), 40).tolist() == [0, 39]


def test_the_log_has_exactly_the_events_and_every_user_some(tmp_path):
    generate(SMALL, tmp_path / "log")
    found = rows(tmp_path / "log")
    lengths = np.bincount(found["user_id"], minlength=300)
    assert lengths.sum() == 6_000
    assert len(lengths) == 300
    assert lengths.min() >= 3
    assert found["item_id"].min() >= 0
    assert found["item_id"].max() < 500
    assert (np.diff(found["user_id"]) >= 0).all()


def test_a_seed_gives_one_log_however_it_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(planted_world, "BLOCK_EVENTS", 900)  # about 45 users a block
    generate(SMALL, tmp_path / "whole")
    monkeypatch.setattr(drawing, "FILE_ROWS", 1_000)
    generate(SMALL, tmp_path / "parts", partitions=4)
    generate(replace(SMALL, seed=4), tmp_path / "other")
    whole, parts, other = (rows(tmp_path / name) for name in ("whole", "parts", "other"))
    assert len(list((tmp_path / "whole" / "interactions").iterdir())) == 1
    assert len(list((tmp_path / "parts" / "interactions").iterdir())) > 4
    for name, values in whole.items():
        assert (parts[name] == values).all()
    assert (other["item_id"] != whole["item_id"]).any()


def test_no_more_than_a_file_and_a_block_is_held_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(planted_world, "BLOCK_EVENTS", 900)
    monkeypatch.setattr(drawing, "FILE_ROWS", 1_000)
    written, write_file = [], drawing._write_file

    def noted(connection, tables, path):
        if path.parent.name == "interactions":
            written.append(sum(len(table["user_id"]) for table in tables))
        write_file(connection, tables, path)

    monkeypatch.setattr(drawing, "_write_file", noted)
    generate(SMALL, tmp_path / "log")
    largest = max(len(events_of_block(World(SMALL), number)["user_id"]) for number in range(World(SMALL).blocks))
    assert len(written) > 3
    assert sum(written) == 6_000
    assert max(written) <= 1_000 + largest
    assert largest < 2 * 900, "blocks are not alike in events"


def test_popularity_and_activity_follow_their_power_laws(tmp_path):
    settings = WorldSettings(2_000, 40_000, 600_000, clusters=4, item_exponent=1.3, user_exponent=0.8, drift=0.0)
    world = World(settings)
    tables = [events_of_block(world, number) for number in range(world.blocks)]
    clusters, ranks = world.places_of(np.concatenate([table["item_id"] for table in tables]))
    for cluster in range(4):
        counts = np.bincount(ranks[clusters == cluster], minlength=10_000)
        assert slope(counts, world.item_law, 5_000) == pytest.approx(1.3, abs=0.08)
    lengths = np.sort(np.bincount(np.concatenate([table["user_id"] for table in tables])))[::-1] - 3
    assert slope(lengths, world.user_law, 2_000) == pytest.approx(0.8, abs=0.02)


def test_probabilities_add_up_and_are_those_of_the_draws():
    settings = WorldSettings(users=1, items=60, events=60_000, clusters=5, drift=0.0, session=1.0, seed=1)
    world = World(settings)
    items = np.arange(60)[None]
    expected = world.probability(world.tastes(np.array([0])).first, items)[0]
    assert expected.sum() == pytest.approx(1.0)
    events = np.concatenate([events_of_block(world, number)["item_id"] for number in range(world.blocks)])
    found = np.bincount(events, minlength=60) / len(events)
    assert np.abs(found - expected).max() < 0.005


@pytest.mark.parametrize("clusters", [1, 7, 60])
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_the_best_list_is_the_most_probable_one(clusters, noise):
    world = World(WorldSettings(users=50, items=60, events=500, clusters=clusters, noise=noise))
    users = np.arange(50)
    tastes = world.tastes(users).at(np.full(50, world.end))
    best, all_items = world.best(tastes, 9), np.tile(np.arange(60), (50, 1))
    assert best.min() >= 0
    assert all(len(set(row)) == 9 for row in best.tolist())
    slow = -np.sort(-world.probability(tastes, all_items), axis=1)[:, :9]
    np.testing.assert_allclose(world.probability(tastes, best), slow, rtol=1e-12)
    np.testing.assert_allclose(world.recall(users, best), 1.0)
    np.testing.assert_allclose(world.recall(users, np.full((50, 9), -1)), 0.0)


def test_tastes_move_for_the_share_of_users_that_drifts_and_their_events_follow():
    settings = WorldSettings(users=3_000, items=400, events=90_000, clusters=20, noise=0.0, drift=0.4)
    world = World(settings)
    tastes = world.tastes(np.arange(3_000))
    moved = tastes.moves_at < planted_world.NEVER
    assert moved.mean() == pytest.approx(0.4, abs=0.03)
    for number in range(world.blocks):
        table = events_of_block(world, number)
        now = np.where(
            (table["timestamp"] < tastes.moves_at[table["user_id"]])[:, None],
            tastes.first[table["user_id"]],
            tastes.later[table["user_id"]],
        )
        fits = (now == world.places_of(table["item_id"])[0][:, None]).any(axis=1)
        assert fits.mean() > 0.99  # a session that begins before the move may end after it


def test_sessions_have_their_length_and_one_taste():
    settings = WorldSettings(users=200, items=400, events=40_000, clusters=20, noise=0.0, session=8.0)
    table = events_of_block(World(settings), 0)
    gaps = np.diff(table["timestamp"])
    same = (np.diff(table["user_id"]) == 0) & (gaps > 0) & (gaps < 900)
    assert same.mean() == pytest.approx(1 - 1 / 8, abs=0.02)
    clusters = World(settings).places_of(table["item_id"])[0]
    assert (clusters[1:] == clusters[:-1])[same].mean() > 0.97
    assert table["timestamp"].min() >= START


def test_ids_tell_nothing_and_are_turned_back():
    world = World(replace(SMALL, items=10_000, clusters=100))
    clusters, ranks = world.places_of(np.arange(10_000))
    assert sorted(world.items_of(clusters, ranks).tolist()) == list(range(10_000))
    assert (world.items_of(clusters, ranks) == np.arange(10_000)).all()
    assert abs(np.corrcoef(np.arange(10_000), ranks)[0, 1]) < 0.05
    assert (np.bincount(clusters) == world.sizes(np.arange(100))).all()


def test_the_truth_lies_beside_and_says_what_the_world_says(tmp_path):
    generate(SMALL, tmp_path / "log", partitions=1)
    world = World.load(tmp_path / "log" / "truth" / "world.json")
    assert world.settings == SMALL
    users, items = (rows(tmp_path / "log", f"truth/{name}-*.parquet") for name in ("users", "items"))
    assert (users["taste_1"] == world.tastes(np.arange(300)).first[:, 0]).all()
    assert (users["events"] == np.bincount(rows(tmp_path / "log")["user_id"])).all()
    assert np.ma.getmaskarray(users["moves_at"]).mean() == pytest.approx(0.8, abs=0.08)
    assert (world.items_of(items["cluster"], items["rank"]) == items["item_id"]).all()


def test_prepare_reads_it_and_the_ids_lead_back_to_the_truth(tmp_path):
    spec = generate(SMALL, tmp_path / "log")
    dataset = Dataset.load(prepare(Spec.from_toml(spec), tmp_path / "prepared"))
    assert dataset.log.num_events == 6_000
    assert dataset.is_ordered


def test_the_verb_writes_it_and_says_what_is_wrong_in_one_line(tmp_path, capsys):
    words = ["data", "generate", "--users", "20", "--items", "30", "--to", str(tmp_path / "log")]
    assert status([*words, "--events", "99", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["events"] == len(rows(tmp_path / "log")["item_id"]) == 99
    assert World.load(answer["truth"]).settings.items == 30
    assert status([*words, "--events", "9"]) == 2
    error = capsys.readouterr().err
    assert "at least 3 a user: 60 for 20 users, got 9" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": 0}, "users must lie between 1 and"),
        ({"items": 2**31}, "items must lie between 1 and"),
        ({"events": 899}, "at least 3 a user: 900 for 300 users, got 899"),
        ({"clusters": 501}, "clusters must lie between 1 and the 500 items"),
        ({"noise": 1.5}, "noise is a share"),
        ({"drift": float("nan")}, "drift is a share"),
        ({"item_exponent": -1.0}, "item_exponent must lie"),
        ({"session": 0.5}, "session must be at least 1 and finite"),
        ({"days": 0}, "days must lie between 1 and 28,900"),
        ({"days": 99_999_999_999}, "times after 2100 are taken for mistaken ones; got 99999999999"),
        ({"days": 10**400}, "got 1000000"),
        ({"events": 10**400}, "events must be at most 9,007,199,254,740,992, got 1000000"),
    ],
)
def test_settings_that_make_no_world_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **changed)


def test_too_many_partitions_a_full_disk_and_a_foreign_folder_are_refused_before_anything_is_drawn(
    tmp_path, monkeypatch
):
    with pytest.raises(InputError, match="partitions must lie between 1 and 1, "):
        generate(SMALL, tmp_path / "log", partitions=2)
    with pytest.raises(InputError, match="most active user would have 18,980,574, more than"):
        generate(WorldSettings(users=2, items=9, events=20_000_000, user_exponent=5.0), tmp_path / "log")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not written by twotower"):
        generate(SMALL, tmp_path / "mine")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_000))
    with pytest.raises(InputError, match=r"6,000 events need up to 0\.0 GB of disk, and .* has 0\.0 GB free"):
        generate(SMALL, tmp_path / "log")
    assert not (tmp_path / "log").exists()
    (tmp_path / "world.json").write_text("{}")
    with pytest.raises(InputError, match="not the truth of a generated log"):
        World.load(tmp_path / "world.json")
