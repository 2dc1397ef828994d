"""Amazon reviews of 2014, the 5-core of one category: every user and every product has at least five reviews."""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.data.prepare.database import NO_FOLDERS, as_pattern, parquet
from twotower.data.prepare.spec import Spec
from twotower.data.sources.base import Archive, Source, find, need
from twotower.data.sources.tables import database, spec, write

LICENCE = "Julian McAuley, UCSD, from Amazon's pages: for research; the publisher gives no licence text."
CITATION = (
    "Ruining He and Julian McAuley. 2016. Ups and Downs: Modeling the Visual Evolution of Fashion Trends with "
    "One-Class Collaborative Filtering. WWW 2016. doi:10.1145/2872427.2883037"
)
CATEGORIES = (
    "Amazon_Instant_Video", "Apps_for_Android", "Automotive", "Baby", "Beauty", "Books", "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics",
    "Grocery_and_Gourmet_Food", "Health_and_Personal_Care", "Home_and_Kitchen", "Kindle_Store", "Movies_and_TV",
    "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Sports_and_Outdoors",
    "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games",
)  # fmt: skip
ADDRESS = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
REVIEWS = "reviews_{category}_5.json.gz"
PRODUCTS = "meta_{category}.json.gz"


def read(files: Path, out: Path, category: str | None) -> Spec:
    """Read tables from the reviews and, where it is there, the product file of one category."""
    pattern = f"reviews_{category or '*'}_5.json"
    reviews = find(files, pattern) or need(files, pattern + ".gz")
    category = reviews.name.removeprefix("reviews_").partition("_5.json")[0]
    products = find(files, f"meta_{category}.json") or find(files, f"meta_{category}.json.gz")
    types = "{reviewerID: 'VARCHAR', asin: 'VARCHAR', overall: 'DOUBLE', unixReviewTime: 'BIGINT', summary: 'VARCHAR'}"
    with database() as connection:
        write(
            connection,
            'SELECT "reviewerID" AS user_id, asin AS item_id, overall AS rating, "unixReviewTime" AS timestamp, '
            f"summary FROM read_json({as_pattern(reviews)}, format='newline_delimited', columns={types}, {NO_FOLDERS})",
            out / "interactions.parquet",
        )
        if products is None:
            return amazon_spec(category, with_products=False)
        rows = connection.execute(f"SELECT DISTINCT item_id FROM {parquet(out / 'interactions.parquet')}").fetchall()
        with replacing_file(out / "items.jsonl") as lines:
            _write_products(products, {row[0] for row in rows}, lines)
            types = "{item_id: 'VARCHAR', title: 'VARCHAR', brand: 'VARCHAR', categories: 'VARCHAR[]', price: 'DOUBLE'}"
            options = f"format='newline_delimited', columns={types}, {NO_FOLDERS}"
            write(connection, f"SELECT * FROM read_json({as_pattern(lines)}, {options})", out / "items.parquet")
        (out / "items.jsonl").unlink()
    return amazon_spec(category)


def amazon_spec(category: str, *, with_products: bool = True) -> Spec:
    """Return the spec of one category; the clock has the precision of a day."""
    features = {"title": "text", "brand": "categorical", "categories": "multi_categorical", "price": "numeric"}
    return spec(
        f"amazon-reviews-{category.lower().replace('_', '-')}",
        time="timestamp",
        value="rating",
        items=features if with_products else None,
        item_title="title" if with_products else "",
    )


def _write_products(products: Path, wanted: set[str], target: Path) -> None:
    with target.open("w", encoding="utf-8") as file:
        for product in _products(products):
            if (asin := product.get("asin")) in wanted:
                names = [name for path in product.get("categories", []) for name in path]
                row = {
                    "item_id": asin,
                    "title": product.get("title"),
                    "brand": product.get("brand"),
                    "categories": list(dict.fromkeys(names)),
                    "price": product.get("price"),
                }
                file.write(json.dumps(row) + "\n")


def _products(path: Path) -> Iterator[dict[str, Any]]:
    """The products; the published lines are Python literals, not JSON."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                product = json.loads(line) if line.startswith('{"') else ast.literal_eval(line)
            except (ValueError, SyntaxError):
                raise InputError(f"{path}:{number}: not a product record") from None
            if isinstance(product, dict):
                yield product


SOURCES = (
    Source(
        "amazon-reviews",
        "Amazon reviews 2014, 5-core, one category (--category)",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        LICENCE,
        CITATION,
        read,
        (Archive(REVIEWS, ADDRESS + REVIEWS), Archive(PRODUCTS, ADDRESS + PRODUCTS)),
        restricted=True,
        categories=CATEGORIES,
    ),
)
