"""Steps that are cut ahead, compiled or captured are those of the plain loop; what cannot be is refused at once."""

import functools
import threading
import weakref
from dataclasses import replace
from unittest import mock

import pytest
import torch
from stopping import StopAt
from torch.utils._python_dispatch import TorchDispatchMode

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows, SequenceRows
from twotower.data.log import Log
from twotower.experiment.run import ModelSection, Run
from twotower.experiment.train import train
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.base import reads_times
from twotower.models.sequential import SASRec
from twotower.models.two_tower import TwoTower
from twotower.sampling import known
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.known import Positives
from twotower.sampling.memory_bank import MemoryBank
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.uniform import Uniform
from twotower.towers.sparse_table import SparseTable
from twotower.training import captured_step, steps
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.callbacks import Silent, StopTraining
from twotower.training.captured_step import WARM_UPS, CapturedStep
from twotower.training.compiled import CompiledParts
from twotower.training.config import Training
from twotower.training.feed import fed
from twotower.training.gradient_cache import GradientCached
from twotower.training.loop import fit
from twotower.training.optimize import build_optimizer
from twotower.training.regularise import Regulariser
from twotower.training.step import Step

CONFIG = Training(epochs=3, batch_size=4, learning_rate=0.0625, clip_norm=1.0)
"""18 events: four full batches an epoch, and one of two rows. A rate that float32 holds exactly."""


def events(dataset, sampler=None, loss=None):
    """A two-tower model, its rows and its objective; without a sampler the full softmax."""
    torch.manual_seed(5)
    model = TwoTower(dataset.schema, dim=8, field_dim=4, hidden=(8,), dropout=0.2, id_dropout=0.2)
    rows = EventRows(dataset, dataset.log, history_length=3, item_features=sampler is not None)
    if sampler is None:
        return model, rows, AgainstAll(dataset)
    positives = Positives(dataset.log.offsets, dataset.log.items, dataset.schema.num_items)
    return model, rows, AgainstSamples(dataset, sampler, loss or SampledSoftmax(), positives)


def judge(model):
    """A stand-in for a validation metric that moves up and down as weights do."""
    return {"ndcg@10": float(sum(part.detach().double().sum() for part in model.parameters()).sin())}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def uniform(dataset, **more):
    return Uniform(dataset.schema.num_items, 3, torch_generator(0, "uniform"), **more)


@pytest.fixture
def captures_here(monkeypatch):
    """Steps are captured on the CPU too: what is recorded is the work itself, done again on the same input."""
    made = []

    def again(work, generators):
        result = torch.zeros(())
        return (lambda: result.copy_(work())), result

    class Watched(CapturedStep):
        def __init__(self, *given, **more):
            super().__init__(*given, record=again, **more)
            made.append(self)

    monkeypatch.setattr(steps, "CAPTURED", ("cpu",))
    monkeypatch.setattr(steps, "CapturedStep", Watched)
    return made


def test_a_thread_hands_over_what_would_have_been_cut(tiny_dataset):
    rows = EventRows(tiny_dataset, tiny_dataset.log, history_length=3, item_features=True)
    parts = torch.arange(18).split(4)
    ahead = [batch.items.ids.tolist() for batch in fed(rows.cut, parts, torch.device("cpu"), ahead=2)]
    assert ahead == [rows.cut(part).items.ids.tolist() for part in parts]


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_asked_for():
    def cut(rows):
        raise InputError(f"row {int(rows[0])} cannot be read")

    with pytest.raises(InputError, match="row 0 cannot be read"):
        list(fed(cut, torch.arange(18).split(4), torch.device("cpu"), ahead=2))


@pytest.mark.parametrize("kind", ["sequences", "all"])
def test_cut_ahead_gives_the_same_weights_to_the_bit(kind, tiny_dataset):
    found = []
    for ahead in (0, 2):
        model, rows, objective = compiled(tiny_dataset, kind)
        fit(model, rows, objective, CONFIG, ahead=ahead)
        found.append(weights(model))
    assert all(torch.equal(value, found[0][name]) for name, value in found[1].items())


