import torch

from twotower.core.records import FIRST_KNOWN, PADDING, UNKNOWN, Batch, Encoded, Items, Negatives, Users


def test_the_rows_that_mean_something_are_a_file_format():
    assert (PADDING, UNKNOWN, FIRST_KNOWN) == (0, 1, 2)


def test_defaults_are_the_plain_case():
    ids = torch.tensor([2, 3])
    users = Users(ids, {}, torch.zeros(2, 4, dtype=torch.int64))
    assert users.history_times is None
    assert Batch(users, Items(ids)).labels is None
    assert Items(ids).features is None
    assert Encoded(ids, None, ids, {}).user_rows is None
    plain = Negatives(ids, ids.double())
    assert plain.in_batch == 0
    assert [plain.states, plain.keep, plain.per_row] == [None, None, None]
