"""Synthetic categories: what each form keeps of the training data, and the text vectors that the second goes by."""

import collections
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.diagnosis.causes.drift import jensen_shannon
from twotower.diagnosis.remedies import assign_by_cluster, draw_marginals, prevailing
from twotower.towers.latent_text import fit_text, text_vectors


def skewed(rows: int) -> torch.Tensor:
    """Values 2 to 9, the first half of all rows, the next a quarter, and so on."""
    shares = torch.tensor([2.0 ** -(place + 1) for place in range(8)])
    return 2 + shares.multinomial(rows, replacement=True, generator=torch_generator(1, "skewed"))


class TestMarginals:
    """Shares are kept, for any number of rows."""

    @pytest.mark.parametrize("count", [7, 100, 1000, 3001])
    def test_every_value_is_as_frequent_as_in_training_up_to_one(self, count):
        training = skewed(1000)
        drawn = draw_marginals(training, count, torch_generator(2, "draw"))
        wanted = training.bincount(minlength=12) * count / len(training)
        assert ((drawn.bincount(minlength=12) - wanted).abs() < 1 + 1e-9).all()
        assert drawn.shape == (count,)

    def test_chi_square_and_jensen_shannon(self):
        training = skewed(1000)
        drawn = draw_marginals(training, 300, torch_generator(2, "draw"))
        found, expected = drawn.bincount(minlength=12).double(), training.bincount(minlength=12).double() * 0.3
        kept = expected > 0
        assert chisquare(found[kept].numpy(), (expected[kept] * found.sum() / expected.sum()).numpy()).pvalue > 0.99
        assert jensen_shannon(found, expected) < 0.002
        assert jensen_shannon(torch.ones(12), expected) > 0.05

    def test_sets_of_values_stay_together(self):
        training = torch.tensor([[2, 3, 0], [2, 3, 0], [4, 0, 0], [5, 6, 7]])
        drawn = draw_marginals(training, 8, torch_generator(0, "draw"))
        counts = collections.Counter(map(tuple, drawn.tolist()))
        assert counts == {(2, 3, 0): 4, (4, 0, 0): 2, (5, 6, 7): 2}

    def test_order_is_random_and_repeats_with_the_seed(self):
        training = skewed(200)
        first, again, other = (draw_marginals(training, 100, torch_generator(seed, "draw")) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first, first.sort().values)

    def test_shares_are_right_on_average(self):
        training = torch.tensor([2, 3, 3])
        drawn = torch.stack([draw_marginals(training, 1, torch_generator(seed, "draw")) for seed in range(600)])
        assert (drawn == 2).double().mean().item() == pytest.approx(1 / 3, abs=0.07)

    def test_nothing_to_draw_from(self):
        with pytest.raises(InputError, match="nothing to draw from"):
            draw_marginals(torch.zeros(0, dtype=torch.int64), 3, torch_generator(0, "draw"))


def mutual_information(first: torch.Tensor, second: torch.Tensor) -> float:
    """In nats, from counts."""
    pairs = collections.Counter(zip(first.tolist(), second.tolist(), strict=True))
    a, b, total = collections.Counter(first.tolist()), collections.Counter(second.tolist()), len(first)
    return sum(n / total * math.log(n * total / (a[x] * b[y])) for (x, y), n in pairs.items())


class TestClusters:
    """Relations of texts and categories are kept."""

    def planted(self, rows: int, noise: float, seed: int):
        """Four kinds of text; the category follows the kind but for a share of ``noise``."""
        generator = torch_generator(seed, "planted")
        kinds = torch.randint(4, (rows,), generator=generator)
        vectors = torch.eye(4, 6)[kinds] + 0.1 * torch.randn(rows, 6, generator=generator)
        other = torch.randint(2, 6, (rows,), generator=generator)
        lost = torch.rand(rows, generator=generator) < noise
        return kinds, vectors, torch.where(lost, other, kinds + 2)

    def test_categories_follow_the_texts_and_outdo_the_marginals(self):
        _, vectors, values = self.planted(400, 0.2, 0)
        kinds, new, truth = self.planted(150, 0.0, 1)
        generator = torch_generator(3, "assign")
        assigned = assign_by_cluster(values, vectors, new, generator, clusters=4)
        drawn = draw_marginals(values, 150, generator)
        assert (assigned == truth).double().mean() > 0.99
        assert (drawn == truth).double().mean() < 0.5
        trained = mutual_information(self.planted(400, 0.2, 0)[0], values)
        assert mutual_information(kinds, assigned) >= trained
        assert mutual_information(kinds, drawn) < 0.2 * trained

    def test_default_clusters_and_sets_of_values(self):
        kinds, vectors, _ = self.planted(200, 0.0, 0)
        sets = torch.tensor([[2, 3, 0], [4, 0, 0], [5, 6, 0], [7, 8, 9]])
        assigned = assign_by_cluster(sets[kinds], vectors, vectors[:50], torch_generator(0, "assign"))
        assert torch.equal(assigned, sets[kinds[:50]])

    def test_texts_that_tell_nothing_get_what_prevails(self):
        _, vectors, values = self.planted(100, 0.0, 0)
        assigned = assign_by_cluster(values, vectors, torch.zeros(3, 6), torch_generator(0, "assign"))
        assert assigned.tolist() == [int(prevailing(values))] * 3

    def test_one_training_row(self):
        assigned = assign_by_cluster(
            torch.tensor([5]), torch.ones(1, 2), torch.rand(4, 2) + 0.1, torch_generator(0, "assign")
        )
        assert assigned.tolist() == [5] * 4

    def test_prevailing_leaves_unknown_out_unless_it_is_all(self):
        assert prevailing(torch.tensor([1, 1, 1, 3, 4, 4])).item() == 4
        assert prevailing(torch.tensor([1, 1])).item() == 1
        assert prevailing(torch.tensor([[1, 0], [1, 0]])).tolist() == [1, 0]


class TestTextVectors:
    """Against scikit-learn on the texts themselves."""

    TEXTS = ("a b b c", "c d", "e e e a", "b d f", "f a c d e", "g")

    def words(self, texts):
        vocabulary = {word: row for row, word in enumerate("abcdefg", start=2)}
        rows = [[vocabulary.get(word, 1) for word in text.split()] for text in texts]
        return torch.tensor([row + [0] * (6 - len(row)) for row in rows])

    def test_equal_to_tfidf_and_svd(self):
        space = fit_text(self.words(self.TEXTS), 9, 3, seed=0)
        sparse = TfidfVectorizer(token_pattern=r"\w", vocabulary=list("abcdefg")).fit_transform(self.TEXTS)
        expected = TruncatedSVD(3, algorithm="arpack", random_state=0).fit(sparse).transform(sparse)
        found = text_vectors(space, self.words(self.TEXTS)).numpy()
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)

    def test_unknown_words_weigh_nothing_and_empty_texts_are_zero(self):
        space = fit_text(self.words(self.TEXTS), 9, 4, seed=0)
        plain, more, empty = text_vectors(space, self.words(["c d", "c z d q", "z z"]))
        torch.testing.assert_close(plain, more)
        assert not empty.any()

    def test_more_axes_than_the_texts_have_are_zero(self):
        space = fit_text(self.words(self.TEXTS[:2]), 9, 5, seed=0)
        assert not space.axes[:, 2:].any()
        assert not fit_text(torch.zeros(3, 2, dtype=torch.int64), 9, 2).axes.any()
