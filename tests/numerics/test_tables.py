"""Tables that share rows or keep them on the host: against loops, and trained, saved and grown as any other."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Items, Users
from twotower.core.schema import Schema
from twotower.data.examples import EventRows, SequenceRows
from twotower.experiment.recipes import default_run
from twotower.experiment.run import ModelSection
from twotower.experiment.several import check_model
from twotower.experiment.train import train
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.encode import encode_known_items, inference
from twotower.models.enlarge import enlarged
from twotower.models.registry import build_model
from twotower.ops.exchange import Place
from twotower.ops.rounding import rounded_to_bfloat16
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.known import Positives
from twotower.serving.bundle import Bundle
from twotower.serving.onnx.graphs import write_item_tower, write_user_tower
from twotower.towers.hashed_table import PRIME, HashedTable
from twotower.towers.host_table import HostTable
from twotower.towers.quotient_table import QuotientRemainderTable
from twotower.towers.sharded_table import ShardedTable
from twotower.towers.sparse_table import SparseTable
from twotower.towers.table import Table
from twotower.towers.tables import build_table
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.config import Training
from twotower.training.distributed import World
from twotower.training.loop import fit
from twotower.training.optimize import build_optimizer, plain_state, restore_state, set_rate
from twotower.training.row_adagrad import RowAdagrad

KINDS = ("dense", "hashed", "quotient_remainder", "sparse", "host", "sharded")
SHARED = {"hashed": {"table": "hashed", "table_buckets": 4}} | {
    kind: {"table": kind} for kind in ("sparse", "host", "sharded", "torchrec")
}
SHARED["quotient_remainder"] = {"table": "quotient_remainder", "table_buckets": 3}


def table_of(kind: str, rows: int = 23, dim: int = 3) -> Table:
    torch.manual_seed(1)
    buckets = 5 if kind in ("hashed", "quotient_remainder") else 0
    return build_table(kind, rows, dim, buckets=buckets).double()


def slow_row(table: Table, id: int) -> list[float]:
    """The vector of one id by its definition, in Python numbers."""
    if id == 0:
        return [0.0] * table.dim
    if isinstance(table, QuotientRemainderTable):
        left, right = (id, id) if id < 2 else (2 + id // table.buckets, 2 + id % table.buckets)
        pair = (table.quotients[left].tolist(), table.remainders[right].tolist())
        return [one * other for one, other in zip(*pair, strict=True)]
    assert isinstance(table, HashedTable)
    rows = [
        1 if id == 1 else 2 + (a * id + b) % PRIME % table.buckets
        for a, b in zip(table.multipliers.tolist(), table.shifts.tolist(), strict=True)
    ]
    summed = [sum(table.rows[row][column].item() for row in rows) for column in range(table.dim)]
    return [number / math.sqrt(table.hashes) for number in summed]


@pytest.mark.parametrize("kind", ["hashed", "quotient_remainder"])
def test_shared_rows_match_loops(kind):
    table = table_of(kind)
    expected = torch.tensor([slow_row(table, id) for id in range(23)], dtype=torch.float64)
    ids = torch.arange(23).flip(0).view(1, 23)
    torch.testing.assert_close(table(ids)[0].flip(0), expected, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(table.whole(), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_that_of_the_vectors_without_padding(kind):
    table = table_of(kind)
    ids = torch.tensor([[4, 4, 9, 0], [1, 22, 0, 0], [0, 0, 0, 0]])
    vectors = table(ids)
    expected = torch.stack([vectors[0, :3].mean(0), vectors[1, :2].mean(0), vectors[2, 0] * 0])
    torch.testing.assert_close(table.mean(ids), expected, rtol=1e-13, atol=1e-15)
    with torch.no_grad():
        torch.testing.assert_close(table.mean(ids), expected, rtol=1e-13, atol=1e-15)
        assert torch.equal(table(ids), vectors)
    assert not table(torch.tensor(0)).any()
    assert table.mean(torch.empty(2, 0, dtype=torch.int64)).tolist() == [[0.0] * 3] * 2
    assert isinstance(table, Table)


@pytest.mark.parametrize("kind", ["hashed", "quotient_remainder"])
def test_shared_rows_take_gradients_and_padding_takes_none(kind):
    table = table_of(kind)
    names = [name for name, _ in table.named_parameters()]
    ids = torch.tensor([[4, 9, 1, 0], [22, 4, 0, 0]])

    def run(*rows: torch.Tensor) -> torch.Tensor:
        found = torch.func.functional_call(table, dict(zip(names, rows, strict=True)), (ids,))
        return found[ids != 0].sin().sum()

    given = tuple(part.detach().clone().requires_grad_() for part in table.parameters())
    assert torch.autograd.gradcheck(run, given)
    (table(ids).sum() + table.mean(ids).sum()).backward()
    assert all(not part.grad[0].any() for part in table.parameters())


def test_no_two_ids_share_both_quotient_and_remainder():
    table = QuotientRemainderTable(500, 4, buckets=23)
    vectors = table.whole()[1:]
    assert len(vectors.unique(dim=0)) == 499
    assert sum(part.numel() for part in table.parameters()) == 4 * (2 + 22 + 2 + 23)


def test_a_pair_of_ids_meets_in_one_hash_as_often_as_chance_and_hardly_ever_in_two():
    table = HashedTable(2000, 2, buckets=100)
    places = table.places(torch.arange(2, 2000)) - 2
    assert places.min() == 0
    assert places.max() == 99
    meet = [float((places[:, None, at] == places[None, :, at]).float().mean()) for at in (0, 1)]
    assert meet == pytest.approx([0.0105, 0.0105], abs=0.0005)  # itself, and a hundredth of the others
    both = sum((set(one) == set(other)) for one, other in itertools.combinations(places[:400].tolist(), 2)) / math.comb(
        400, 2
    )
    assert both < 5e-4


@pytest.mark.parametrize("kind", ["hashed", "quotient_remainder"])
def test_an_id_that_came_after_training_is_read_as_the_unknown_one(kind, tiny_dataset):
    settings = {"dim": 4, "field_dim": 3, **SHARED[kind]}
    model = build_model("two_tower", tiny_dataset.schema, settings)
    grown = replace(tiny_dataset.schema, num_items=14)  # of quotients by 3 a row more
    served = enlarged(model, "two_tower", settings, grown, as_unknown=True).item_table
    trained = enlarged(model, "two_tower", settings, grown, as_unknown=False).item_table
    assert torch.equal(served(torch.tensor([11])), served(torch.tensor([1])))
    assert not torch.equal(trained(torch.tensor([11])), trained(torch.tensor([1])))
    assert torch.equal(trained.whole()[:10], model.item_table.whole())
    assert len(trained.whole()[10:].unique(dim=0)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_unknown_id_can_be_given_a_row(kind):
    table = table_of(kind)
    before, row = table.whole().detach().clone(), torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    table.put(torch.tensor([1]), row)
    torch.testing.assert_close(table(torch.tensor([1])), row, rtol=1e-15, atol=0)
    assert torch.equal(table.whole()[2:], before[2:])


def test_rows_of_the_host_stay_there_and_follow_the_type_alone():
    table = HostTable(9, 3)
    before = table.shard.clone()
    table.to("meta")
    assert table.shard.device.type == "cpu"
    assert table.double().shard.dtype == torch.float64
    assert torch.equal(table.shard.float(), before)
    assert list(table.parameters()) == []
    assert list(table.state_dict()) == ["shard"]
    assert SparseTable(9, 3).to("meta").shard.device.type == "meta"


def case(dataset, dtype=torch.float32, **table):
    """A model, its rows and an objective, the same at every call."""
    torch.manual_seed(5)
    model = build_model("two_tower", dataset.schema, {"dim": 6, "field_dim": 4, "user_id": True} | table).to(dtype)
    rows = EventRows(dataset, dataset.log, history_length=3, item_features=True)
    positives = Positives(dataset.log.offsets, dataset.log.items, dataset.schema.num_items)
    sampler = InBatch(ItemCounts(dataset.log.items, dataset.schema.num_items))
    return model, rows, AgainstSamples(dataset, sampler, SampledSoftmax(), positives)


def as_double(dataset):
    """Features in float64, as a model in float64 wants them."""

    def widened(columns):
        return {name: part.double() if part.is_floating_point() else part for name, part in columns.items()}

    return replace(dataset, user_features=widened(dataset.user_features), item_features=widened(dataset.item_features))


@pytest.mark.parametrize("kind", ["sparse", "host"])
def test_its_rows_are_trained_as_a_dense_table_under_row_wise_adagrad(kind, tiny_dataset):
    dataset, config = as_double(tiny_dataset), Training(learning_rate=0.01, row_rate=0.2)
    host, rows, objective = case(dataset, torch.float64, table=kind)
    dense, _, _ = case(dataset, torch.float64)
    tables = [name for name, part in host.named_modules() if isinstance(part, SparseTable)]
    assert tables == ["item_table", "user_table"]
    dense.load_state_dict({name.replace(".shard", ".weight"): part for name, part in host.state_dict().items()})
    optimizer = build_optimizer(host, config)
    weights = [part for name, part in dense.named_parameters() if name.split(".")[0] not in tables]
    reference = torch.optim.AdamW(weights, lr=0.01, weight_decay=0.0)
    squares = {name: torch.zeros(dense.get_submodule(name).num_rows, dtype=torch.float64) for name in tables}
    for step in range(4):
        batch = rows.cut(torch.arange(18).roll(5 * step)[:7])
        optimizer.zero_grad()
        found = objective(host, batch)
        found.backward()
        optimizer.step()
        expected = objective(dense, batch)
        dense.zero_grad()
        expected.backward()
        reference.step()
        for name in tables:
            weight = dense.get_submodule(name).weight
            squares[name] += weight.grad.square().mean(1)
            moved = weight.detach() - 0.2 * weight.grad / (squares[name].sqrt() + 1e-8)[:, None]
            weight.data.copy_(torch.where(weight.grad.any(1, keepdim=True), moved, weight))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for name in tables:
        torch.testing.assert_close(host.get_submodule(name).shard, dense.get_submodule(name).weight.detach())
        torch.testing.assert_close(optimizer.rows[name].squares, squares[name])
    assert not host.item_table.shard[0].any()


@pytest.mark.parametrize("kind", ["hashed", "quotient_remainder", "host", "host in bfloat16"])
def test_a_resumed_training_is_the_one_that_was_not_stopped_to_the_bit(kind, tiny_dataset, tmp_path):
    table, state = SHARED[kind.split()[0]], "bfloat16" if "bfloat16" in kind else "float32"
    config = Training(epochs=4, batch_size=5, learning_rate=0.02, row_state=state)
    model, rows, objective = case(tiny_dataset, **table)
    fit(model, rows, objective, config)
    path, expected = tmp_path / "checkpoint.safetensors", model.state_dict()
    model, rows, objective = case(tiny_dataset, **table)
    fit(model, rows, objective, config, checkpoint=path, epochs=2)
    begun = {name: value.clone() for name, value in model.state_dict().items()}
    model, rows, objective = case(tiny_dataset, **table)
    torch.randn(100)
    fit(model, rows, objective, config, checkpoint=path, resume=True)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, begun[name]) for name, value in expected.items() if "item_table" in name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hashed", "quotient_remainder", "sparse", "host", "sharded"])
def test_a_bundle_comes_back_with_its_table(kind, tiny_dataset, tmp_path):
    run = default_run("two_tower")
    settings = run.model.settings | {"dim": 8, "field_dim": 8} | SHARED[kind]
    run = replace(run, model=ModelSection("two_tower", settings), training=Training(epochs=2, device="cpu"))
    trained = train(run, to=tmp_path / "bundle", dataset=tiny_dataset)
    bundle = Bundle.load(tmp_path / "bundle")
    before, after = trained.model.state_dict(), bundle.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], part) for name, part in before.items())
    with inference(bundle.model):
        again = encode_known_items(bundle.model, tiny_dataset).states
    assert torch.equal(again, bundle.item_states)


def test_a_state_in_bfloat16_keeps_the_sum_of_many_small_steps():
    def trained(state: str) -> RowAdagrad:
        torch.manual_seed(0)
        table = HostTable(66, 4)
        optimizer = RowAdagrad(table, rate=0.05, state=state)
        optimizer.squares.fill_(64.0)
        for _ in range(1000):
            table(torch.arange(1, 65)).backward(torch.full((64, 4), 0.1))
            optimizer.step()
        return optimizer

    whole, short = trained("float32"), trained("bfloat16")
    assert short.squares.dtype == torch.bfloat16
    # 1,000 steps of 0.01, each a fiftieth of the distance between two numbers of bfloat16 there: a row is off by about
    # 2.2, the mean of 64 by 0.3.
    assert whole.squares[1:65].tolist() == pytest.approx([74.0] * 64, rel=1e-4)
    assert float(short.squares[1:65].float().mean()) == pytest.approx(74.0, abs=1.0)
    assert float(short.squares[1:65].float().std()) == pytest.approx(2.2, abs=0.7)
    assert short.squares[[0, 65]].tolist() == [64.0, 64.0]


def test_rounding_by_chance_keeps_the_mean_and_numbers_that_fit():
    values = torch.linspace(1.0, 2.0, 257)[:-1].repeat_interleave(4000)
    found = rounded_to_bfloat16(values, torch.randn(len(values), generator=torch.Generator().manual_seed(0)))
    assert float((found.float() - values).abs().max()) < 2**-7
    means = found.float().view(256, 4000).mean(1)
    torch.testing.assert_close(means, values[::4000], rtol=0, atol=6 * 2**-7 / (2 * 4000**0.5))
    assert torch.equal(means[::2], values[::8000])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"table": "hased"}, "unknown model.table 'hased'; did you mean 'hashed'"),
        (
            {"table": "hashed"},
            "at least 2 buckets and fewer than its 10 ids, got 0: set model.table_buckets",
        ),
        ({"table": "quotient_remainder", "table_buckets": 10}, "fewer than its 10 ids, got 10"),
        ({"table": "hashed", "table_buckets": 4, "table_hashes": 0}, "model.table_hashes = 0: 1 to 64 rows"),
        ({"table": "hashed", "table_buckets": 4, "table_hashes": 10**9}, "model.table_hashes = 1000000000: 1 to 64"),
        ({"table": "quotient_remainder", "table_buckets": 4, "table_hashes": 3}, "read by a hashed table alone"),
        ({"table": "host", "table_buckets": 4}, "table_buckets is read by hashed and quotient_remainder alone"),
        ({"table": "hashed", "table_buckets": 4, "init": "cooccurrence", "hidden": [], "dim": 64}, "ids of a hashed"),
    ],
)
def test_a_table_that_cannot_be_is_refused_in_one_line(settings, text, tiny_dataset):
    with pytest.raises((InputError, ValueError), match=text) as refused:
        build_model("two_tower", tiny_dataset.schema, settings)
    assert "\n" not in str(refused.value)


@pytest.mark.bad_input
@pytest.mark.parametrize("key", ["clip_norm", "weight_decay"])
def test_what_is_not_done_to_rows_of_the_host_is_refused(key, tiny_dataset):
    model, _, _ = case(tiny_dataset, table="host")
    with pytest.raises(InputError, match=f"training.{key} reaches weights alone"):
        build_optimizer(model, Training(**{key: 0.5}))


@pytest.mark.bad_input
@pytest.mark.bad_input
def test_a_rate_of_rows_that_no_step_would_take_is_refused(tiny_dataset):
    model, _, _ = case(tiny_dataset, table="sparse")
    with pytest.raises(InputError, match="training.row_rate follows .*learning_rate, which is 0"):
        build_optimizer(model, Training(learning_rate=0.0, row_rate=0.1))


@pytest.mark.parametrize("setting", [{"row_rate": 0.1}, {"row_state": "bfloat16"}])
def test_what_is_of_rows_is_refused_where_a_model_has_none(setting, tiny_dataset):
    model, _, _ = case(tiny_dataset, table="dense")
    with pytest.raises(InputError, match="rows of sparse, host and sharded tables, and this model has none"):
        build_optimizer(model, Training(**setting))


@pytest.mark.bad_input
def test_a_host_table_on_several_ranks_and_a_state_of_no_type_are_refused(tiny_dataset, monkeypatch):
    model, _, _ = case(tiny_dataset, table="host")
    with pytest.raises(InputError, match="of a table in one process"):
        check_model(World(0, 2), default_run("two_tower"), model)
    monkeypatch.setattr(Place, "current", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(InputError, match="trained by one process"):
        build_optimizer(model, Training())
    with pytest.raises(InputError, match="unknown training.row_state 'float16'"):
        Training(row_state="float16")
    with pytest.raises(InputError, match="unknown state of row-wise Adagrad"):
        RowAdagrad(HostTable(3, 2), rate=0.1, state="int8")


def test_a_sharded_table_of_a_model_of_ones_own_is_trained_with_its_weights():
    table, layer = ShardedTable(9, 3, seed=0), torch.nn.Linear(3, 1)
    before = table.shard.clone()
    optimizer = build_optimizer(torch.nn.ModuleList([table, layer]), Training(row_rate=0.1))
    layer(table(torch.tensor([4]))).sum().backward()
    optimizer.step()
    assert (table.shard != before).any(1).nonzero()[:, 0].tolist() == [4]


def stepped(rates, *, between=lambda optimizer: None):
    """How far the rows of a table and the weights of a layer moved in the last step of some."""
    torch.manual_seed(0)
    table, layer = SparseTable(9, 3), torch.nn.Linear(3, 1)
    optimizer = build_optimizer(torch.nn.ModuleList([table, layer]), Training(optimizer="sgd", row_rate=0.1))
    for rate in rates:
        before = table.shard.clone(), layer.weight.detach().clone()
        optimizer.zero_grad()
        layer(table(torch.tensor([4, 7]))).sum().backward()
        set_rate(optimizer, rate, None)
        optimizer.step()
        between(optimizer)
    return float((table.shard - before[0]).abs().sum()), float((layer.weight.detach() - before[1]).abs().sum())


@pytest.mark.parametrize("way", ["as it is", "restored"])
def test_rows_and_weights_follow_the_rate_of_the_step(way):
    def again(optimizer):
        if way == "restored":
            restore_state(optimizer, plain_state(optimizer))

    assert min(stepped([1e-3, 1e-3], between=again)) > 0.0
    assert stepped([1e-3, 0.0], between=again) == (0.0, 0.0)


def test_a_backward_pass_that_is_forgotten_moves_no_row():
    table, layer = SparseTable(9, 3), torch.nn.Linear(3, 1)
    before = table.shard.clone()
    optimizer = build_optimizer(torch.nn.ModuleList([table, layer]), Training())
    layer(table(torch.tensor([4]))).sum().backward()
    optimizer.zero_grad()
    layer(table(torch.tensor([7]))).sum().backward()
    optimizer.step()
    assert (table.shard != before).any(1).nonzero()[:, 0].tolist() == [7]


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", ["hashed", "quotient_remainder"])
def test_a_shared_row_cannot_be_set(kind):
    with pytest.raises(InputError, match="none can be set but that of the unknown id"):
        table_of(kind).put(torch.tensor([3]), torch.ones(1, 3))


@pytest.mark.parametrize("kind", ["hashed", "quotient_remainder", "sparse", "host", "sharded"])
def test_a_sequence_model_takes_any_table(kind, tiny_dataset):
    torch.manual_seed(5)
    settings = {"dim": 8, "history_length": 4, "dropout": 0.0} | SHARED[kind]
    model = build_model("gru4rec", tiny_dataset.schema, settings)
    sasrec = build_model("sasrec", tiny_dataset.schema, settings)
    assert type(sasrec.item_table) is type(model.item_table)
    before = model.item_table.whole().detach().clone()
    rows = SequenceRows(tiny_dataset, tiny_dataset.log, history_length=4, item_features=False)
    progress = fit(model, rows, AgainstAll(tiny_dataset), Training(epochs=20, batch_size=2, learning_rate=0.05))
    losses = [record.loss for record in progress.records]
    assert losses[-1] < losses[0] - 0.05
    moved = (model.item_table.whole() != before).any(1)
    assert not moved[0]
    assert moved[2:].all()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_exports")
@pytest.mark.parametrize("kind", ["hashed", "quotient_remainder", "sparse", "host", "sharded", "torchrec"])
def test_both_towers_export_with_any_table(kind, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    schema = Schema(9, 40, (), (), has_times=False)
    settings = {"dim": 8, "field_dim": 8, "pooling": "both"} | SHARED[kind]
    model = build_model("two_tower", schema, settings).eval()
    history = torch.randint(2, 40, (3, 6))
    history[1, 3:] = history[2] = 0
    users, items = Users(torch.tensor([2, 3, 4]), {}, history), Items(torch.arange(40), {})
    with torch.no_grad():
        write_user_tower(model, users, tmp_path / "users.onnx", length=None)
        write_item_tower(model, Items(torch.arange(5), {}), tmp_path / "items.onnx")
        expected = model.encode_users(users), model.encode_items(items)
    given = {"ids": users.ids.numpy(), "history": history.numpy()}, {"ids": items.ids.numpy()}
    for side, inputs, vectors in zip(("users", "items"), given, expected, strict=True):
        (found,) = runtime.InferenceSession(tmp_path / f"{side}.onnx").run(None, inputs)
        torch.testing.assert_close(torch.from_numpy(found), vectors, rtol=1e-5, atol=1e-6)
