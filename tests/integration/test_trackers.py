"""A run as TensorBoard, MLflow and Weights & Biases keep it, read back from the files that they write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.training.callbacks import EpochRecord, Silent
from twotower.training.trackers.base import TrackedRun, Tracker
from twotower.training.trackers.choose import tracker

SMALL = {"dim": 4, "epochs": 2, "patience": 0, "device": "cpu", "ks": (5, 10)}


@pytest.fixture(scope="module")
def data() -> Dataset:
    rows = [(user, (user + step) % 9, 60 * step) for user in range(8) for step in range(5)]
    events = {name: [row[place] for row in rows] for place, name in enumerate(("user", "item", "time"))}
    return Dataset.from_frames(events, unit="s", name="rings")


@pytest.fixture(autouse=True)
def _nobody_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_MODE", "offline")


class Notes(Tracker):
    """Keeps what it is told."""

    service = "notes"

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.broken = broken
        self.calls: list[tuple[str, object]] = []

    def note(self, name: str, value: object) -> None:
        self.calls.append((name, value))
        if name == self.broken:
            raise ConnectionError("the line\nis cut")

    def open(self, run: TrackedRun, step: int) -> None:
        self.note("open", (run, step))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.note("log", (dict(figures), step))

    def summarise(self, figures: Mapping[str, float]) -> None:
        self.note("summarise", dict(figures))

    def keep(self, file: Path) -> None:
        self.note("keep", file.read_text(encoding="utf-8"))

    def close(self, status: str) -> None:
        self.note("close", status)

    def of(self, name: str) -> list[object]:
        return [value for kind, value in self.calls if kind == name]


def test_a_tracker_is_told_of_settings_epochs_test_and_card_in_this_order(data: Dataset, tmp_path: Path) -> None:
    notes = Notes()
    trained = twotower.train("two_tower", data, to=tmp_path / "b", callbacks=[notes], **SMALL)
    assert [name for name, _ in notes.calls] == ["open", "log", "log", "summarise", "keep", "close"]
    ((run, step),) = notes.of("open")  # type: ignore[misc]
    assert (run.title, run.settings["training.epochs"], run.settings["model.dim"], step) == (
        "two_tower on rings",
        2,
        4,
        0,
    )
    assert run.toml == (tmp_path / "b.run" / "run.toml").read_text(encoding="utf-8")
    for record, (figures, at) in zip(trained.records, notes.of("log"), strict=True):  # type: ignore[misc]
        assert at == record.step
        assert figures["train/loss"] == record.loss
        assert figures["validation/ndcg@10"] == record.metrics["ndcg@10"]
    assert notes.of("summarise") == [{f"test/{name}": value for name, value in trained.test.metrics.items()}]
    assert notes.of("keep") == [(tmp_path / "b" / "README.md").read_text(encoding="utf-8")]
    assert notes.of("close") == ["finished"]


def test_a_closed_form_has_settings_and_a_test_and_the_setting_that_it_chose(data: Dataset, tmp_path: Path) -> None:
    notes = Notes()
    trained = twotower.train("ease", data, to=tmp_path / "b", callbacks=[notes], device="cpu")
    assert [name for name, _ in notes.calls] == ["open", "summarise", "keep", "close"]
    ((run, _),) = notes.of("open")  # type: ignore[misc]
    assert run.settings["model.lambda_"] == trained.run.model.settings["lambda_"] > 0.0


def test_a_last_fit_has_curves_of_its_own(data: Dataset) -> None:
    notes = Notes()
    twotower.train("two_tower", data, callbacks=[notes], refit=True, **SMALL)
    names = [next(iter(figures)) for figures, _ in notes.of("log")]  # type: ignore[misc]
    assert names[:2] == ["train/epoch", "train/epoch"]
    assert set(names[2:]) == {"refit/epoch"}
    assert len(notes.of("open")) == 1


def test_a_service_that_fails_is_given_up_with_one_warning(data: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes(broken="log")
    trained = twotower.train("two_tower", data, callbacks=[notes], **SMALL)
    assert len(trained.records) == 2
    assert [name for name, _ in notes.calls] == ["open", "log", "close"]
    (line,) = [record.getMessage() for record in caplog.records if "notes" in record.getMessage()]
    assert line == "notes: ConnectionError: the line is cut; it is given up, and the training goes on"


def test_a_run_that_fails_or_is_stopped_is_closed_as_such(data: Dataset) -> None:
    class Breaks(Silent):
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def epoch_done(self, record: EpochRecord, model: twotower.Model) -> None:
            raise self.error

    for error, status in ((InputError("no"), "failed"), (KeyboardInterrupt(), "stopped")):
        notes = Notes()
        with pytest.raises(type(error)):
            twotower.train("two_tower", data, callbacks=[notes, Breaks(error)], **SMALL)
        assert notes.of("close") == [status]


def test_a_run_that_is_refused_is_never_opened(data: Dataset) -> None:
    notes = Notes()
    with pytest.raises(InputError):
        twotower.train("two_tower", data, callbacks=[notes], metric="ndgc@10", **SMALL)
    assert "log" not in dict(notes.calls)
    with pytest.raises(InputError):
        twotower.train("two_tower", data, callbacks=(again := [Notes()]), loss="nothing", **SMALL)
    assert not again[0].calls


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def texts(folder: Path) -> dict[str, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    tags = [tag for tag in found.Tags()["tensors"] if tag.endswith("text_summary")]
    return {tag.split("/")[0]: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags}


def test_tensorboard_has_curves_test_settings_and_card(data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = tmp_path / "events"
    trained = twotower.train(
        "two_tower", data, to=tmp_path / "b", callbacks=[tracker(f"tensorboard:{events}")], **SMALL
    )
    found = scalars(events)
    assert found["train/loss"] == [(record.step, pytest.approx(record.loss)) for record in trained.records]
    assert found["test/ndcg@10"] == [(0, pytest.approx(trained.test.metrics["ndcg@10"]))]
    assert "training" in texts(events)["run"]
    assert texts(events)["README.md"] == (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    (accumulator := EventAccumulator(str(events))).Reload()
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    session = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert session.hparams["training.epochs"].number_value == 2.0


def test_the_curves_of_a_resumed_run_have_each_epoch_once(data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    events = tmp_path / "events"
    for epochs, resume in ((2, False), (4, True)):
        trained = twotower.train(
            "two_tower",
            data,
            to=tmp_path / "b",
            callbacks=[tracker(f"tensorboard:{events}")],
            resume=resume,
            **{**SMALL, "epochs": epochs},
        )
    assert [step for step, _ in scalars(events)["train/loss"]] == [record.step for record in trained.records]


def test_epochs_after_the_last_checkpoint_are_taken_back(data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    model = twotower.train("popularity", data, device="cpu").model
    for begin, steps in ((0, (4, 8, 12)), (8, (12, 16))):
        board = tracker(f"tensorboard:{tmp_path / 'events'}")
        board.describe(TrackedRun(title="x", toml="", settings={}, resume=begin > 0))
        board.started(4, 4, begin)
        for step in steps:
            board.epoch_done(EpochRecord(step // 4, step, float(begin + step), 0.1, 1.0), model)
        board.ended("stopped")
    assert scalars(tmp_path / "events")["train/loss"] == [(4, 4.0), (8, 8.0), (12, 20.0), (16, 24.0)]


def test_a_run_that_starts_from_nothing_forgets_the_ids_of_an_earlier_one(data: Dataset, tmp_path: Path) -> None:
    note = tmp_path / "b.run" / "tracking.json"
    note.parent.mkdir()
    for resume, kept in ((False, False), (True, True)):
        note.write_text('{"mlflow": {"id": "old"}}')
        epochs = 3 if resume else 2
        twotower.train("two_tower", data, to=tmp_path / "b", resume=resume, **{**SMALL, "epochs": epochs})
        assert note.is_file() == kept


def test_mlflow_has_parameters_metrics_and_artefacts_and_a_resumed_run_goes_on(data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra 'mlflow'")
    from mlflow.tracking import MlflowClient

    address = tmp_path / "mlruns"
    for epochs, resume in ((2, False), (3, True)):
        trained = twotower.train(
            "two_tower",
            data,
            to=tmp_path / "b",
            callbacks=[tracker(f"mlflow:{address}")],
            resume=resume,
            **{**SMALL, "epochs": epochs},
        )
    client = MlflowClient(tracking_uri=address.as_uri())
    experiment = client.get_experiment_by_name("twotower")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("two_tower on rings", "FINISHED")
    assert (run.data.params["training.epochs"], run.data.params["model.dim"]) == ("2", "4")
    losses = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "train/loss")}
    assert losses == {record.step: pytest.approx(record.loss) for record in trained.records}
    assert run.data.metrics["test/ndcg_at_10"] == pytest.approx(trained.test.metrics["ndcg@10"])
    kept = client.download_artifacts(run.info.run_id, "README.md", str(tmp_path))
    assert Path(kept).read_text(encoding="utf-8") == (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert "epochs = 3" in Path(client.download_artifacts(run.info.run_id, "run.toml", str(tmp_path))).read_text()


def test_an_address_that_mlflow_refuses_is_one_line_before_any_step(data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra 'mlflow'")
    with pytest.raises(InputError, match="^MLflow: ") as refused:
        twotower.train("two_tower", data, callbacks=[tracker("mlflow:nowhere://x")], **SMALL)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        tracker("mlflow:http://me:secret@host")
    assert "secret" not in str(refused.value)


def test_wandb_keeps_a_run_without_a_network(data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs the extra 'wandb', which is not among the tools for developing (62 MB)")
    trained = twotower.train("two_tower", data, to=tmp_path / "b", callbacks=[tracker("wandb:films")], **SMALL)
    (folder,) = (tmp_path / "b.run" / "wandb").glob("offline-run-*")
    name = json.loads((tmp_path / "b.run" / "tracking.json").read_text())["wandb"]["id"]
    found = logged(folder / f"run-{name}.wandb")
    assert found["config"]["training.epochs"] == 2
    assert [row["train/loss"] for row in found["rows"]] == [pytest.approx(r.loss) for r in trained.records]
    assert found["summary"]["test/ndcg@10"] == pytest.approx(trained.test.metrics["ndcg@10"])
    assert found["artefacts"] == [("model-card", "README.md")]
    assert (folder / "files" / "run.toml").is_file()


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log as LevelDB writes one: blocks of 32 KiB, of parts with their sum, length and kind."""
    at, whole = 7, b""  # after the name of the format
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def logged(path: Path) -> dict[str, object]:
    """What a file of Weights & Biases holds of configuration, rows, summary and artefacts."""
    from wandb.proto.wandb_internal_pb2 import Record

    config: dict[str, object] = {}
    rows: list[dict[str, object]] = []
    summary: dict[str, object] = {}
    artefacts: list[tuple[str, str]] = []
    for data in records(path.read_bytes()):
        record = Record.FromString(data)
        for update in (*record.run.config.update, *record.config.update):
            config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        if record.HasField("history"):
            rows.append({part.key or part.nested_key[0]: json.loads(part.value_json) for part in record.history.item})
        for part in record.summary.update:
            summary[part.key or part.nested_key[0]] = json.loads(part.value_json)
        if record.HasField("artifact"):
            artefacts += [(record.artifact.type, entry.path) for entry in record.artifact.manifest.contents]
    return {"config": config, "rows": rows, "summary": summary, "artefacts": artefacts}


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_one_line_that_says_what_to_install(
    kind: str, data: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    absent: ModuleType | None = None
    for name in ("torch.utils.tensorboard", "mlflow", "mlflow.entities", "wandb"):
        monkeypatch.setitem(sys.modules, name, absent)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as end:
        main(["train", "--model", "ease", "--data", str(tmp_path), "--to", str(tmp_path / "b"), "--track", kind])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2
    assert line.endswith(f"needs its package: pip install 'twotower[{kind}]'")
    assert not (tmp_path / "b.run").exists()


def test_an_unknown_tracker_is_refused_with_the_closest() -> None:
    with pytest.raises(InputError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        tracker("tensorbord:x")
    with pytest.raises(InputError, match="name a folder"):
        tracker("tensorboard")
