# mypy: allow-untyped-defs, allow-incomplete-defs
"""On a GPU: steps that are captured, compiled or fed from main memory train as plain ones do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.data.examples import EventRows, SequenceRows
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.run import ModelSection, Run
from twotower.experiment.train import train
from twotower.losses.full_softmax import full_softmax
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.sequential import SASRec
from twotower.models.two_tower import TwoTower
from twotower.sampling.base import Sampler
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.known import Positives
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.uniform import Uniform
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.config import Training
from twotower.training.gradient_cache import InParts
from twotower.training.loop import fit

pytestmark = pytest.mark.gpu

CONFIG = Training(
    epochs=6, batch_size=4, learning_rate=0.02, schedule="cosine", clip_norm=1.0, evaluate_every=0, capture="off"
)


def case(dataset, kind, dropout):
    """A model on the GPU, rows and objective; "near": the log stays in main memory."""
    torch.manual_seed(5)
    dataset = dataset.near("cuda") if kind.startswith("near") else dataset.to("cuda")
    schema, kind = dataset.schema, kind.removeprefix("near ")
    if kind == "sequences":
        windows = SequenceRows(dataset, dataset.log, history_length=4, item_features=False, one_width=True)
        return SASRec(schema, dim=8, history_length=4, dropout=dropout).to("cuda"), windows, AgainstAll(dataset)
    model = TwoTower(schema, dim=8, field_dim=4, hidden=(8,), dropout=dropout, id_dropout=dropout).to("cuda")
    rows = EventRows(dataset, dataset.log, history_length=3, item_features=kind != "all")
    if kind == "all":
        return model, rows, AgainstAll(dataset)
    counts = ItemCounts(dataset.log.items, schema.num_items).to("cuda")
    drawn = torch_generator(0, "popularity", device="cuda")
    samplers: dict[str, Callable[[], Sampler]] = {
        "uniform": lambda: Uniform(schema.num_items, 3, torch_generator(0, "uniform", device="cuda")),
        "mixed": lambda: Mixed([InBatch(counts), Popularity(counts.counts, 3, drawn)]),
    }
    positives = Positives(dataset.log.offsets, dataset.log.items, schema.num_items).to("cuda")
    return model, rows, AgainstSamples(dataset, samplers[kind](), SampledSoftmax(), positives)


def losses(dataset, kind, dropout=0.0, ahead=0, **settings):
    model, rows, objective = case(dataset, kind, dropout)
    return [record.loss for record in fit(model, rows, objective, replace(CONFIG, **settings), ahead=ahead).records]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["all", "uniform", "mixed"])
def test_captured_steps_draw_and_learn_as_plain_ones(kind, dropout, tiny_dataset):
    plain = losses(tiny_dataset, kind, dropout)
    assert losses(tiny_dataset, kind, dropout, capture="on") == pytest.approx(plain, rel=2e-3)


def test_a_captured_training_is_resumed(tiny_dataset, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    whole = losses(tiny_dataset, "uniform", 0.3, capture="on")
    for epochs, resume in ((2, False), (None, True)):
        model, rows, objective = case(tiny_dataset, "uniform", 0.3)
        config = replace(CONFIG, capture="on")
        done = fit(model, rows, objective, config, checkpoint=path, resume=resume, epochs=epochs)
    assert [record.loss for record in done.records] == pytest.approx(whole, rel=2e-3)


def test_a_step_that_waits_for_the_device_is_refused_in_one_line(tiny_dataset):
    model, rows, objective = case(tiny_dataset, "all", 0.0)
    plain = model.encode_users
    model.encode_users = lambda users: plain(users) * float(users.ids.sum() > 0)
    with pytest.raises(InputError, match=r"cannot be captured .*; set training.capture = 'off'"):
        fit(model, rows, objective, replace(CONFIG, capture="on"))


def test_a_training_after_one_that_was_refused_is_as_ever(tiny_dataset):
    expected = losses(tiny_dataset, "uniform", 0.3)
    model, rows, objective = case(tiny_dataset, "uniform", 0.3)
    plain = model.encode_users
    model.encode_users = lambda users: plain(users) * float(users.ids.sum() > 0)
    with pytest.raises(InputError, match="cannot be captured"):
        fit(model, rows, objective, replace(CONFIG, capture="on"))
    for capture in ("off", "on"):
        assert losses(tiny_dataset, "uniform", 0.3, capture=capture) == pytest.approx(expected, rel=2e-3)


def test_auto_goes_on_step_by_step_where_a_step_waits_for_the_device(tiny_dataset, caplog):
    caplog.set_level("INFO", "twotower.training.captured_step")

    def encode(model, users):
        states = TwoTower.encode_users(model, users)
        return states * float(users.ids.sum() > 0)

    found = []
    for capture in ("off", "auto"):
        model, rows, objective = case(tiny_dataset, "uniform", 0.3)
        model.encode_users = encode.__get__(model)
        config = replace(CONFIG, capture=capture)
        found.append([record.loss for record in fit(model, rows, objective, config).records])
    assert "steps are taken one by one" in caplog.text
    assert found[1] == pytest.approx(found[0], rel=2e-3)


@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns about PyTorch
@pytest.mark.parametrize("kind", ["all", "uniform", "sequences"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_steps_learn_as_plain_ones_and_compile_once(kind, precision, tiny_dataset):
    torch.compiler.reset()
    plain = losses(tiny_dataset, kind, precision=precision)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = losses(tiny_dataset, kind, precision=precision, compile=True)
    assert found == pytest.approx(plain, rel=2e-3 if precision == "float32" else 3e-2)


@pytest.mark.filterwarnings("ignore")
def test_compiled_and_captured(tiny_dataset):
    torch.compiler.reset()
    plain = losses(tiny_dataset, "all")
    assert losses(tiny_dataset, "all", compile=True, capture="on") == pytest.approx(plain, rel=2e-3)


@pytest.mark.parametrize("kind", ["all", "uniform", "mixed", "sequences"])
@pytest.mark.parametrize("more", [{}, {"ahead": 3}, {"capture": "on"}, {"ahead": 3, "capture": "on"}])
def test_a_log_in_main_memory_trains_the_same_model(kind, more, tiny_dataset):
    if kind == "sequences" and "capture" in more:
        pytest.skip("windows are not captured")
    plain = losses(tiny_dataset, kind)
    assert losses(tiny_dataset, f"near {kind}", **more) == pytest.approx(plain, rel=2e-3)


def test_a_log_in_main_memory_is_evaluated_the_same(tiny_dataset):
    from twotower.data.splitters import split_log

    model, _, _ = case(tiny_dataset, "all", 0.0)
    found = []
    for dataset in (tiny_dataset.to("cuda"), tiny_dataset.near("cuda")):
        split = split_log(dataset.log, "leave-one-out")
        protocol = Protocol(ks=(3,), mask_seen=True)
        found.append(evaluate(model, dataset, split.test, protocol, train=split.train).metrics)
    assert found[1] == pytest.approx(found[0])


@pytest.mark.parametrize("model", ["two_tower", "sasrec"])
@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_a_whole_run_from_main_memory_trains_and_tests(model, loss, tiny_dataset):
    run = Run(model=ModelSection(model, {"dim": 8, "history_length": 4}))
    words = ["training.epochs=2", "training.batch_size=4", "training.device=cuda", f"objective.loss={loss}"]
    found = []
    for where in ("device", "host"):
        done = train(run.with_settings([*words, f"training.data={where}"]), dataset=tiny_dataset)
        assert done.dataset.is_near == (where == "host")
        found.append([record.loss for record in done.records])
    if model == "two_tower":  # the other draws dropout
        assert found[1] == pytest.approx(found[0], rel=2e-3)


def test_a_batch_in_parts_draws_the_same_dropout_for_its_gradient(tiny_dataset):
    model, rows, _ = case(tiny_dataset, "uniform", 0.5)
    drawn = []
    plain = model.user_mlp.forward

    def forward(given):
        drawn.append(plain(given))
        return drawn[-1]

    model.user_mlp.forward = forward
    InParts(model, 5).encode_users(rows.cut(torch.arange(18)).users).sum().backward()
    assert len(drawn) == 8
    for first, second in zip(drawn[:4], drawn[:3:-1], strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("tile", [7, 1000])
def test_tiles_of_items_give_what_the_cpu_gives(tile):
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(30, 8, generator=generator), torch.randn(50, 8, generator=generator)
    targets = torch.randint(2, 50, (30,), generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        inputs = [part.to(device).requires_grad_() for part in (users, items, torch.tensor(3.0))]
        loss = full_softmax(inputs[0], inputs[1], targets.to(device), inputs[2], tile=tile)
        results.append([part.cpu() for part in (loss, *torch.autograd.grad(loss, inputs))])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
