"""A model that the machine has no memory for is refused before it is built, with the number in the line."""

import contextlib

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Feature, Schema
from twotower.experiment import learn
from twotower.experiment.run import Run
from twotower.models import size
from twotower.models.registry import MODELS, build_model

SCHEMA = Schema(500, 600, (Feature("land", "categorical", 5),), (Feature("words", "text", 50, 8),))


@pytest.fixture
def small(monkeypatch):
    """A machine with so many bytes of memory, where every model is counted."""

    def small(free):
        monkeypatch.setattr(size, "available_memory", lambda: float(free))
        monkeypatch.setattr(size, "LARGE", 1)

    return small


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_counted_to_the_number_without_memory(name, small):
    count, needed = size.size_of(build_model(name, SCHEMA))
    small(needed - 1)
    with pytest.raises(InputError, match=f"model '{name}' .*has {count:,} numbers, which take .* memory are free"):
        build_model(name, SCHEMA)
    small(needed)
    build_model(name, SCHEMA)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("two_tower", {"dim": 10**9}),
        ("two_tower", {"hidden": [2 * 10**9, 2 * 10**9]}),
        ("two_tower", {"hidden": [10**6] * 900}),
        ("sasrec", {"history_length": 2 * 10**9}),
        ("sasrec", {"dim": 10**6, "layers": 1000}),
        ("item_cosine", {"neighbours": 100}),
    ],
)
def test_a_size_that_no_machine_has_takes_no_memory(name, settings, monkeypatch):
    monkeypatch.setattr(size, "available_memory", lambda: 1e6)
    monkeypatch.setattr(size, "LARGE", 1 << 18)

    def taken(*_, **__):
        raise AssertionError("weights were drawn for a model that cannot be built")

    monkeypatch.setattr(torch.nn.init, "xavier_uniform_", taken)
    schema = Schema(10**6, 10**6) if name == "item_cosine" else SCHEMA
    with pytest.raises(InputError, match="GB of memory are free; lower its settings") as raised:
        build_model(name, schema, settings)
    assert len(str(raised.value)) < 480


def test_a_count_moves_no_random_number(small):
    torch.manual_seed(3)
    wanted = build_model("sasrec", SCHEMA)
    small(1e18)
    torch.manual_seed(3)
    for name, weight in build_model("sasrec", SCHEMA).named_parameters():
        assert torch.equal(weight, wanted.get_parameter(name))


def test_a_model_of_usual_size_is_built_once(monkeypatch):
    monkeypatch.setattr(size, "size_of", lambda model: pytest.fail("counted"))
    build_model("two_tower", SCHEMA)


def test_training_needs_memory_for_gradients_and_moments(monkeypatch):
    model = build_model("sasrec", SCHEMA)
    held = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    for optimizer, copies in (("sgd", 1), ("adagrad", 2), ("adamw", 3)):
        monkeypatch.setattr(size, "available_memory", lambda copies=copies: copies * held)
        size.check_training_size(model, "sasrec", {}, optimizer)
        monkeypatch.setattr(size, "available_memory", lambda copies=copies: copies * held - 1)
        with pytest.raises(InputError, match=rf"gradients and moments \({optimizer}\) take"):
            size.check_training_size(model, "sasrec", {}, optimizer)


def test_memory_is_looked_at_where_the_weights_are(monkeypatch):
    with torch.device("meta"):
        model = build_model("sasrec", SCHEMA)
    size.check_training_size(model, "sasrec", {}, "adamw")
    monkeypatch.setattr(size, "_free_on", lambda device: 10.0 if device.type == "meta" else float("inf"))
    with pytest.raises(InputError, match=r"gradients and moments \(adamw\) take .* are free on 'meta'; lower"):
        size.check_training_size(model, "sasrec", {}, "adamw")


def test_batches_of_histories_that_no_memory_holds_are_refused(tiny_dataset, monkeypatch):
    from twotower.experiment.train import train

    monkeypatch.setattr(size, "available_memory", lambda: 1e9)
    model = {"name": "two_tower", "dim": 4, "history_length": 2_000_000_000}
    run = Run.from_dict({"model": model, "training": {"epochs": 1, "device": "cpu"}})
    with pytest.raises(InputError, match=r"histories of 2,000,000,000 items takes .* lower model.history_length"):
        train(run, dataset=tiny_dataset)


@pytest.mark.parametrize(
    ("model", "rows", "many"),
    [({"name": "two_tower", "dim": 4}, 4, 4), ({"name": "sasrec", "dim": 4, "history_length": 3}, 2, 3 * 2)],
)
def test_scores_of_a_batch_that_no_memory_holds_are_refused_before_training(
    model, rows, many, tiny_dataset, monkeypatch
):
    from twotower.experiment.train import train

    training = {"epochs": 1, "device": "cpu", "batch_size": rows, "evaluate_every": 0, "patience": 0}
    run = Run.from_dict({"model": model, "training": training, "objective": {"loss": "sampled_softmax"}})
    seen = []
    monkeypatch.setattr(learn, "check_scores_size", lambda *given, **more: seen.append((*given, more["width"])))
    train(run, dataset=tiny_dataset)
    train(run.with_settings(["sampling.in_batch_number=2", "training.precision=bfloat16"]), dataset=tiny_dataset)
    found, candidates, name, device, width = seen[0]
    assert found == candidates <= many
    assert (name, device.type, width) == (model["name"], "cpu", 4)
    assert seen[1][0] == found
    assert (seen[1][1], seen[1][4]) == (2, 2)


@pytest.mark.parametrize(("free", "fine"), [(800_000, True), (799_999, False)])
def test_scores_take_their_own_memory_and_that_of_their_gradients(free, fine, monkeypatch):
    monkeypatch.setattr(size, "_free_on", lambda device: free)
    with contextlib.nullcontext() if fine else pytest.raises(InputError, match=r"lower training.batch_size, or set"):
        size.check_scores_size(100, 1000, "two_tower", torch.device("cuda:0"))
