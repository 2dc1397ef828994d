"""The closed form of EASE: its Cholesky factor goes block by block, and is that of the whole matrix."""

import numpy as np
import pytest

from twotower.models.baselines import ease


def positive(size: int) -> np.ndarray:
    """Return a positive definite matrix in Fortran order, the upper triangle of which is nonsense."""
    half = np.random.default_rng(size).standard_normal((size, size))
    matrix = np.asfortranarray(half @ half.T + size * np.eye(size))
    matrix[np.triu_indices(size, 1)] = np.nan
    return matrix


@pytest.mark.parametrize(("size", "block"), [(1, 7), (7, 7), (40, 7), (42, 7), (40, 64)])
def test_the_factor_in_blocks_is_that_of_the_whole_matrix(size, block, monkeypatch):
    monkeypatch.setattr(ease, "_BLOCK", block)
    matrix = positive(size)
    lower = np.tril(np.nan_to_num(matrix))
    assert ease.factorise(matrix)
    factor = np.tril(np.nan_to_num(matrix))
    np.testing.assert_allclose(factor @ factor.T, lower + np.tril(lower, -1).T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("place", [0, 13, 39])
def test_a_matrix_that_is_not_positive_definite_has_no_factor(place, monkeypatch):
    monkeypatch.setattr(ease, "_BLOCK", 7)
    matrix = positive(40)
    matrix[place, place] = -1.0
    assert not ease.factorise(matrix)


@pytest.mark.slow
@pytest.mark.long
def test_a_catalogue_above_16_000_items_is_factorised():
    """LAPACK's routine for the whole matrix ended the process here, with two threads and more."""
    size = 17_000
    matrix = np.zeros((size, size), order="F")
    matrix[np.diag_indices(size)] = 4.0
    matrix[-1, 0] = 2.0
    assert ease.factorise(matrix)
    assert matrix[0, 0] == 2.0
    assert matrix[-1, 0] == 1.0
    assert matrix[-1, -1] == pytest.approx(3.0**0.5)
