import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from twotower.core.errors import InputError
from twotower.ops.exchange import Place
from twotower.ops.uniform_by_id import uniform_by_id
from twotower.towers.sharded_table import ShardedTable
from twotower.towers.table import DenseTable, Table
from twotower.towers.table_files import load_table, save_table
from twotower.training.row_adagrad import RowAdagrad

PROGRAM = Path(__file__).with_name("ranks_of_a_table.py")


@pytest.fixture(scope="module")
def plan():
    """The functions of the program that the ranks run."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("ranks_of_a_table", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(size: int, job: str, folder: Path) -> None:
    """Run the program on so many processes that meet on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), job, str(folder)], env=os.environ | shared | {"RANK": str(rank)}
        )
        for rank in range(size)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * size


def dense_reference(plan) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """The whole plan on one table in float64, without any of the code under test but its random rows."""
    rows = uniform_by_id(torch.arange(plan.ROWS), plan.DIM, seed=1) * (plan.DIM**-0.5 * 3.0**0.5)
    rows[0] = 0.0
    weight = rows.double().requires_grad_()
    squares, losses = torch.zeros(plan.ROWS, dtype=torch.float64), []
    for step in range(plan.STEPS):
        history, items = plan.batch_of(step)
        there = (history != 0).double()
        means = (weight[history] * there[:, :, None]).sum(1) / there.sum(1).clamp(min=1)[:, None]
        loss = plan.loss_of(means, weight[items])
        (gradient,) = torch.autograd.grad(loss, weight)
        gradient = gradient / len(items)
        squares = squares + gradient.square().mean(1)
        moved = weight.detach() - plan.RATE * gradient / (squares.sqrt() + 1e-8)[:, None]
        weight = moved.requires_grad_()
        losses.append(float(loss.detach()))
    return weight.detach(), squares, losses


def saved_rows(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and squares of a saved table in the order of ids, by its files alone."""
    manifest = json.loads((folder / "manifest.json").read_text())
    parts = [load_file(folder / shard["file"]) for shard in manifest["shards"]]
    whole = {name: parts[0][name].new_empty(manifest["rows"], *parts[0][name].shape[1:]) for name in parts[0]}
    for place, part in enumerate(parts):
        for name, rows in part.items():
            whole[name][place :: len(parts)] = rows
    return whole["rows"], whole["squares"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The plan trained on 1, 2 and 3 processes, each in a folder of its own."""
    folders = {size: tmp_path_factory.mktemp(f"ranks{size}") for size in (1, 2, 3)}
    for size, folder in folders.items():
        start(size, "train", folder)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_train_the_table_of_a_dense_reference(plan, trained, size):
    rows, squares, losses = dense_reference(plan)
    found_rows, found_squares = saved_rows(trained[size] / "table")
    torch.testing.assert_close(found_rows, rows, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found_squares, squares, rtol=1e-12, atol=1e-13)
    told = [load_file(trained[size] / f"{size}-{rank}.safetensors")["losses"] for rank in range(size)]
    torch.testing.assert_close(sum(told), torch.tensor(losses, dtype=torch.float64), rtol=1e-12, atol=1e-13)
    assert not found_rows[0].any()


@pytest.mark.slow
def test_a_run_on_as_many_ranks_repeats_to_the_bit(trained, tmp_path):
    start(2, "train", tmp_path)
    for before, after in zip(saved_rows(trained[2] / "table"), saved_rows(tmp_path / "table"), strict=True):
        assert torch.equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize(("saved_by", "read_by"), [(3, 2), (2, 3), (3, 1)])
def test_a_table_is_read_on_another_number_of_ranks(trained, tmp_path, saved_by, read_by):
    shutil.copytree(trained[saved_by] / "table", tmp_path / "table")
    start(read_by, "load", tmp_path)
    again = tmp_path / f"again-{read_by}"
    assert len(list(again.glob("shard-*"))) == read_by
    for before, after in zip(saved_rows(tmp_path / "table"), saved_rows(again), strict=True):
        assert torch.equal(before, after)


@pytest.mark.slow
def test_a_lost_rank_is_one_clear_error(tmp_path):
    start(2, "lose", tmp_path)
    assert (tmp_path / "error").read_text().startswith("a rank that holds rows of a table is gone")


def test_random_numbers_belong_to_their_id():
    whole = uniform_by_id(torch.arange(5000), 16, seed=4)
    some = torch.tensor([4999, 3, 77])
    assert torch.equal(uniform_by_id(some, 16, seed=4), whole[some])
    assert not torch.equal(uniform_by_id(some, 16, seed=5), whole[some])
    assert whole.min() >= -1.0
    assert whole.max() < 1.0
    assert abs(float(whole.mean())) < 0.01
    assert float(whole.std()) == pytest.approx(3.0**-0.5, rel=0.01)
    assert float((torch.corrcoef(whole.T) - torch.eye(16)).abs().max()) < 0.07
    # Ids beyond 32 bits are others than their low part.
    assert not torch.equal(uniform_by_id(some + (1 << 32), 16, seed=4), whole[some])


@pytest.mark.parametrize("make", [lambda: ShardedTable(9, 3, seed=0), lambda: DenseTable(9, 3)])
def test_every_table_keeps_padding_zero(make):
    table = make()
    assert isinstance(table, Table)
    ids = torch.tensor([[4, 4, 0], [0, 0, 0]])
    vectors, means = table(ids), table.mean(ids)
    assert torch.equal(means[0], vectors[0, 0])
    assert not means[1].any()
    assert not vectors[1].any()
    assert vectors[0, 0].any()
    assert table.mean(torch.empty(2, 0, dtype=torch.int64)).tolist() == [[0.0] * 3] * 2


def test_duplicates_of_a_batch_are_summed():
    table = ShardedTable(9, 3, seed=0)
    table(torch.tensor([5, 2, 5, 0])).backward(torch.tensor([[1.0, 2, 3], [10, 0, 0], [100, 0, 0], [7, 7, 7]]))
    table.mean(torch.tensor([[2, 0]])).backward(torch.ones(1, 3))
    slots, rows = table.take_gradient()
    assert slots.tolist() == [0, 2, 5]
    assert rows.tolist() == [[0.0] * 3, [11.0, 1.0, 1.0], [101.0, 2.0, 3.0]]
    assert table.take_gradient()[0].tolist() == []


def test_rows_without_gradient_do_not_move():
    table = ShardedTable(9, 3, seed=0)
    before, optimizer = table.shard.clone(), RowAdagrad(table, rate=0.5)
    table(torch.tensor([5])).backward(torch.tensor([[3.0, 0.0, 0.0]]))
    optimizer.step()
    moved = (table.shard != before).any(1).nonzero()[:, 0]
    assert moved.tolist() == [5]
    # s = 9 / 3, so that the row moves by 0.5 · 3 / √3.
    assert float(before[5, 0] - table.shard[5, 0]) == pytest.approx(0.5 * 3.0**0.5, rel=1e-6)
    assert optimizer.squares.nonzero()[:, 0].tolist() == [5]


def test_the_shard_is_no_weight_that_ranks_would_average():
    table = ShardedTable(9, 3, seed=0)
    assert list(table.parameters()) == []
    assert list(table.state_dict()) == ["shard"]


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_more_ranks_than_rows_are_refused_by_every_rank_alike(saved, rank, monkeypatch):
    monkeypatch.setattr(Place, "current", classmethod(lambda cls: cls(rank, 4)))
    said = "a table of 3 rows cannot be shared out over 4 ranks: each needs a row; start fewer ranks"
    with pytest.raises(InputError, match=said):
        ShardedTable(3, 4, seed=0)
    manifest = saved / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"rows": 3}))
    with pytest.raises(InputError, match=said):
        load_table(saved)
    assert len(ShardedTable(4, 4, seed=0).shard) == 1


