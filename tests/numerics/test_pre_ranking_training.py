"""How pre-rankers are trained: their own losses, which epoch is kept, and how many rows validate."""

from __future__ import annotations

import pytest
import torch

from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Feature, Schema
from twotower.data.pairs import pre_ranking_pairs
from twotower.models.fit.model import FIT
from twotower.models.prerank.dat import DAT
from twotower.models.prerank.int_tower import IntTower
from twotower.models.prerank.rank_tower import RankTower
from twotower.training.config import Training
from twotower.training.loop import fit
from twotower.training.objective import AgainstLabels

HEADED = {"dim": 6, "item_heads": 2, "user_heads": 3, "hidden": (8, 7), "field_dim": 4}
SMALL = {
    DAT: {"dim": 5, "hidden": (8,), "field_dim": 4},
    IntTower: HEADED,
    RankTower: HEADED,
    FIT: HEADED | {"meta_queries": 5},
}


@pytest.mark.parametrize(
    ("kind", "name", "weight"),
    [
        (IntTower, "contrastive", "contrastive_weight"),
        (DAT, "mimic", "mimic_weight"),
        (DAT, "category_alignment", "category_weight"),
        (RankTower, "coarse", "coarse_weight"),
        (RankTower, "diversity", "diversity_weight"),
        (FIT, "query_balance", "query_balance"),
    ],
)
def test_own_losses_enter_training_on_labels(kind, name, weight):
    schema = Schema(7, 10, item_features=(Feature("brand", "categorical", 5),))
    brands, ids = torch.tensor([0, 1, 2, 3, 4, 1, 2, 3, 4, 1]), torch.tensor([6, 2, 9, 6, 5, 3])
    users = Users(torch.arange(1, 7), {}, torch.tensor([[2, 3], [5, 0], [0, 0], [7, 8], [9, 9], [6, 4]]))
    labels = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.float64)
    batch = Batch(users, Items(ids, {"brand": brands[ids]}), labels)
    model, objective = kind(schema, user_id=True, **SMALL[kind]).double(), AgainstLabels()
    model.attach_items(Items(torch.arange(10), {"brand": brands}))

    def value_and_gradients(of_weight, compute):
        setattr(model, weight, of_weight)
        value, parameters = compute(model, batch), list(model.parameters())
        found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        return value.item(), torch.cat([gradient.flatten() for gradient in found])

    without, slope_without = value_and_gradients(0.0, objective)
    term, slope_of_term = value_and_gradients(1.0, lambda model, batch: model(batch).losses[name])
    with_it, slope_with_it = value_and_gradients(2.5, objective)
    assert term > 1e-4
    assert slope_of_term.abs().max() > 1e-4
    assert with_it == pytest.approx(without + 2.5 * term, rel=1e-9)
    torch.testing.assert_close(slope_with_it, slope_without + 2.5 * slope_of_term)


def test_a_checkpoint_is_chosen_among_selectable_epochs(tiny_dataset):
    """FIT's queries are soft in the first epoch, which validates best here."""
    model = FIT(tiny_dataset.schema, **SMALL[FIT])
    model.attach_items(tiny_dataset.all_items())
    rows = pre_ranking_pairs(tiny_dataset, reading="all", validation_share=0.0).train
    weights, selectable, answers = [], [], iter([0.9, 0.6, 0.7, 0.5])

    def validate(model):
        weights.append([p.detach().clone() for p in model.parameters()])
        selectable.append(model.selectable)
        return {"auc": next(answers)}

    progress = fit(model, rows, AgainstLabels(), Training(epochs=4, batch_size=6, metric="auc"), validate=validate)
    assert selectable == [False, True, True, True]
    assert (progress.best_epoch, progress.best) == (3, 0.7)
    kept = list(model.parameters())
    assert all(torch.equal(p, value) for p, value in zip(kept, weights[2], strict=True))
    assert not any(torch.equal(kept[0], weights[other][0]) for other in (0, 1, 3))


@pytest.mark.parametrize(("share", "held"), [(0.5, [2, 4, 6, 6]), (0.75, [2, 2, 4, 6, 6, 6]), (0.3, [6])])
def test_share_of_each_user_in_the_validation_by_time(tiny_dataset, share, held):
    """Users 2, 4 and 6 have three, two and four training positives; each brings a negative along."""
    split = pre_ranking_pairs(tiny_dataset, reading="all", validation="time", validation_share=share)
    assert split.validation.users.tolist() == [user for user in held for _ in range(2)]
    assert len(split.train) == 2 * (9 - len(held))