def test_a_training_that_ends_within_an_epoch_leaves_no_thread(tiny_dataset):
    class Enough(Silent):
        def stepped(self, step):
            if step == 2:
                raise StopTraining

    model, rows, objective = events(tiny_dataset)
    fit(model, rows, objective, CONFIG, callbacks=[Enough()], ahead=2)
    assert not [thread for thread in threading.enumerate() if thread.name == "feed"]


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("source", ["all", "uniform", "mixed"])
def test_captured_steps_give_the_same_weights(source, ahead, tiny_dataset, captures_here):
    log, num_items = tiny_dataset.log, tiny_dataset.schema.num_items
    found = []
    for capture in ("off", "on"):
        counts = ItemCounts(log.items, num_items)
        drawn = Popularity(counts.counts, 3, torch_generator(0, "popularity"))
        sampler = {"all": None, "uniform": uniform(tiny_dataset), "mixed": Mixed([InBatch(counts), drawn])}[source]
        model, rows, objective = events(tiny_dataset, sampler)
        done = fit(model, rows, objective, replace(CONFIG, capture=capture), ahead=ahead)
        found.append((weights(model), [record.loss for record in done.records]))
    assert captures_here[0].replays == 3 * 4 - WARM_UPS
    assert all(torch.equal(value, found[0][0][name]) for name, value in found[1][0].items())
    assert found[0][1] == found[1][1]