def test_an_id_beyond_the_table_is_refused():
    with pytest.raises(InputError, match="9 rows was asked for ids 2 to 9"):
        ShardedTable(9, 3, seed=0)(torch.tensor([2, 9]))


@pytest.mark.parametrize(("arguments", "text"), [((0, 3), "at least one row"), ((3, 0), "at least one row")])
def test_a_table_without_rows_or_columns_is_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        ShardedTable(*arguments, seed=0)


@pytest.fixture
def saved(tmp_path):
    table = ShardedTable(9, 3, seed=0)
    save_table(table, tmp_path / "table", {"squares": torch.arange(9.0)})
    return tmp_path / "table"


def test_a_saved_table_comes_back(saved):
    table, state = load_table(saved)
    assert torch.equal(table.shard, ShardedTable(9, 3, seed=0).shard)
    assert torch.equal(state["squares"], torch.arange(9.0))


def test_a_second_save_leaves_the_new_table_alone(saved):
    save_table(ShardedTable(9, 3, seed=1), saved)
    assert len(list(saved.iterdir())) == 2
    table, state = load_table(saved)
    assert torch.equal(table.shard, ShardedTable(9, 3, seed=1).shard)
    assert state == {}


def _change(folder: Path) -> None:
    (shard,) = folder.glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")


def _remove(folder: Path) -> None:
    for shard in folder.glob("shard-*"):
        shard.unlink()


def _rename(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["file"] = "../elsewhere.safetensors"
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _cut(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"kind": "sharded-table", "format": 1}')


def _other(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"kind": "bundle", "format": 1}')


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_change, "was changed since"),
        (_remove, "no such file"),
        (_rename, "outside the folder"),
        (_cut, "damaged"),
        (_other, "not that of a sharded table"),
    ],
)
def test_a_damaged_table_is_refused(saved, damage, text):
    damage(saved)
    with pytest.raises(InputError, match=text):
        load_table(saved)


def test_a_table_is_not_saved_over_something_else(saved, tmp_path):
    _other(saved)
    with pytest.raises(InputError, match="not that of a sharded table"):
        save_table(ShardedTable(9, 3, seed=1), saved)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="not written by twotower"):
        save_table(ShardedTable(9, 3, seed=1), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_state_with_other_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="a row a row of the shard"):
        save_table(ShardedTable(9, 3, seed=1), tmp_path / "table", {"squares": torch.zeros(8)})


def test_the_state_of_another_shard_is_refused():
    with pytest.raises(InputError, match="needs 'squares'"):
        RowAdagrad(ShardedTable(9, 3, seed=0), rate=0.1).load_state({"squares": torch.zeros(8)})
