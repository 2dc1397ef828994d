"""Sparse codes of vectors against loops in float64, what they restore, and what their lists find."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.index.exact import ExactIndex
from twotower.index.sparse_codes import SparseCodesIndex, lists_of
from twotower.ops.sparse_autoencoder import Directions, decode, encode, fit_directions

DIM, CODES, ACTIVE = 8, 20, 3


def vectors(rows: int, seed: int) -> torch.Tensor:
    """Sums of three of twelve fixed directions, about a common middle."""
    own = torch.Generator().manual_seed(4)
    basis = torch.randn(12, DIM, generator=own)
    draw = torch.Generator().manual_seed(seed)
    shares = torch.rand(rows, 12, generator=draw).topk(3, dim=1)
    return (basis[shares.indices] * shares.values[:, :, None]).sum(1) + 0.5


def directions_of(seed: int = 0) -> Directions:
    draw = torch.Generator().manual_seed(seed)
    return Directions(
        torch.randn(DIM, CODES, generator=draw),
        torch.randn(CODES, generator=draw),
        torch.nn.functional.normalize(torch.randn(CODES, DIM, generator=draw), dim=1),
        torch.randn(DIM, generator=draw),
    )


def test_an_item_has_the_codes_with_the_largest_positive_values():
    items, found = vectors(30, 1), directions_of()
    codes, values = encode(items, found, ACTIVE)
    for row, item in enumerate(items.double()):
        raw = [float((item - found.mean) @ found.encoder[:, code].double() + found.bias[code]) for code in range(CODES)]
        best = sorted(range(CODES), key=lambda code: -max(raw[code], 0.0))[:ACTIVE]
        assert codes[row].tolist() == best
        assert values[row].tolist() == pytest.approx([max(raw[code], 0.0) for code in best], rel=1e-4, abs=1e-5)
        restored = found.mean.double()
        for n in range(ACTIVE):
            restored = restored + values[row, n].double() * found.decoder[codes[row, n]].double()
        restored_at_once = decode(codes[row : row + 1], values[row : row + 1], found)[0].double()
        torch.testing.assert_close(restored_at_once, restored, rtol=1e-5, atol=1e-5)


def test_learning_restores_most_of_what_few_codes_can_hold():
    items = vectors(600, 1)
    found = fit_directions(items, CODES, ACTIVE)
    left = (decode(*encode(items, found, ACTIVE), found) - items).square().mean()
    assert float(left) < 0.35 * float((items - items.mean(0)).square().mean())
    torch.testing.assert_close(found.decoder.norm(dim=1), torch.ones(CODES))
    again = fit_directions(items, CODES, ACTIVE)
    assert all(one.equal(other) for one, other in zip(found, again, strict=True))


def test_a_list_holds_the_items_of_its_code_in_their_order():
    codes, values = torch.tensor([[2, 0], [0, 1], [2, 1]]), torch.tensor([[1.5, 0.5], [2.0, 0.0], [0.25, 3.0]])
    lists = lists_of(codes.numpy(), values.numpy(), torch.tensor([4, 7, 9]).numpy(), 4)
    assert lists.offsets.tolist() == [0, 2, 3, 5, 5]
    assert lists.places.tolist() == [0, 1, 2, 0, 2]
    assert lists.scores.tolist() == [0.5, 2.0, 3.0, 1.5, 0.25]


def test_with_all_lists_read_and_all_items_ranked_it_answers_as_a_scan_does():
    items, users, ids = vectors(300, 1), vectors(20, 2), torch.arange(300) + 5
    exact, sparse = ExactIndex(), SparseCodesIndex(codes=CODES, active=CODES, read=CODES, rerank=30)
    for index in (exact, sparse):
        index.build(items, ids)
    assert sparse.search(users, 10).ids.equal(exact.search(users, 10).ids)


def test_few_lists_find_most_of_the_best_and_more_lists_find_more():
    items, users, ids = vectors(2000, 1), vectors(50, 2) - 0.5, torch.arange(2000)
    exact, sparse = ExactIndex(), SparseCodesIndex(codes=64, active=4, read=1, rerank=4)
    for index in (exact, sparse):
        index.build(items, ids)
    best, shares = exact.search(users, 10).ids, []
    for read in (1, 8, 64):
        sparse.set_effort(read)
        found = sparse.search_lists(users, 10).ids
        shares.append(float((found[:, :, None] == best[:, None]).any(2).float().mean()))
    assert shares == sorted(shares)
    assert shares[-1] > 0.6
    assert sparse.lists is not None
    assert sparse.lists.num_bytes < 4 * items.numel() + 65 * 16 + 8 * 2000


@pytest.mark.bad_input
def test_short_lists_name_a_setting_that_this_index_has(caplog):
    index = SparseCodesIndex(active=1, read=1)
    index.build(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(2, 62))
    found = index.search(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), 40)
    assert (found.ids >= 0).all(), "a scan fills what the lists lack"
    (said,) = caplog.messages
    assert said.endswith("raise index.read")
    assert "read" in index.settings


def test_bad_settings_and_bad_vectors_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"index.read = 0: at least 1 is wanted"):
        SparseCodesIndex(read=0)
    broken = vectors(9, 1)
    broken[3, 2] = torch.nan
    with pytest.raises(InputError, match="a vector holds NaN or inf"):
        SparseCodesIndex().build(broken, torch.arange(9))
    with pytest.raises(InputError, match="5 of 4 codes"):
        fit_directions(vectors(9, 1), 4, 5)
    index = SparseCodesIndex(codes=6, active=2)
    index.build(vectors(9, 1), torch.arange(9))
    index.save(tmp_path)
    (tmp_path / "directions.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="not an index of this kind"):
        SparseCodesIndex.load(tmp_path)
