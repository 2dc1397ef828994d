"""KuaiRand-Pure as ``twotower reproduce sparcode-cold`` reads it: long views, and all 30 published features of users.

The folder holds ``train_sequences_until_20220424.parquet`` beside the tables that ``twotower data get kuairand-pure
--from FOLDER`` reads. A positive is a long view: those of the standard log, and those among the last 50 items shown to
a user before it. Users and items stay that have at least so many. With ``--users`` a part of them is drawn, so that the
table can be made on a small machine; that data set is called "kuairand-cold", and the one of all users
"kuairand-cold-whole".

    python benchmarks/kuairand_cold.py FOLDER --to runs/kuairand-cold-whole
    python benchmarks/kuairand_cold.py FOLDER --to runs/kuairand-cold --users 4000 --item-events 20
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import duckdb

from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.sources.kuairand import ITEM_FEATURES, USER_FEATURES, item_columns, user_columns
from twotower.data.sources.tables import spec

SEQUENCES = "train_sequences_until_20220424.parquet"
LOG = "log_standard_20220425_20220508.parquet"
NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
"""Heavy-tailed counts: their logarithm is the feature."""
CODES = ("is_lowactive_period", *(f"onehot_feat{number}" for number in range(12, 18)))
"""Published features that the recipe of the whole data set leaves out."""


def cold_users(folder: Path, to: Path, *, users: int | None, user_events: int, item_events: int) -> Path:
    """Write tables and spec in ``to``, and the prepared set beside it in ``TO-prepared``; ``users`` None: all."""
    to.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute(f"""
            CREATE TABLE long AS SELECT DISTINCT user_id::VARCHAR AS user_id, item_id::VARCHAR AS item_id FROM (
                SELECT user_id, unnest(last_long_view_items) AS item_id FROM read_parquet('{folder / SEQUENCES}')
                UNION ALL SELECT user_id, item_id FROM read_parquet('{folder / LOG}') WHERE long_view = 1)""")
        connection.execute(f"""
            CREATE TABLE drawn AS SELECT user_id FROM long GROUP BY user_id HAVING count(*) >= {user_events}
            ORDER BY md5(user_id) LIMIT {"ALL" if users is None else users}""")
        connection.execute(f"""
            COPY (SELECT long.* FROM long JOIN drawn USING (user_id) ORDER BY user_id, item_id)
            TO '{to / "interactions.parquet"}' (FORMAT parquet)""")
        more = [f"ln(1 + greatest({column}, 0)) AS {column}" for column in NUMBERS]
        more += [f"regexp_replace({column}::VARCHAR, '\\.0$', '') AS {column}" for column in CODES]
        connection.execute(f"""
            COPY (SELECT {user_columns()}, {", ".join(more)} FROM read_parquet('{folder / "users.parquet"}'))
            TO '{to / "users.parquet"}' (FORMAT parquet)""")
        connection.execute(f"""
            COPY (SELECT {item_columns("item_id")} FROM read_parquet('{folder / "items.parquet"}'))
            TO '{to / "items.parquet"}' (FORMAT parquet)""")
    kinds = {**USER_FEATURES, **dict.fromkeys(NUMBERS, "numeric"), **dict.fromkeys(CODES, "categorical")}
    name = "kuairand-cold" if users is not None else "kuairand-cold-whole"
    whole = spec(name, users=kinds, items=ITEM_FEATURES, split={"kind": "cold-users"})
    whole = replace(whole, interactions=replace(whole.interactions, min_item_events=item_events), folder=to)
    whole.to_toml(to / "spec.toml")
    return prepare(Spec.from_toml(to / "spec.toml"), to.with_name(f"{to.name}-prepared"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, default=Path("runs/kuairand-cold"))
    parser.add_argument("--users", type=int, help="how many are drawn; default: all")
    parser.add_argument("--user-events", type=int, default=10)
    parser.add_argument("--item-events", type=int, default=5)
    given = parser.parse_args()
    made = cold_users(
        given.folder, given.to, users=given.users, user_events=given.user_events, item_events=given.item_events
    )
    print(made)
