"""`import twotower`: train by name, class or run, with parts of one's own; evaluate, compare, and open it elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor, nn

import twotower
from twotower.core.errors import InputError
from twotower.experiment.recipes import default_run
from twotower.metrics.ranking import ranking_metrics
from twotower.sampling.uniform import Uniform
from twotower.training.sources import NegativeSource

OWN_MODEL = '''
import torch
from torch import nn
import twotower

@twotower.MODELS.register("nearest")
class Nearest(twotower.Model):
    """Users near items: the negative squared distance."""

    inner_product = False

    def __init__(self, schema, *, dim=8):
        super().__init__()
        self.schema = schema
        self.users = nn.Embedding(schema.num_users, dim)
        self.items = nn.Embedding(schema.num_items, dim)

    def encode_users(self, users):
        return self.users(users.ids)

    def encode_items(self, items):
        return self.items(items.ids)

    def score(self, users, items):
        return -(torch.cdist(users, items) ** 2)

    def score_rows(self, users, items):
        others = users if items.ndim == users.ndim else users[:, None]
        return -((others - items) ** 2).sum(-1)
'''


class Hinge(nn.Module):
    """The mean of max(0, margin - positive + negative) over the negatives that count."""

    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin
        self.calls = 0

    def forward(self, positive_scores, negative_scores, negative_log_q, negative_mask) -> Tensor:
        self.calls += 1
        gap = (self.margin - positive_scores[:, None] + negative_scores).clamp(min=0.0)
        return (gap * negative_mask).sum() / negative_mask.sum().clamp(min=1)


@pytest.fixture
def registered(monkeypatch):
    """Registrations of one test alone."""
    for registry in (
        twotower.MODELS,
        twotower.LOSSES,
        twotower.SAMPLERS,
        twotower.SCORERS,
        twotower.TOWERS,
        twotower.SPLITTERS,
        twotower.METRICS,
        twotower.INDEXES,
    ):
        monkeypatch.setattr(registry, "parts", dict(registry.parts))


def test_the_names_of_the_package_are_pinned_and_all_there():
    assert sorted(twotower.__all__) == [
        "Comparison",
        "Dataset",
        "Diagnosis",
        "INDEXES",
        "InputError",
        "LOSSES",
        "METRICS",
        "MODELS",
        "Model",
        "Refreshed",
        "Result",
        "Retriever",
        "Run",
        "SAMPLERS",
        "SCORERS",
        "SPLITTERS",
        "TOWERS",
        "Trained",
        "__version__",
        "compare",
        "diagnose",
        "evaluate",
        "fit",
        "load",
        "refresh",
        "train",
        "tune",
    ]
    for name in twotower.__all__:
        assert getattr(twotower, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        twotower.trian  # noqa: B018


def test_a_name_data_and_keywords_are_a_training(tiny_dataset, tmp_path):
    trained = twotower.train(
        "two_tower", tiny_dataset, to=tmp_path / "b", epochs=2, dim=6, batch_size=4, device="cpu", ks=(2, 10)
    )
    assert (trained.run.training.epochs, trained.run.model.settings["dim"]) == (2, 6)
    assert trained.run.evaluation.ks == (2, 10)
    same = twotower.evaluate(tmp_path / "b")
    assert same.metrics == pytest.approx(trained.test.metrics)
    assert repr(trained).startswith("Trained(two_tower on tiny: Result(test, 4 users: ndcg@10 ")
    assert "<table>" in same._repr_html_()


def test_the_same_run_by_name_and_as_a_run_gives_the_same_weights(tiny_dataset):
    by_name = twotower.train("two_tower", tiny_dataset, epochs=2, dim=6, device="cpu")
    run = default_run("two_tower").with_settings(["training.epochs=2", "model.dim=6", "training.device=cpu"])
    as_run = twotower.train(run, tiny_dataset)
    for one, other in zip(by_name.model.parameters(), as_run.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_models_are_compared_with_corrected_tests(tiny_dataset):
    trained = {name: twotower.train(name, tiny_dataset) for name in ("popularity", "ease", "item_cosine")}
    table = twotower.compare(trained, ["ndcg@10"])
    best = max(trained, key=lambda name: trained[name].test.metrics["ndcg@10"])
    assert table.reference == best
    assert [row.corrected is None for row in table.rows] == [name == best for name in trained]
    assert all(row.corrected >= row.p_value for row in table.rows if row.p_value is not None)
    assert "Holm" in repr(table)
    assert "<th>model</th>" in table._repr_html_()


def test_a_loss_of_ones_own_by_class_and_as_an_object(tiny_dataset, registered):
    twotower.LOSSES.register("hinge")(Hinge)
    by_class = twotower.train("two_tower", tiny_dataset, loss=Hinge, epochs=2, dim=6, device="cpu")
    assert by_class.run.objective.loss == "hinge"
    handed = Hinge(margin=1.0)
    as_object = twotower.train("two_tower", tiny_dataset, loss=handed, epochs=2, dim=6, device="cpu")
    assert handed.calls > 0
    for one, other in zip(by_class.model.parameters(), as_object.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_loss_without_a_name_is_told_how_to_get_one(tiny_dataset):
    with pytest.raises(InputError, match=r"Hinge has no name.*@twotower\.LOSSES\.register"):
        twotower.train("two_tower", tiny_dataset, loss=Hinge(), epochs=1)


def test_sampler_scorer_tower_splitter_and_metric_of_ones_own(tiny_dataset, registered):
    @twotower.SAMPLERS.register("three_uniform")
    def three_uniform(context):
        return Uniform(context.num_items, 3, context.generator("three_uniform"))

    @twotower.SCORERS.register("scaled_dot")
    class ScaledDot(nn.Module):
        inner_product = False

        def __init__(self, *, dim):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(dim))

        def prepare(self, vectors):
            return vectors

        def forward(self, users, items):
            return (users * self.weight) @ items.T

        def pairs(self, users, items):
            users = (users * self.weight)[:, None] if items.ndim > users.ndim else users * self.weight
            return (users * items).sum(-1)

    @twotower.TOWERS.register("linear")
    def linear(width, dim, *, hidden, dropout, batch_norm):
        return nn.Linear(width, dim)

    @twotower.SPLITTERS.register("second-half")
    def second_half(log):
        return twotower.SPLITTERS.get("last-n")(log, n=1)

    @twotower.METRICS.register("first_rank")
    def first_rank(ranks, queries, num_queries, k):
        return ranking_metrics(ranks, queries, num_queries, [k])[f"mrr@{k}"] * 2.0

    trained = twotower.train(
        "two_tower",
        tiny_dataset,
        loss="sampled_softmax",
        sampler=three_uniform,
        score="scaled_dot",
        tower="linear",
        split="second-half",
        epochs=2,
        dim=6,
        device="cpu",
    )
    assert trained.run.sampling.sources == (NegativeSource("three_uniform"),)
    assert isinstance(trained.model.user_mlp, nn.Linear)
    assert not torch.equal(trained.model.scorer.weight, torch.ones(6)), "the scorer of one's own was trained"
    assert trained.test.metrics["first_rank@10"] == pytest.approx(2.0 * trained.test.metrics["mrr@10"])


def test_a_model_of_ones_own_is_opened_in_a_new_process_after_its_import(prepared_folder, tmp_path):
    (tmp_path / "own_nearest.py").write_text(OWN_MODEL)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def python(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=False,
        )

    made = python(f"""
        import twotower
        from own_nearest import Nearest
        trained = twotower.train(Nearest, {str(prepared_folder)!r}, to="b", epochs=2, dim=4, device="cpu")
        print(trained.run.objective.loss)
    """)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("sampled_softmax"), "no inner product, so the default run draws negatives"
    opened = python("""
        import sys
        import twotower
        try:
            twotower.load("b")
        except twotower.InputError as error:
            print(error, file=sys.stderr)
        import own_nearest
        print(len(twotower.load("b").bundle.item_ids))
    """)
    assert "its model 'nearest' is not registered here; import own_nearest before you load it" in opened.stderr
    assert (opened.returncode, opened.stdout.strip()) == (0, "8"), opened.stderr


@pytest.mark.bad_input
def test_wrong_use_is_one_line(tiny_dataset, registered):
    with pytest.raises(InputError, match="unknown model or recipe 'sasrek'; did you mean 'sasrec'"):
        twotower.train("sasrek", tiny_dataset)
    with pytest.raises(InputError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        twotower.train("sasrec", tiny_dataset, epoch=3)
    with pytest.raises(InputError, match=r"'seed' is a key of .*; say which: \*\*\{"):
        twotower.train("random", tiny_dataset, seed=3)
    with pytest.raises(InputError, match="no data: hand over a Dataset"):
        twotower.train("sasrec")
    with pytest.raises(InputError, match=r"data is a list; make it a Dataset first"):
        twotower.train("sasrec", [1, 2])
    with pytest.raises(InputError, match="no class that inherits twotower.Model"):
        twotower.train(Hinge, tiny_dataset)
    with pytest.raises(InputError, match="model 'ease' is taken by"):
        twotower.MODELS.register("ease")(Hinge)
    with pytest.raises(InputError, match="training.epochs must be a whole number"):
        twotower.train("sasrec", tiny_dataset, epochs="five")


@pytest.mark.bad_input
def test_an_object_in_place_of_a_class_is_one_line(tiny_dataset, registered):
    @twotower.SCORERS.register("plain_dot")
    class PlainDot(nn.Module):
        inner_product = True

    with pytest.raises(InputError, match="score is an object of type PlainDot: hand over the registered name or class"):
        twotower.train("two_tower", tiny_dataset, score=PlainDot())
    with pytest.raises(InputError, match=r"tower .*Linear has no name.*@twotower\.TOWERS\.register"):
        twotower.train("two_tower", tiny_dataset, tower=nn.Linear)
    with pytest.raises(InputError, match="index is an object of type int"):
        twotower.train("two_tower", tiny_dataset, index=3)
    popularity = twotower.train("popularity", tiny_dataset).model
    with pytest.raises(InputError, match="model is an object: hand over its class, Popularity, and its settings"):
        twotower.train(popularity, tiny_dataset)


@pytest.mark.bad_input
def test_a_class_that_is_no_model_is_refused_by_its_name_too(tiny_dataset, registered, tmp_path):
    twotower.MODELS.register("no_model")(Hinge)
    with pytest.raises(InputError, match="model 'no_model' is no class that inherits twotower.Model"):
        twotower.train("no_model", tiny_dataset, to=tmp_path / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.bad_input
def test_a_plug_in_that_fails_on_import_is_refused_before_anything_is_trained(
    tiny_dataset, registered, monkeypatch, tmp_path
):
    points = {
        "twotower.models": [EntryPoint("broken_model", "no_such_package:Model", "twotower.models")],
        "twotower.metrics": [EntryPoint("broken_metric", "no_such_package:metric", "twotower.metrics")],
    }
    monkeypatch.setattr("twotower.core.registry.entry_points", lambda group: points.get(group, []))
    with pytest.raises(InputError, match="model 'broken_model': the plug-in no_such_package:Model cannot be imported"):
        twotower.train("broken_model", tiny_dataset, to=tmp_path / "b")
    with pytest.raises(InputError, match="metric 'broken_metric': the plug-in .*; mend or uninstall it"):
        twotower.train("two_tower", tiny_dataset, to=tmp_path / "b", epochs=1)
    assert not list(tmp_path.iterdir()), "nothing was trained for a test that cannot be given"
    del points["twotower.metrics"]
    assert twotower.train("popularity", tiny_dataset).test.metrics, "the rest works beside a broken plug-in"


def test_a_split_of_ones_own_keeps_its_underscores(tiny_dataset, registered):
    @twotower.SPLITTERS.register("last_but_one")
    def last_but_one(log, *, n: int = 1):
        return twotower.SPLITTERS.get("last-n")(log, n=n)

    trained = twotower.train("popularity", tiny_dataset, split=last_but_one, split_options={"n": 1})
    assert trained.run.data.split == "last_but_one"
    same = twotower.train("popularity", tiny_dataset, split="last_n", split_options={"n": 1})
    assert trained.test.metrics == same.test.metrics
