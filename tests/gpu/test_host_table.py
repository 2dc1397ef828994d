# mypy: allow-untyped-defs, allow-incomplete-defs
import pytest
import torch

from twotower.core.schema import Schema
from twotower.models.registry import build_model
from twotower.towers.host_table import HostTable
from twotower.towers.sparse_table import SparseTable
from twotower.training.row_adagrad import RowAdagrad

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def trained(device: str, kind: type[SparseTable]) -> torch.Tensor:
    """Three steps over repeated and padded ids."""
    torch.manual_seed(0)
    table = kind(1000, 16).double().to(device)
    optimizer = RowAdagrad(table, rate=0.1)
    for step in range(3):
        ids = torch.randint(0, 300, (512, 8), generator=torch.Generator().manual_seed(step)).to(device)
        (table.mean(ids) * table(ids[:, 0] + 1)).sin().sum().backward()
        optimizer.step()
    return table.shard.cpu()


def test_a_model_on_a_gpu_leaves_its_rows_on_the_host_page_locked():
    settings = {"dim": 8, "field_dim": 8, "table": "host"}
    table = build_model("two_tower", Schema(9, 5000, (), (), has_times=False), settings).cuda().item_table
    assert isinstance(table, HostTable)
    assert table.shard.device.type == "cpu"
    assert table.shard.is_pinned()
    vectors = table(torch.tensor([3, 0]).cuda())
    assert vectors.is_cuda
    assert torch.equal(vectors[0].detach().cpu(), table.shard[3])
    with torch.inference_mode():
        assert torch.equal(table(torch.tensor([3, 0]).cuda()), vectors)


@pytest.mark.parametrize("kind", [SparseTable, HostTable])
def test_both_devices_train_the_same_rows(kind):
    torch.testing.assert_close(trained("cuda", kind), trained("cpu", kind), rtol=1e-10, atol=1e-12)
