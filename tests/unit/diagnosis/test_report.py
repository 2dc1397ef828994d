"""The report as a file: what it embeds is right, escaped, small, the same again; the browser tests look at it."""

from __future__ import annotations

import json
import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.diagnosis import diagnose
from twotower.diagnosis.projections import principal, project
from twotower.diagnosis.report import charts, points, write_report
from twotower.diagnosis.report.points import colouring, groups, neighbours_of
from twotower.diagnosis.vectors import Vectors


@pytest.fixture
def vectors():
    return np.random.default_rng(5).normal(size=(40, 7))


def embedded(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))


def test_principal_axes_are_scikit_learns(vectors):
    from sklearn.decomposition import PCA

    model = PCA(3).fit(vectors)
    found, shares = principal(torch.from_numpy(vectors), 3)
    np.testing.assert_allclose(found.abs(), np.abs(model.transform(vectors)), atol=1e-10)
    np.testing.assert_allclose(shares, model.explained_variance_ratio_, atol=1e-12)
    flat, held = principal(torch.from_numpy(vectors[:, :2]), 3)
    assert (flat[:, 2] == 0).all()
    assert held.sum().item() == pytest.approx(1.0)


def test_t_sne_keeps_two_groups_apart_and_repeats():
    centres = torch.eye(9)[:2] * 8
    groups = torch.arange(40) % 2
    vectors = centres[groups] + torch.randn(40, 9)
    first, notes = project(vectors, seed=2)
    again, _ = project(vectors, seed=2)
    for name, other in zip(first, again, strict=True):
        assert torch.equal(name.flat, other.flat)
        assert torch.equal(name.deep, other.deep)
    t_sne = next(projection for projection in first if projection.name == "t-SNE")
    nearest = torch.cdist(t_sne.flat, t_sne.flat).fill_diagonal_(torch.inf).argmin(1)
    assert (groups[nearest] == groups).double().mean() > 0.95
    assert t_sne.deep.shape == (40, 3)
    assert [projection.name for projection in first] == ["PCA", "t-SNE"] or not notes


def test_vectors_without_spread_or_too_few_get_no_t_sne():
    for vectors, why in ((torch.ones(20, 4), "the same"), (torch.randn(4, 6), "fewer than 5")):
        found, notes = project(vectors)
        assert [projection.name for projection in found] == ["PCA"]
        assert why in notes[0]
        assert found[0].deep.isfinite().all()


def test_umap_is_used_when_installed_and_its_absence_told(monkeypatch, vectors):
    monkeypatch.setitem(sys.modules, "umap", None)
    assert "umap-learn is not installed" in project(torch.from_numpy(vectors))[1][0]
    asked = []

    class UMAP:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, values):
            return values[:, : asked[-1]["n_components"]]

    module = ModuleType("umap")
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    found, notes = project(torch.from_numpy(vectors))
    assert notes == []
    assert found[-1].name == "UMAP"
    assert (found[-1].flat.shape, found[-1].deep.shape) == ((40, 2), (40, 3))
    assert [options["n_jobs"] for options in asked] == [1, 1]


def test_neighbours_are_those_of_a_plain_sort_among_all_rows(vectors):
    vectors[7] = 0.0
    chosen = torch.tensor([3, 7, 39])
    found, cosines = neighbours_of(Vectors(vectors), chosen)
    for row, near, values in zip([3, 39], [found[0], found[2]], [cosines[0], cosines[2]], strict=True):
        plain = [
            (float(vectors[row] @ other / np.linalg.norm(vectors[row]) / np.linalg.norm(other)), at)
            for at, other in enumerate(vectors)
            if at not in (row, 7)
        ]
        plain.sort(reverse=True)
        assert near == [at for _, at in plain[:10]]
        assert values == pytest.approx([value for value, _ in plain[:10]], abs=6e-6)
    assert found[1] == []


