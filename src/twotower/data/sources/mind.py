"""MIND-small: news impressions of 50,000 users with what was shown and what was clicked."""

from __future__ import annotations

from pathlib import Path

from twotower.core.errors import InputError
from twotower.data.prepare.spec import Label, Spec
from twotower.data.sources.base import Archive, Source, find_all
from twotower.data.sources.tables import database, delimited, spec, write

LICENCE = (
    "Microsoft Research License Terms: non-commercial research only; no passing on; the texts belong to their "
    "publishers."
)
CITATION = (
    "Fangzhao Wu, Ying Qiao, Jiun-Hung Chen, Chuhan Wu, Tao Qi, Jianxun Lian, Danyang Liu, Xing Xie, Jianfeng Gao, "
    "Winnie Wu and Ming Zhou. 2020. MIND: A Large-scale Dataset for News Recommendation. ACL 2020. "
    "doi:10.18653/v1/2020.acl-main.331"
)
ADDRESS = "https://recodatasets.z20.web.core.windows.net/newsrec/"
BEHAVIORS = ("impression", "user_id", "time", "history", "shown")
NEWS = ("item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
EVENTS = """
WITH behaviors AS (
    {behaviors}
), impressions AS (
    SELECT *, epoch(strptime(time, '%m/%d/%Y %I:%M:%S %p'))::BIGINT AS timestamp FROM behaviors
), histories AS (
    SELECT user_id, min(timestamp) AS timestamp, arg_min(history, timestamp) AS history
    FROM impressions GROUP BY user_id
), events AS (
    SELECT user_id, item_id, timestamp, 1 AS clicked, 'history' AS origin, place, 0 AS impression
    FROM (SELECT *, unnest(string_split(history, ' ')) AS item_id, generate_subscripts(string_split(history, ' '), 1)
        AS place FROM histories WHERE history <> '')
    UNION ALL
    SELECT user_id, regexp_extract(item, '^(.*)-[01]$', 1), timestamp, right(item, 1)::INTEGER, 'impression', place,
        part
    FROM (SELECT *, unnest(string_split(trim(shown), ' ')) AS item,
        generate_subscripts(string_split(trim(shown), ' '), 1) AS place FROM impressions)
)
SELECT user_id, item_id, timestamp, clicked, origin FROM events ORDER BY user_id, timestamp, origin, impression, place
"""


def read(files: Path, out: Path, category: str | None) -> Spec:
    """Read tables from ``behaviors.tsv`` and ``news.tsv`` of both parts.

    Each shown item is an event, clicked or not. The clicks of a user's history have no clock: they stand before the
    first impression, in their order, with its time (``origin`` tells them apart).
    """
    behaviors, news = find_all(files, "behaviors.tsv"), find_all(files, "news.tsv")
    if not behaviors or not news:
        raise InputError("no behaviors.tsv and news.tsv in the copy; give both MINDsmall_train and MINDsmall_dev")

    def tables(paths: list[Path], columns: tuple[str, ...]) -> list[str]:
        return [delimited(path, columns, separator="\t", quote="") for path in paths]

    with database() as connection:
        rows = " UNION ALL ".join(
            f"SELECT user_id, time, coalesce(history, '') AS history, shown, {part} * 10000000000 + impression::BIGINT "
            f"AS part FROM {table}"
            for part, table in enumerate(tables(behaviors, BEHAVIORS))
        )
        write(connection, EVENTS.format(behaviors=rows), out / "interactions.parquet")
        articles = " UNION ALL ".join(f"SELECT * FROM {table}" for table in tables(news, NEWS))
        write(
            connection,
            "SELECT item_id, any_value(title) AS title, any_value(category) AS category, "
            "any_value(subcategory) AS subcategory, any_value(abstract) AS abstract "
            f"FROM ({articles}) GROUP BY item_id ORDER BY item_id",
            out / "items.parquet",
        )
    features = {"title": "text", "category": "categorical", "subcategory": "categorical", "abstract": "text"}
    return spec(
        "mind-small",
        time="timestamp",
        label=Label("clicked", equals=1.0, keep="all"),
        items=features,
        item_title="title",
    )


SOURCES = (
    Source(
        "mind-small",
        "MIND-small: news impressions of 50,000 users",
        "https://msnews.github.io",
        LICENCE,
        CITATION,
        read,
        tuple(Archive(name, ADDRESS + name) for name in ("MINDsmall_train.zip", "MINDsmall_dev.zip")),
        restricted=True,
    ),
)
