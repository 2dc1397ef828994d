"""Rows that TorchRec keeps: those of a sharded table, moved as row-wise Adagrad does, and plain without TorchRec."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.experiment.recipes import default_run
from twotower.experiment.several import check_model
from twotower.models.registry import build_model
from twotower.ops.exchange import LostOwnerError
from twotower.towers.sharded_table import ShardedTable
from twotower.towers.table import Table
from twotower.towers.tables import build_table
from twotower.towers.torchrec_rows import check_torchrec, lost_to_torchrec
from twotower.towers.torchrec_table import FusedRows, TorchRecTable
from twotower.training.config import Training
from twotower.training.distributed import World
from twotower.training.optimize import build_optimizer
from twotower.training.row_adagrad import RowAdagrad


@pytest.fixture
def torchrec() -> ModuleType:
    """TorchRec, where its triple is installed."""
    try:
        return check_torchrec()
    except InputError as missing:
        pytest.skip(str(missing))


def loss_of(table: Table, step: int) -> torch.Tensor:
    """Two lookups that share rows, with repeats and padding."""
    generator = torch.Generator().manual_seed(step)
    history = torch.randint(0, 11, (6, 3), generator=generator)
    items = torch.randint(0, 11, (6,), generator=generator)
    return (table.mean(history) * table(items)).sum(1).sigmoid().log().sum()


def test_torchrec_moves_rows_as_row_wise_adagrad_does(torchrec):
    ours, theirs = ShardedTable(11, 8, seed=3), TorchRecTable(11, 8, seed=3)
    adagrad, fused = RowAdagrad(ours, rate=0.3), FusedRows(theirs, rate=0.3)
    begun = ours.shard.clone()
    for step in range(5):
        for table, optimizer in ((ours, adagrad), (theirs, fused)):
            loss_of(table, step).backward()
            optimizer.step(rows=6, rate=0.1 * (step + 1))
        torch.testing.assert_close(theirs.shard, ours.shard, rtol=0, atol=1e-6)
        torch.testing.assert_close(fused.squares, adagrad.squares, rtol=1e-5, atol=1e-9)
    assert float((ours.shard - begun)[1:].abs().min()) > 0.01
    assert not theirs.shard[0].any()


def test_its_lookups_are_those_of_a_sharded_table_with_and_without_gradients(torchrec):
    ours, theirs = ShardedTable(11, 8, seed=3), TorchRecTable(11, 8, seed=3)
    FusedRows(theirs, rate=0.3)
    ids = torch.tensor([[3, 0, 3], [0, 0, 0]])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.equal(theirs(ids), ours(ids))
            assert torch.equal(theirs.mean(ids), ours.mean(ids))
            assert torch.equal(theirs.whole(), ours.whole())
            assert theirs.mean(ids[:, :0]).shape == (2, 8)
    theirs.put(torch.tensor([4]), torch.full((1, 8), 2.0))
    assert theirs(torch.tensor([4])).tolist() == [[2.0] * 8]


def test_rows_are_a_buffer_of_torchrecs_own_memory_and_no_weights(torchrec):
    table = TorchRecTable(11, 8, seed=3)
    kept = FusedRows(table, rate=0.3).kept
    assert list(table.state_dict()) == ["shard"]
    assert not list(table.parameters())
    table.load_state_dict({"shard": torch.ones(11, 8)})
    assert kept.rows.sum() == 88.0
    assert table(torch.tensor([5])).tolist() == [[1.0] * 8]


def test_a_step_without_a_touched_row_moves_none(torchrec):
    table = TorchRecTable(11, 8, seed=3)
    fused, before = FusedRows(table, rate=0.3), table.shard.clone()
    fused.step()
    assert torch.equal(table.shard, before)


def test_its_state_goes_on_in_another_optimiser(torchrec):
    first = TorchRecTable(11, 8, seed=3)
    fused = FusedRows(first, rate=0.3)
    loss_of(first, 0).backward()
    fused.step()
    second = TorchRecTable(11, 8, seed=4)
    other = FusedRows(second, rate=0.3)
    second.load_state_dict(first.state_dict())
    other.load_state(fused.state())
    for table, optimizer in ((first, fused), (second, other)):
        loss_of(table, 1).backward()
        optimizer.step()
    assert torch.equal(first.shard, second.shard)
    with pytest.raises(InputError, match="11 rows it needs 'squares'"):
        other.load_state({"squares": torch.ones(3)})


def test_rows_that_are_moved_or_cast_leave_torchrec_and_can_be_read(torchrec):
    table = TorchRecTable(11, 8, seed=3)
    FusedRows(table, rate=0.3)
    table.to("cpu")
    assert table.kept is not None
    table.double()
    assert table.kept is None
    assert table(torch.tensor([5])).dtype == torch.float64
    with pytest.raises(InputError, match="keeps rows in float32, and this model is in torch.float64"):
        FusedRows(table, rate=0.3)


def test_a_model_of_ones_own_is_trained_with_its_weights(torchrec):
    table, layer = TorchRecTable(9, 4, seed=0), torch.nn.Linear(4, 1)
    optimizer = build_optimizer(torch.nn.ModuleList([table, layer]), Training(row_rate=0.1))
    before = table.shard.clone()
    layer(table(torch.tensor([4]))).sum().backward()
    optimizer.step()
    assert (table.shard != before).any(1).nonzero()[:, 0].tolist() == [4]


def test_without_torchrec_its_rows_are_read_as_those_of_a_sharded_table(tmp_path):
    model = build_model("two_tower", Schema(9, 40, (), (), has_times=False), {"table": "torchrec"})
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    program = f"""if True:
        import sys
        sys.modules["torchrec"] = sys.modules["fbgemm_gpu"] = None
        import torch
        from safetensors.torch import load_file
        from twotower.core.schema import Schema
        from twotower.models.registry import build_model
        model = build_model("two_tower", Schema(9, 40, (), (), has_times=False), {{"table": "torchrec"}})
        model.load_state_dict(load_file({str(tmp_path / "weights.safetensors")!r}))
        table = model.item_table
        with torch.no_grad():
            assert torch.equal(table(torch.arange(40)), table.whole())
        print(table.whole()[7].tolist(), type(table).__name__)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip()
        == f"{load_file(tmp_path / 'weights.safetensors')['item_table.shard'][7].tolist()} TorchRecTable"
    )