def test_columns_become_categories_or_ranked_numbers():
    levels = colouring("level", [300, 100, None, 100, float("nan")])
    assert (levels["labels"], levels["codes"], levels["counts"]) == (["100", "300"], [1, 0, -1, 0, -1], [2, 1])
    assert colouring("sold", [True, False, True])["labels"] == ["True", "False"]
    many = colouring("brand", [f"b{number % 15}" for number in range(31)])
    assert (len(many["labels"]), many["others"], max(many["codes"])) == (12, 3, 12)
    prices = colouring("price", [10.0**number for number in range(13)])
    assert prices["kind"] == "number"
    assert prices["shades"] == [round(100 * number / 12) for number in range(13)]
    assert prices["marks"] == [1.0, 1e6, 1e12]
    texts, empty = colouring("text", [f"t{number}" for number in range(31)]), colouring("none", [None, ""])
    assert [groups(column) for column in (levels, many, prices, texts, empty)] == [True, True, True, False, False]


def test_a_page_holds_the_verdict_every_figure_and_escaped_text(tmp_path, vectors):
    title = "</script><b>'\"&"
    found = diagnose(vectors + 40)
    found.causes.append({"feature": title, "missing": 1.0})
    page = tmp_path / "report.html"
    names = [f"{title} {number}" for number in range(40)]
    write_report(page, found, vectors, ids=names, columns={"brand": [title] * 40}, title=title)
    text = page.read_text(encoding="utf-8")
    assert title not in text
    assert text.count("</script>") == 2
    assert "Collapsed" in text
    assert "the average pair of vectors has cosine" in text.lower()
    assert embedded(text)["names"] == names
    assert f"{found.statistics['mean_cosine']:.4g}" in text
    assert f"{found.centred['mean_cosine']:.4g}" in text
    assert f"{found.with_self_pairs['mean_cosine']:.4g}" in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_same_seed_gives_the_same_file(tmp_path, vectors):
    found = diagnose(vectors)
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, found, vectors, seed=4)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_many_vectors_are_sampled_and_neighbours_still_come_from_all(tmp_path, monkeypatch, vectors):
    monkeypatch.setattr(points, "MAP_POINTS", 12)
    write_report(tmp_path / "r.html", diagnose(vectors), vectors)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    data = embedded(text)
    assert data["points"] == 12
    assert "random sample of 12 of 40 vectors" in text
    whole, _ = neighbours_of(Vectors(vectors), torch.arange(40))
    for at in range(12):
        row = int(data["names"][at].removeprefix("row "))
        assert [data["names"][place] for place in data["neighbours"][at]] == [f"row {near}" for near in whole[row]]
    assert max(place for near in data["neighbours"] for place in near) >= 12


def test_lengths_that_disagree_are_refused(tmp_path, vectors):
    found = diagnose(vectors)
    with pytest.raises(InputError, match="brand has 3 values for 40 vectors"):
        write_report(tmp_path / "r.html", found, vectors, columns={"brand": ["a", "b", "c"]})
    with pytest.raises(InputError, match="the diagnosis is of 40 vectors"):
        write_report(tmp_path / "r.html", found, vectors[:30])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vectors", [np.ones((6, 3)), np.eye(2), np.vstack([np.zeros((3, 4)), np.eye(4)])])
def test_degenerate_spaces_still_get_a_page(tmp_path, vectors):
    write_report(tmp_path / "r.html", diagnose(vectors), vectors)
    assert embedded((tmp_path / "r.html").read_text(encoding="utf-8"))["points"] == len(vectors)


def test_the_verb_writes_the_page_with_the_columns_of_the_table(tmp_path, vectors):
    import duckdb

    table = tmp_path / "items.parquet"
    rows = [(f"i{at}", f"title {at}", at % 3, vector.tolist()) for at, vector in enumerate(vectors)]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE items (id VARCHAR, title VARCHAR, level INTEGER, vector DOUBLE[])")
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", rows)
        connection.execute(f"COPY items TO '{table}' (FORMAT parquet)")
    page = tmp_path / "report.html"
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(table), "--html", str(page), "--json"])
    assert ended.value.code == 0
    data = embedded(page.read_text(encoding="utf-8"))
    assert data["names"][:2] == ["title 0", "title 1"]
    assert data["ids"][:2] == ["i0", "i1"]
    assert [column["name"] for column in data["columns"]] == ["level", "vector length"]


def test_the_histogram_draws_every_bin_by_its_share():
    drawn = charts.histogram([0, 30, 10, 0], -1.0, 1.0, 0.1)
    heights = [float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)]
    assert len(heights) == 2
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2)
    assert "75.00% of pairs" in drawn
