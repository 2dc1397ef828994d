"""SASRec: the quick path of one state a user equals the state at its last place, whatever the padding."""

import pytest
import torch

from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Schema
from twotower.models.sequential import SASRec


def model(**settings) -> SASRec:
    torch.manual_seed(0)
    made = SASRec(Schema(4, 12), **{"dim": 8, "layers": 3, "heads": 2, "history_length": 7, **settings}).double()
    with torch.no_grad():
        made.item_table.weight.normal_()
    return made.eval()


def users(*histories: list[int], width: int = 7) -> Users:
    padded = torch.tensor([row + [0] * (width - len(row)) for row in histories])
    return Users(torch.arange(2, 2 + len(histories)), {}, padded)


def test_user_state_is_the_state_at_the_last_place():
    made = model()
    asked = users([3, 4, 5], [6], [2, 3, 4, 5, 6, 7, 8])
    at_all = made.positions(asked.history)
    expected = torch.stack([at_all[0, 2], at_all[1, 0], at_all[2, 6]])
    torch.testing.assert_close(made.encode_users(asked), expected, rtol=1e-12, atol=1e-12)


def test_padding_and_neighbours_in_the_batch_have_no_effect():
    made = model()
    alone = made.encode_users(users([3, 4, 5], width=3))
    together = made.encode_users(users([3, 4, 5], [2, 3, 4, 5, 6, 7, 8]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-12, atol=1e-12)


def test_a_position_does_not_see_what_comes_after():
    made = model()
    short, long = made.positions(users([3, 4, 5]).history), made.positions(users([3, 4, 9, 2, 6]).history)
    torch.testing.assert_close(short[0, :2], long[0, :2], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(short[0, 2], long[0, 2])


def test_an_empty_history_scores_every_item_zero():
    made = model()
    assert not made.encode_users(users([], [3])).count_nonzero(dim=1)[0]


def test_forward_pairs_every_position_with_the_item_that_follows():
    made = model()
    targets = torch.tensor([[4, 5, 0], [7, 0, 0]])
    encoded = made(Batch(users([3, 4, 0], [6, 0, 0], width=3), Items(targets)))
    assert encoded.item_ids.tolist() == [4, 5, 7]  # the batch's order, though the CPU encodes the shorter row first
    assert encoded.user_rows.tolist() == [0, 0, 1]
    assert encoded.items is None
    expected = made.encode_users(users([3], [3, 4], [6]))
    torch.testing.assert_close(encoded.users, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", [{"heads": 3}, {"dim": 0}, {"dropout": 1.0}, {"attention_dropout": -0.1}])
def test_settings_that_make_no_model_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        model(**settings)


@torch.no_grad()
def test_the_cosine_is_the_dot_product_of_both_at_length_1_over_the_temperature():
    plain, cosine = model(), model(score="cosine", temperature=0.2)
    cosine.load_state_dict(plain.state_dict())
    asked, items = users([3, 4, 5], [6]), Items(torch.arange(2, 12))
    states, vectors = plain.encode_users(asked), plain.encode_items(items)
    expected = [
        [float(u @ v) / (float(u @ u) ** 0.5 * float(v @ v) ** 0.5) for v in vectors.double()] for u in states.double()
    ]
    scores = cosine.score(cosine.encode_users(asked), cosine.encode_items(items))
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    assert cosine.logit_scale() == pytest.approx(5.0)
    batch = Batch(users([3, 4, 0], [6, 0, 0], width=3), Items(torch.tensor([[4, 5, 0], [7, 0, 0]])))
    torch.testing.assert_close(cosine(batch).users.norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("wrong", "words"), [({"score": "mlp"}, "dot or cosine"), ({"score": "cosine", "temperature": 0.0}, "temperature")]
)
def test_a_score_without_an_inner_product_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        model(**wrong)
