"""A stopped and resumed run gives the weights of one that was not stopped, to the bit; early stopping; bad states."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from stopping import StopAt

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.data.examples import EventRows, SequenceRows
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.sequential import SASRec
from twotower.models.two_tower import TwoTower
from twotower.sampling.known import Positives
from twotower.sampling.uniform import Uniform
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.callbacks import EpochRecord, JsonLines, Silent, StopTraining
from twotower.training.config import Training
from twotower.training.loop import fit


def case(kind: str, dataset):
    """A model, its rows and an objective, the same at every call."""
    torch.manual_seed(5)
    schema = dataset.schema
    if kind == "sequences":
        model = SASRec(schema, dim=8, history_length=4, dropout=0.3)
        rows = SequenceRows(dataset, dataset.log, history_length=4, item_features=False)
        return model, rows, AgainstAll(dataset)
    model = TwoTower(schema, dim=8, field_dim=4, hidden=(8,), dropout=0.2, feature_dropout=0.2, id_dropout=0.2)
    rows = EventRows(dataset, dataset.log, history_length=3, item_features=True)
    sampler = Uniform(schema.num_items, 3, torch_generator(0, "uniform"))
    positives = Positives(dataset.log.offsets, dataset.log.items, schema.num_items)
    return model, rows, AgainstSamples(dataset, sampler, SampledSoftmax(), positives)


CONFIG = Training(epochs=4, batch_size=3, learning_rate=0.05, schedule="cosine", warmup_steps=2, clip_norm=1.0)


def judge(model) -> dict[str, float]:
    """A stand-in for a validation metric that moves up and down as weights do."""
    return {"ndcg@10": float(sum(parameter.detach().double().sum() for parameter in model.parameters()).sin())}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["sequences", "events"])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
def test_stopped_and_resumed_equals_never_stopped_to_the_bit(kind, step, tiny_dataset, tmp_path):
    model, rows, objective = case(kind, tiny_dataset)
    whole = fit(model, rows, objective, CONFIG, validate=judge)
    expected = weights(model)

    path = tmp_path / "checkpoint.safetensors"
    model, rows, objective = case(kind, tiny_dataset)
    with pytest.raises(KeyboardInterrupt):
        fit(model, rows, objective, CONFIG, validate=judge, callbacks=[StopAt(step)], checkpoint=path)
    model, rows, objective = case(kind, tiny_dataset)
    torch.randn(100)  # a new process has another random state
    resumed = fit(model, rows, objective, CONFIG, validate=judge, checkpoint=path, resume=True)

    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert [replace(record, seconds=0.0) for record in resumed.records] == [
        replace(record, seconds=0.0) for record in whole.records
    ]


def test_stopping_twice_and_between_checkpoints_changes_nothing(tiny_dataset, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    model, rows, objective = case("events", tiny_dataset)
    fit(model, rows, objective, CONFIG, validate=judge)
    expected = weights(model)
    for stop, resume in ((2, False), (9, True)):
        model, rows, objective = case("events", tiny_dataset)
        with pytest.raises(KeyboardInterrupt):
            fit(
                model, rows, objective, CONFIG, validate=judge, callbacks=[StopAt(stop)], checkpoint=path, resume=resume
            )
    model, rows, objective = case("events", tiny_dataset)
    fit(model, rows, objective, CONFIG, validate=judge, checkpoint=path, resume=True)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_the_best_weights_come_back_and_patience_ends_the_run(tiny_dataset):
    model, rows, objective = case("sequences", tiny_dataset)
    scores = iter([0.1, 0.5, 0.3, 0.2, 0.9])
    seen = []

    def validate(current) -> dict[str, float]:
        seen.append(weights(current))
        return {"ndcg@10": next(scores)}

    config = Training(epochs=9, batch_size=2, patience=2, patience_steps=0, patience_loss=0.0)
    progress = fit(model, rows, objective, config, validate=validate)
    assert (progress.epoch, progress.best_epoch, progress.best) == (4, 2, 0.5)
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())


class Falling:
    """An objective whose loss falls by a share an epoch of ``steps`` steps, whatever the model does."""

    def __init__(self, steps: int, share: float) -> None:
        self.steps, self.share, self.calls = steps, share, 0

    def __call__(self, model, batch) -> torch.Tensor:
        loss = 5.0 * (1.0 - self.share) ** (self.calls // self.steps)
        self.calls += 1
        return 0.0 * sum(part.sum() for part in model.parameters()) + loss

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        assert not state


def epochs_until_patience_ends(dataset, *, falls: float, **settings) -> int:
    """Epochs of a run whose validation is best at the first."""
    model, rows, _ = case("sequences", dataset)
    scores = iter([0.5] + [0.1] * 20)
    config = Training(epochs=20, batch_size=2, patience=2, **settings)
    steps = -(-len(rows) // 2)
    return fit(model, rows, Falling(steps, falls), config, validate=lambda _: {"ndcg@10": next(scores)}).epoch


def test_patience_counts_evaluations_that_lie_some_steps_apart(tiny_dataset):
    steps = epochs_until_patience_ends(tiny_dataset, falls=0.0, patience_steps=1) - 1
    assert steps == 2
    _, rows, _ = case("sequences", tiny_dataset)
    apart = 3 * -(-len(rows) // 2)
    assert epochs_until_patience_ends(tiny_dataset, falls=0.0, patience_steps=apart) == 1 + 2 * 3


@pytest.mark.parametrize(("falls", "epochs"), [(0.02, 20), (0.005, 3), (-0.1, 3)])
def test_training_does_not_stop_while_its_loss_falls_by_more_than_a_hundredth(falls, epochs, tiny_dataset):
    assert epochs_until_patience_ends(tiny_dataset, falls=falls, patience_steps=0) == epochs


def test_the_loss_is_not_asked_where_the_run_says_so(tiny_dataset):
    assert epochs_until_patience_ends(tiny_dataset, falls=0.02, patience_steps=0, patience_loss=0.0) == 3


def test_the_global_generator_is_left_alone(tiny_dataset):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model, rows, objective = case("sequences", tiny_dataset)
    torch.set_rng_state(before)
    fit(model, rows, objective, Training(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_training_lowers_the_loss(tiny_dataset):
    for kind in ("sequences", "events"):
        model, rows, objective = case(kind, tiny_dataset)
        records = fit(model, rows, objective, Training(epochs=30, batch_size=4, learning_rate=0.02)).records
        assert records[-1].loss < 0.8 * records[0].loss


def test_fewer_epochs_keep_the_schedule(tiny_dataset):
    model, rows, objective = case("sequences", tiny_dataset)
    config = Training(epochs=8, batch_size=2, schedule="linear")
    short = fit(model, rows, objective, config, epochs=2).records
    model, rows, objective = case("sequences", tiny_dataset)
    long = fit(model, rows, objective, config).records
    assert [r.learning_rate for r in short] == [r.learning_rate for r in long[:2]]


def test_a_callback_may_end_training(tiny_dataset, tmp_path):
    class Enough(Silent):
        def epoch_done(self, record, model) -> None:
            if record.epoch == 2:
                raise StopTraining("enough")

    model, rows, objective = case("sequences", tiny_dataset)
    progress = fit(model, rows, objective, CONFIG, callbacks=[Enough()], checkpoint=tmp_path / "c.safetensors")
    assert progress.epoch == 2
    assert (tmp_path / "c.safetensors").is_file()


def test_the_log_has_one_line_an_epoch_also_after_a_resume(tiny_dataset, tmp_path):
    import json

    path, log = tmp_path / "checkpoint.safetensors", tmp_path / "log.jsonl"
    model, rows, objective = case("events", tiny_dataset)
    with pytest.raises(KeyboardInterrupt):
        fit(model, rows, objective, CONFIG, callbacks=[JsonLines(log), StopAt(8)], checkpoint=path)
    log.write_text(log.read_text() + json.dumps({"epoch": 9, "step": 999}) + "\n")  # from after the checkpoint
    model, rows, objective = case("events", tiny_dataset)
    fit(model, rows, objective, CONFIG, callbacks=[JsonLines(log)], checkpoint=path, resume=True)
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_checkpoint_of_other_rows_or_another_model_is_refused(tiny_dataset, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    model, rows, objective = case("sequences", tiny_dataset)
    fit(model, rows, objective, CONFIG, validate=judge, checkpoint=path)
    other, other_rows, other_objective = case("events", tiny_dataset)
    with pytest.raises(InputError, match="training rows"):
        fit(other, other_rows, other_objective, CONFIG, checkpoint=path, resume=True)
    wider = SASRec(tiny_dataset.schema, dim=16, history_length=4)
    with pytest.raises(InputError, match="another model's checkpoint"):
        fit(wider, rows, objective, CONFIG, checkpoint=path, resume=True)
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        fit(model, rows, objective, CONFIG, checkpoint=tmp_path / "none", resume=True)


def test_a_loss_that_is_no_number_stops_with_advice(tiny_dataset):
    model, rows, objective = case("sequences", tiny_dataset)
    with torch.no_grad():
        model.item_table.weight[4] = float("nan")
    with pytest.raises(InputError, match=r"the loss is nan; lower training\.learning_rate"):
        fit(model, rows, objective, CONFIG)


def test_an_unknown_metric_names_those_there_are(tiny_dataset):
    model, rows, objective = case("sequences", tiny_dataset)
    with pytest.raises(InputError, match=r"training\.metric is 'ndcg@10', but validation gives recall@5"):
        fit(model, rows, objective, CONFIG, validate=lambda current: {"recall@5": 0.0})


def test_training_outside_the_main_thread_works(tiny_dataset):
    model, rows, objective = case("sequences", tiny_dataset)
    done = []
    thread = threading.Thread(target=lambda: done.append(fit(model, rows, objective, Training(epochs=1))))
    thread.start()
    thread.join()
    assert done[0].epoch == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad", "sgd"])
def test_every_optimizer_resumes_to_the_bit(optimizer, tiny_dataset, tmp_path):
    config = Training(epochs=2, batch_size=3, learning_rate=0.05, optimizer=optimizer, weight_decay=0.01)
    path = tmp_path / "checkpoint.safetensors"
    results = []
    for stop in (None, 2):
        model, rows, objective = case("sequences", tiny_dataset)
        if stop:
            with pytest.raises(KeyboardInterrupt):
                fit(model, rows, objective, config, callbacks=[StopAt(stop)], checkpoint=path)
            model, rows, objective = case("sequences", tiny_dataset)
        fit(model, rows, objective, config, checkpoint=path, resume=bool(stop))
        results.append(weights(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_bfloat16_products_train_close_to_float32(tiny_dataset):
    losses = []
    for precision in ("float32", "bfloat16"):
        model, rows, objective = case("sequences", tiny_dataset)
        config = Training(epochs=3, batch_size=4, learning_rate=0.01, precision=precision)
        losses.append([r.loss for r in fit(model, rows, objective, config).records])
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_batches_are_a_partition_that_differs_by_epoch():
    from twotower.training.batching import random_batches

    first, again, other = (list(random_batches(50, 8, seed=1, epoch=epoch)) for epoch in (0, 0, 1))
    assert torch.cat(first).sort().values.tolist() == list(range(50))
    assert [len(batch) for batch in first] == [8] * 6 + [2]
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(torch.cat(first), torch.cat(other))


def test_a_damaged_line_of_the_log_is_dropped_with_a_word_and_the_training_goes_on(tmp_path, caplog):
    first, healthy = (json.dumps(EpochRecord(epoch, epoch, 0.5, 0.1, 1.0).to_json()) for epoch in (0, 1))
    (tmp_path / "log.jsonl").write_bytes(
        b"\n".join([first.encode(), b'{"step": x}', b"[1]", b'{"step": 1, "l\xff": 0}', healthy.encode(), b'{"ste'])
    )
    JsonLines(tmp_path / "log.jsonl").started(3, 1, 1)
    assert (tmp_path / "log.jsonl").read_text() == f"{first}\n{healthy}\n"
    told = [record.getMessage() for record in caplog.records]
    assert [int(line.split("line ")[1].split()[0]) for line in told] == [2, 3, 4, 6]
