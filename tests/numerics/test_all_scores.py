"""Full softmax from scores: against cross-entropy in one piece, and what it is refused for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twotower.core.errors import InputError
from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.build import build_objective
from twotower.experiment.run import ModelSection, Run
from twotower.models.registry import build_model
from twotower.training.all_scores import AgainstAllScores
from twotower.training.config import Objective

SCHEMA = Schema(30, 24)
SETTINGS = {"dim": 8, "tokens": 2, "codebook": 6, "chosen": 2, "warm_up": 0.0, "layers": 1, "history_length": 5}


def made(**settings):
    model = build_model("sparcode", SCHEMA, SETTINGS | {"dropout": 0.0} | settings).train()
    history = torch.randint(2, 24, (20, 5))
    batch = Batch(Users(torch.arange(20) + 2, {}, history), Items(torch.randint(2, 24, (20,)), None))
    model.encode_users(batch.users)  # the codes start
    return model, batch


def data() -> Dataset:
    log = Log(torch.tensor([0, 0, 0, *[22] * 28]), torch.arange(2, 24))
    return Dataset(SCHEMA, log, {}, {}, {"name": "made"})


@pytest.mark.parametrize("codes", ["none", "gate", "quantised"])
def test_in_chunks_it_is_the_cross_entropy_of_all_known_items(codes):
    model, batch = made(codes=codes)
    model.eval()  # codes stand still
    scores = model.score(model.encode_users(batch.users), model.encode_items(Items(torch.arange(2, 24))))
    wanted = F.cross_entropy(scores, batch.items.ids - 2)
    gradients = torch.autograd.grad(wanted, [model.item_table.weight, model.bias])
    for pairs in (10_000, 22 * 6, 1):
        found = AgainstAllScores(data(), pairs=pairs)(model, batch)
        torch.testing.assert_close(found, wanted)
        for own, other in zip(
            torch.autograd.grad(found, [model.item_table.weight, model.bias]), gradients, strict=True
        ):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_the_losses_of_the_codes_are_in_it_once():
    model, batch = made(codes="quantised", commitment=1.0)
    weighted = AgainstAllScores(data(), pairs=30)(model, batch)
    model.commitment = 0.0
    plain = AgainstAllScores(data(), pairs=10_000)(model, batch)
    assert (weighted - plain).item() > 1e-4


def test_a_run_gets_it_where_the_score_is_a_sum_of_dot_products():
    run = Run(model=ModelSection("sparcode"), objective=Objective("full_softmax"))
    model, _ = made()
    assert isinstance(build_objective(run, data(), data().log, model), AgainstAllScores)
    network, _ = made(scorer="inner_pdnn")
    with pytest.raises(InputError, match="full_softmax needs a model whose score is an inner product"):
        build_objective(run, data(), data().log, network)
