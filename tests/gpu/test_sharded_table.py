# mypy: allow-untyped-defs, allow-incomplete-defs
import pytest
import torch

from twotower.ops.uniform_by_id import uniform_by_id
from twotower.towers.sharded_table import ShardedTable
from twotower.training.row_adagrad import RowAdagrad

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def trained(device: str, dtype: torch.dtype) -> torch.Tensor:
    """Three steps over repeated and padded ids."""
    table = ShardedTable(1000, 16, seed=3, device=device).to(dtype)
    optimizer = RowAdagrad(table, rate=0.1)
    for step in range(3):
        ids = torch.randint(0, 300, (512, 8), generator=torch.Generator().manual_seed(step)).to(device)
        (table.mean(ids) * table(ids[:, 0] + 1)).sin().sum().backward()
        optimizer.step(rows=512)
    return table.shard.cpu()


def test_a_table_is_drawn_to_the_same_bits_on_both_devices():
    ids = torch.tensor([0, 1, 99, 1 << 40])
    assert torch.equal(uniform_by_id(ids, 64, seed=1), uniform_by_id(ids.cuda(), 64, seed=1).cpu())
    assert torch.equal(ShardedTable(500, 8, seed=0).shard, ShardedTable(500, 8, seed=0, device="cuda").shard.cpu())


def test_both_devices_train_the_same_table():
    torch.testing.assert_close(trained("cuda", torch.float64), trained("cpu", torch.float64), rtol=1e-10, atol=1e-12)


def test_repeats_are_summed_in_one_order():
    assert torch.equal(trained("cuda", torch.float32), trained("cuda", torch.float32))
