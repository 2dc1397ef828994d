"""KuaiRand: exposures of short videos with many kinds of feedback; the whole log of chosen videos or of 1,000 users."""

from __future__ import annotations

from pathlib import Path

from twotower.data.prepare.spec import Label, Spec
from twotower.data.sources.base import Archive, Reader, Source, need
from twotower.data.sources.tables import database, delimited, number, spec, write

LICENCE = "Kuaishou and USTC: CC BY-SA 4.0; name the authors, and share what you derive under the same terms."
CITATION = (
    "Chongming Gao, Shijun Li, Yuan Zhang, Jiawei Chen, Biao Li, Wenqiang Lei, Peng Jiang and Xiangnan He. 2022. "
    "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos. CIKM 2022. "
    "doi:10.1145/3511808.3557624"
)
EVENTS = (
    "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms",
    "duration_ms", "tab",
)  # fmt: skip
USER_FEATURES = {
    "user_active_degree": "categorical",
    "is_live_streamer": "categorical",
    "is_video_author": "categorical",
    "follow_user_num_range": "categorical",
    "fans_user_num_range": "categorical",
    "friend_user_num_range": "categorical",
    "register_days_range": "categorical",
    **{f"onehot_feat{i}": "categorical" for i in range(12)},
}
ITEM_FEATURES = {
    "author_id": "categorical",
    "video_type": "categorical",
    "upload_type": "categorical",
    "music_type": "categorical",
    "tags": "multi_categorical",
    "video_duration": "numeric",
}
"""The published statistics of a video are left out: they are means over the whole month, so they know the test."""


def kuairand_spec(title: str) -> Spec:
    """Return the spec of either size: a click is a positive, other exposures stay as label 0."""
    return spec(
        title,
        time="timestamp_ms",
        unit="ms",
        label=Label("is_click", equals=1.0, keep="all"),
        users=USER_FEATURES,
        items=ITEM_FEATURES,
    )


def user_columns() -> str:
    """Return SQL for the columns of ``users.parquet``; the numbered features come as 1 or as 1.0."""
    encrypted = ", ".join(f"regexp_replace(onehot_feat{i}::VARCHAR, '\\.0$', '') AS onehot_feat{i}" for i in range(12))
    plain = ", ".join(column for column in USER_FEATURES if not column.startswith("onehot"))
    return f"user_id::VARCHAR AS user_id, {plain}, {encrypted}"


def item_columns(identifier: str) -> str:
    """Return SQL for the columns of ``items.parquet``."""
    return (
        f"{identifier}::VARCHAR AS item_id, author_id::VARCHAR AS author_id, video_type, upload_type, "
        "regexp_replace(music_type::VARCHAR, '\\.0$', '') AS music_type, "
        "CASE WHEN tag IS NULL OR tag = '' THEN []::VARCHAR[] ELSE string_split(tag, ',') END AS tags, "
        f"{number('video_duration')} AS video_duration"
    )


def event_columns(identifier: str, clock: str) -> str:
    """Return SQL for the columns of ``interactions.parquet``."""
    events = ", ".join(f"{column}::INTEGER AS {column}" for column in EVENTS)
    return f"user_id::VARCHAR AS user_id, {identifier}::VARCHAR AS item_id, {clock}::BIGINT AS timestamp_ms, {events}"


def _reader(name: str, suffix: str) -> Reader:
    def read(files: Path, out: Path, category: str | None) -> Spec:
        """Tables from the two standard logs; the randomly exposed one is another policy and is left out."""
        needed = ("user_id", "video_id", "time_ms", *EVENTS)
        logs = [
            delimited(need(files, f"log_standard_{days}_{suffix}.csv"), needed=needed)
            for days in ("4_08_to_4_21", "4_22_to_5_08")
        ]
        users = delimited(need(files, f"user_features_{suffix}.csv"), needed=("user_id", *USER_FEATURES))
        videos = delimited(need(files, f"video_features_basic_{suffix}.csv"), needed=("video_id", "tag"))
        with database() as connection:
            both = " UNION ALL ".join(f"SELECT {event_columns('video_id', 'time_ms')} FROM {log}" for log in logs)
            write(connection, both, out / "interactions.parquet")
            write(connection, f"SELECT {user_columns()} FROM {users}", out / "users.parquet")
            write(connection, f"SELECT {item_columns('video_id')} FROM {videos}", out / "items.parquet")
        return kuairand_spec(name)

    return read


def _source(name: str, title: str, size: int, md5: str) -> Source:
    file = f"KuaiRand-{'1K' if name.endswith('1k') else 'Pure'}.tar.gz"
    archive = Archive(file, f"https://zenodo.org/records/10439422/files/{file}", size, md5)
    read = _reader(name, name.removeprefix("kuairand-"))
    return Source(name, title, "https://kuairand.com", LICENCE, CITATION, read, (archive,))


SOURCES = (
    _source("kuairand-pure", "KuaiRand-Pure: 1,436,609 exposures, 27,285 users, 7,551 videos", 47_432_272,
            "0820331067a3784d9691136f772b35a7"),
    _source("kuairand-1k", "KuaiRand-1K: 11,713,045 exposures, 1,000 users, 4,369,953 videos", 1_135_436_720,
            "6b0b9c8222d67fcd4c676218edca3f1f"),
)  # fmt: skip