def test_its_first_rows_are_those_of_a_sharded_table():
    rows = []
    for kind in ("sharded", "torchrec"):
        torch.manual_seed(5)
        rows.append(build_table(kind, 23, 4).whole())
    assert torch.equal(*rows)


def test_a_run_without_torchrec_is_refused_in_one_line(tiny_dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec", None)
    model = build_model("two_tower", tiny_dataset.schema, {"table": "torchrec"})
    with pytest.raises(InputError, match=r"needs TorchRec \(no torchrec\): pip install 'twotower\[torchrec\]'"):
        check_model(World(), default_run("two_tower"), model)
    with pytest.raises(InputError, match="needs TorchRec"):
        build_optimizer(model, Training())


def test_a_triple_that_does_not_load_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torchrec", raising=False)
    (tmp_path / "torchrec.py").write_text("raise OSError('Could not load this library: fbgemm.so')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"does not load beside PyTorch .*fbgemm\.so.*exact triples") as refused:
        check_torchrec()
    assert "\n" not in str(refused.value)


def test_a_width_that_fbgemm_does_not_take_and_a_state_in_bfloat16_are_refused():
    with pytest.raises(InputError, match="a multiple of 4 numbers wide, not 6"):
        build_table("torchrec", 9, 6)
    with pytest.raises(InputError, match="row_state = 'bfloat16': TorchRec keeps the state of rows in float32"):
        FusedRows(TorchRecTable(9, 4, seed=0), rate=0.1, state="bfloat16")


def test_only_what_a_backend_raises_within_torchrec_means_a_lost_rank():
    with pytest.raises(LostOwnerError, match="holds rows of a table is gone"), lost_to_torchrec():
        raise RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer")
    with pytest.raises(RuntimeError, match="no kernel"), lost_to_torchrec():
        raise RuntimeError("no kernel for this type")
