"""Both tasks follow one protocol: what trains and judges a run need not know which it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.experiment.build import Parts
from twotower.experiment.candidates import Candidates
from twotower.experiment.catalogue import Catalogue
from twotower.experiment.run import Data, ModelSection, Run
from twotower.experiment.task import Task
from twotower.experiment.tasks import task_of
from twotower.sampling.uniform import Uniform
from twotower.training.config import Objective, Training


def small(split: str) -> Run:
    """A quick run on either task."""
    pairs = split == "pre-ranking"
    return Run(
        data=Data(split=split, split_options={"reading": "all", "validation_share": 0.5} if pairs else {}),
        model=ModelSection("two_tower", {"dim": 4, "field_dim": 3, "hidden": [4]}),
        objective=Objective("bce" if pairs else "full_softmax"),
        training=Training(epochs=2, batch_size=8, metric="auc" if pairs else "ndcg@3", device="cpu"),
    )


@pytest.mark.parametrize(
    ("split", "kind"), [("leave-one-out", Catalogue), ("pre-ranking", Candidates), ("", Catalogue)]
)
def test_the_split_of_a_run_says_its_task(split: str, kind: type, tiny_dataset: Dataset) -> None:
    task = task_of(small(split), tiny_dataset)
    assert isinstance(task, kind)
    assert isinstance(task, Task)


@pytest.mark.parametrize("split", ["leave-one-out", "pre-ranking"])
def test_validate_gives_the_metrics_that_training_writes_down(split: str, tiny_dataset: Dataset) -> None:
    """The model comes back with the weights of its best epoch, so one record has those very figures."""
    task = task_of(small(split), tiny_dataset)
    model, records = task.train()
    metric = task.run.training.metric
    best = max(records, key=lambda record: record.metrics[metric])
    assert task.validate(model) == best.metrics


@pytest.mark.parametrize("split", ["leave-one-out", "pre-ranking"])
def test_list_lengths_are_those_of_the_run_unless_others_are_asked_for(split: str, tiny_dataset: Dataset) -> None:
    run = small(split)
    task = task_of(replace(run, evaluation=replace(run.evaluation, ks=(2, 4))), tiny_dataset)
    torch.manual_seed(1)
    model, _ = task.train()
    assert {"recall@2", "recall@4"} <= set(task.test(model).metrics)
    assert "recall@3" in task.test(model, ks=(3,)).metrics


def test_an_index_is_asked_for_lists_over_the_catalogue_alone(tiny_dataset: Dataset) -> None:
    catalogue, candidates = (task_of(small(split), tiny_dataset) for split in ("leave-one-out", "pre-ranking"))
    assert isinstance(catalogue, Catalogue)
    assert catalogue.targets("validation") is catalogue.split.validation
    assert catalogue.targets("test") is catalogue.split.test
    assert candidates.targets("test") is None


@pytest.mark.bad_input
def test_pairs_have_no_ranking_for_validation_and_take_no_sampler(tiny_dataset: Dataset) -> None:
    task = task_of(small("pre-ranking"), tiny_dataset)
    with pytest.raises(InputError, match="judge the test"):
        task.test(task.train()[0], part="validation")
    with pytest.raises(InputError, match="leave the sampler out"):
        task.train(parts=Parts(sampler=Uniform(tiny_dataset.schema.num_items, 4, torch.Generator())))
