"""Taobao display advertising: eight days of ads shown to 1.1 million users, clicked or not."""

from __future__ import annotations

from pathlib import Path

from twotower.data.prepare.spec import Label, Spec
from twotower.data.sources.base import Source, need
from twotower.data.sources.tables import database, delimited, number, spec, write

LICENCE = "Alibaba, Tianchi: non-commercial research under the terms accepted at log-in; no passing on."
CITATION = "Alibaba. 2018. Ad Display/Click Data on Taobao.com. https://tianchi.aliyun.com/dataset/56"
PEOPLE = (
    "cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level", "occupation",
    "new_user_class_level",
)  # fmt: skip


def read(files: Path, out: Path, category: str | None) -> Spec:
    """Read tables from ``raw_sample.csv``, ``user_profile.csv`` and ``ad_feature.csv``."""
    shown = delimited(need(files, "raw_sample.csv"), needed=("user", "time_stamp", "adgroup_id", "pid", "clk"))
    people = delimited(need(files, "user_profile.csv"), needed=("userid", *PEOPLE))
    ads = delimited(need(files, "ad_feature.csv"), needed=("adgroup_id", "cate_id", "campaign_id", "brand", "price"))
    with database() as connection:
        write(
            connection,
            'SELECT "user" AS user_id, adgroup_id AS item_id, time_stamp::BIGINT AS timestamp, '
            f"clk::INTEGER AS clicked, pid AS place FROM {shown}",
            out / "interactions.parquet",
        )
        columns = ", ".join(f"nullif({column}, '') AS {column}" for column in PEOPLE)
        write(connection, f"SELECT userid AS user_id, {columns} FROM {people}", out / "users.parquet")
        write(
            connection,
            "SELECT adgroup_id AS item_id, cate_id AS category_id, campaign_id, customer AS customer_id, "
            f"nullif(nullif(brand, 'NULL'), '') AS brand_id, {number('price')} AS price "
            f"FROM {ads}",
            out / "items.parquet",
        )
    return spec(
        "taobao-ad",
        time="timestamp",
        label=Label("clicked", equals=1.0, keep="all"),
        users=dict.fromkeys(PEOPLE, "categorical"),
        items={
            **dict.fromkeys(("category_id", "campaign_id", "customer_id", "brand_id"), "categorical"),
            "price": "numeric",
        },
    )


SOURCES = (
    Source(
        "taobao-ad",
        "Taobao display ads: 26,557,961 exposures, 1,141,729 users, 846,811 ads",
        "https://tianchi.aliyun.com/dataset/56",
        LICENCE,
        CITATION,
        read,
        restricted=True,
    ),
)