def test_a_captured_training_under_a_schedule_is_the_plain_one_to_rounding(tiny_dataset, captures_here):
    found = []
    for capture in ("off", "on"):
        model, rows, objective = events(tiny_dataset)
        fit(model, rows, objective, replace(CONFIG, schedule="cosine", warmup_steps=2, capture=capture))
        found.append(weights(model))
    assert captures_here[0].replays
    for name, value in found[1].items():
        torch.testing.assert_close(value, found[0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_captured_training_is_resumed_to_the_bit(step, tiny_dataset, tmp_path, captures_here):
    config = replace(CONFIG, capture="on", schedule="linear")
    model, rows, objective = events(tiny_dataset, uniform(tiny_dataset))
    fit(model, rows, objective, config, validate=judge)
    expected = weights(model)

    path = tmp_path / "checkpoint.safetensors"
    model, rows, objective = events(tiny_dataset, uniform(tiny_dataset))
    with pytest.raises(KeyboardInterrupt):
        fit(model, rows, objective, config, validate=judge, callbacks=[StopAt(step)], checkpoint=path)
    model, rows, objective = events(tiny_dataset, uniform(tiny_dataset))
    fit(model, rows, objective, config, validate=judge, checkpoint=path, resume=True)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_on_a_cpu_capture_is_left_out_with_a_word(tiny_dataset, caplog):
    found = []
    for capture in ("off", "on"):
        model, rows, objective = events(tiny_dataset)
        fit(model, rows, objective, replace(CONFIG, capture=capture))
        found.append(weights(model))
    assert "training.capture is for a GPU" in caplog.text
    assert all(torch.equal(value, found[0][name]) for name, value in found[1].items())


@pytest.mark.parametrize(
    ("kind", "captured"),
    [("all", True), ("bank", False), ("own loss", False), ("own model", False), ("windows", False)],
)
def test_auto_captures_what_is_known_to_take_the_same_step(kind, captured, tiny_dataset, captures_here):
    class Own(TwoTower):
        pass

    class OwnLoss(SampledSoftmax):
        __module__ = "mine"

    if kind in ("bank", "windows"):
        model, rows, objective, _ = refused(tiny_dataset, kind)
    else:
        model, rows, objective = events(
            tiny_dataset,
            uniform(tiny_dataset) if kind == "own loss" else None,
            OwnLoss() if kind == "own loss" else None,
        )
    if kind == "own model":
        model.__class__ = Own
    fit(model, rows, objective, CONFIG)
    assert bool(captures_here) == captured


@pytest.mark.parametrize("reason", ["large", "impossible"])
def test_auto_goes_on_step_by_step_where_a_captured_one_does_not_pay(reason, tiny_dataset, captures_here, monkeypatch):
    def cannot(work, generators):
        raise InputError("it waits for the device")

    found = []
    for capture in ("off", "auto"):
        model, rows, objective = events(tiny_dataset)
        if reason == "large":
            monkeypatch.setattr(captured_step, "taken_share", lambda device: 0.3)
        else:
            made = steps.CapturedStep.__init__

            def refuse(self, *given, made=made, **more):
                made(self, *given, **more)
                self.record = cannot

            monkeypatch.setattr(steps.CapturedStep, "__init__", refuse)
        fit(model, rows, objective, replace(CONFIG, capture=capture))
        found.append(weights(model))
    assert captures_here[0].given_up
    assert not captures_here[0].replays
    assert all(torch.equal(value, found[0][name]) for name, value in found[1].items())


def test_a_capture_that_fails_leaves_nothing_of_its_step_behind(caplog):
    """A kept log record, as error trackers keep them, must not keep the frames in which the graph of the step lies."""

    class Graph:
        pass

    left = []

    def cannot(work, generators):
        graph = Graph()
        left.append(weakref.ref(graph))
        raise InputError("it waits for the device")

    caplog.set_level("INFO", "twotower.training.captured_step")
    step = CapturedStep(lambda given: given.sum(), 4, torch.device("cpu"), at_will=True, record=cannot)
    for _ in range(WARM_UPS + 1):
        assert step(torch.ones(4)) == 4
    assert step.given_up
    assert "one by one: it waits for the device" in caplog.text
    assert left[0]() is None


class Warming(TwoTower):
    """Changes as training goes on."""

    selectable = True

    def set_progress(self, epochs):
        self.id_dropout = 0.2 if epochs < 1 else 0.0


def refused(dataset, kind):
    """A model, rows, objective and settings whose steps cannot be captured."""
    config = replace(CONFIG, capture="on")
    if kind == "windows":
        model = SASRec(dataset.schema, dim=8, history_length=4)
        rows = SequenceRows(dataset, dataset.log, history_length=4, item_features=False)
        return model, rows, AgainstAll(dataset), config
    if kind == "adagrad":
        return *events(dataset), replace(config, optimizer="adagrad")
    if kind == "regulariser":
        model, rows, _ = events(dataset)
        return model, rows, AgainstAll(dataset, Regulariser({"uniformity": 0.1})), config
    if kind == "own draws":
        return *events(dataset, uniform(dataset, per_row=True)), config
    if kind in ("phases", "rows of a table"):
        model, rows, objective = events(dataset)
        if kind == "phases":
            model.__class__ = Warming
        else:
            model.item_table = SparseTable(dataset.schema.num_items, 4)
        return model, rows, objective, replace(config, clip_norm=0.0)
    bank = MemoryBank(8, 4, ItemCounts(dataset.log.items, dataset.schema.num_items))
    return *events(dataset, bank), config


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("windows", "SASRec learns from windows"),
        ("adagrad", "'adagrad' cannot be captured; take adam or adamw"),
        ("regulariser", "objective.regularise is set"),
        ("own draws", "negatives of Uniform differ in number"),
        ("bank", "negatives of MemoryBank differ in number or change"),
        ("phases", "Warming changes in the course of training"),
        ("rows of a table", "rows of sparse, host and TorchRec tables are stepped one batch at a time"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_the_reason(kind, why, tiny_dataset, captures_here):
    model, rows, objective, config = refused(tiny_dataset, kind)
    with pytest.raises(InputError, match=why):
        fit(model, rows, objective, config)
    assert not captures_here


def compiled(dataset, kind):
    """A model without dropout, its rows and objective, for steps of which encoders are compiled."""
    torch.manual_seed(5)
    if kind == "sequences":
        model = SASRec(dataset.schema, dim=8, history_length=4, dropout=0.0)
        rows = SequenceRows(dataset, dataset.log, history_length=4, item_features=False, one_width=True)
        return model, rows, AgainstAll(dataset)
    model, rows, objective = events(dataset, None if kind == "all" else uniform(dataset, per_row=kind == "own draws"))
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    model.id_dropout = 0.0
    return model, rows, objective


@pytest.mark.skipif(hasattr(TwoTower.encode_users, "__wrapped__"), reason="checks of types would be compiled too")
@pytest.mark.parametrize("kind", ["all", "uniform", "own draws", "sequences"])
def test_compiled_steps_give_the_same_losses_and_compile_each_encoder_once(kind, tiny_dataset, monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setattr(steps, "CompiledParts", functools.partial(CompiledParts, backend="eager"))
    config = replace(CONFIG, batch_size=3 if kind == "sequences" else 4, epochs=1)
    found, graphs = [], []
    for compile_ in (False, True):
        torch.compiler.reset()
        counters.clear()
        model, rows, objective = compiled(tiny_dataset, kind)
        with torch._dynamo.config.patch(error_on_recompile=True):
            fit(model, rows, objective, replace(config, compile=compile_))
            graphs.append(counters["stats"]["unique_graphs"])
            done = fit(model, rows, objective, replace(config, compile=compile_, epochs=3))
            graphs.append(counters["stats"]["unique_graphs"])
        found.append([record.loss for record in done.records])  # weights that change no score drift apart by rounding
    parts = 1 if kind == "sequences" else 2
    assert graphs == [0, 0, parts, parts]  # the ragged last batches and the second training compile nothing
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.skipif(hasattr(TwoTower.encode_users, "__wrapped__"), reason="checks of types would be compiled too")
@pytest.mark.parametrize("size", ["a batch in parts", "a log that is one batch"])
def test_each_encoder_is_compiled_once_for(size, tiny_dataset, monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setattr(steps, "CompiledParts", functools.partial(CompiledParts, backend="eager"))
    torch.compiler.reset()
    counters.clear()
    model, rows, objective = compiled(tiny_dataset, "uniform")
    if size == "a batch in parts":
        config, objective = replace(CONFIG, batch_size=8), GradientCached(objective, 3)
    else:
        config = replace(CONFIG, batch_size=256)
    with torch._dynamo.config.patch(error_on_recompile=True):
        fit(model, rows, objective, replace(config, compile=True))
    assert counters["stats"]["unique_graphs"] == 2


def test_the_plain_encoders_come_back_after_a_compiled_step(tiny_dataset):
    model, _, _ = events(tiny_dataset)
    parts = CompiledParts(model, backend="eager")
    with parts.used():
        assert model.encode_users is parts.parts["encode_users"]
        assert model.in_one_shape
    assert model.encode_users == type(model).encode_users.__get__(model)
    assert not model.in_one_shape


class Counted(TorchDispatchMode):
    """Counts operators, those of the backward pass too, but for views."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view and func is not torch.ops.aten.detach.default
        return func(*args, **(kwargs or {}))


def test_a_plain_step_does_little_beyond_what_a_loop_by_hand_does(monkeypatch):
    """On a GPU every operator is a launch, and launches are the time of a small step."""
    monkeypatch.setattr(known, "WAITING", ("cpu",))  # as on a GPU
    log = Log(torch.tensor([0, 0, 0, 6, 12]), torch.tensor([2, 3, 4, 5, 6, 7] * 2), times=torch.arange(12))
    dataset = Dataset(Schema(4, 8, (), ()), log, {}, {}, {"name": "plain"})
    model = TwoTower(dataset.schema, dim=4, field_dim=4, hidden=(4,))
    rows = EventRows(dataset, log, history_length=3, item_features=True, times=reads_times(model))
    positives = Positives(log.offsets, log.items, 8)
    objective = AgainstSamples(dataset, InBatch(ItemCounts(log.items, 8)), SampledSoftmax(), positives)
    step = Step(model, rows, objective, build_optimizer(model, CONFIG), replace(CONFIG, clip_norm=0.0))
    step(torch.arange(4))  # moments are made
    with Counted() as counted:
        step(torch.arange(4))
    assert counted.number <= 144


def test_only_a_class_that_says_so_itself_is_trained_without_times(tiny_dataset):
    class Own(TwoTower):
        pass

    settings = {"dim": 4, "history_length": 3}
    told = [reads_times(cls(tiny_dataset.schema, **settings)) for cls in (TwoTower, Own, SASRec)]
    assert told == [False, True, True]
    run = Run(model=ModelSection("two_tower", settings))
    seen = []
    with mock.patch.object(
        EventRows, "cut", lambda self, rows, cut=EventRows.cut: seen.append(cut(self, rows)) or seen[-1]
    ):
        train(run.with_settings(["training.epochs=1", "training.device=cpu"]), dataset=tiny_dataset)
    assert seen
    assert all(batch.users.history_times is None for batch in seen)


def test_a_batch_as_long_as_the_captured_one_but_wider_is_trained_on_as_ever():
    def again(work, generators):
        return lambda: work(), torch.zeros(())

    seen = []
    step = CapturedStep(lambda given: seen.append(given.shape) or given.sum(), 4, torch.device("cpu"), record=again)
    for width in (1, 1, 1, 1, 3, 1):
        step(torch.ones(4, width))
    assert [width for _, width in seen] == [1, 1, 1, 1, 3, 1]
    assert step.replays == 2


def test_a_captured_batch_is_a_copy_on_its_own(tiny_dataset):
    batch = EventRows(tiny_dataset, tiny_dataset.log, history_length=3, item_features=True).cut(torch.arange(4))
    held = captured_step.copied(batch, torch.device("cpu"))
    pairs = list(zip(captured_step.tensors_of(held), captured_step.tensors_of(batch), strict=True))
    assert len(pairs) == 11
    for own, given in pairs:
        assert own.data_ptr() != given.data_ptr()
        torch.testing.assert_close(own, given, equal_nan=True)
