"""`twotower data get` from copies in the official layout of each family, then `twotower data prepare` on the result."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deezer_files import write_deezer

from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data import sources
from twotower.data.dataset import Dataset
from twotower.data.prepare.prepare import prepare
from twotower.data.sources import fetch
from twotower.data.sources.base import Archive, SourceUnavailable

Files = dict[str, bytes]


def rows(path: Path, order: str = "") -> list[tuple[Any, ...]]:
    return duckdb.sql(f"SELECT * FROM '{path}' {order}").fetchall()


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def tarred(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def lines(*rows: str, encoding: str = "utf-8") -> bytes:
    return "".join(row + "\n" for row in rows).encode(encoding)


def ml_100k(folder: Path) -> Path:
    flags = {"Toy Story (1995)": {3, 4, 5}, "Misérables, Les (1995)": {8}, "unknown": {0}}
    films = [
        f"{number}|{title}|01-Jan-1995||http://us.imdb.com/M/x|{'|'.join(str(int(i in on)) for i in range(19))}"
        for number, (title, on) in enumerate(flags.items(), 1)
    ]
    return zipped(
        folder / "ml-100k.zip",
        {
            "ml-100k/u.data": lines("1\t1\t5\t881250949", "2\t2\t3\t881250950", "1\t2\t4\t881250960", "2\t3\t1\t9"),
            "ml-100k/u.user": lines("1|24|M|technician|85711", "2|53|F|other|94043"),
            "ml-100k/u.item": lines(*films, encoding="latin-1"),
        },
    )


def ml_1m(folder: Path) -> Path:
    return zipped(
        folder / "ml-1m.zip",
        {
            "ml-1m/ratings.dat": lines("1::1193::5::978300760", "1::661::3::978302109", "2::661::4::978298413"),
            "ml-1m/users.dat": lines("1::F::1::10::48067", "2::M::56::16::70072"),
            "ml-1m/movies.dat": lines(
                '661::Café "au lait": x (1996)::Animation|Children\'s',
                "1193::One Flew Over (1975)::Drama",
                encoding="latin-1",
            ),
        },
    )


def ml_10m(folder: Path) -> Path:
    return zipped(
        folder / "ml-10m.zip",
        {
            "ml-10M100K/ratings.dat": lines("1::122::5::838985046", "1::185::4.5::838983525", "2::122::3::868245777"),
            "ml-10M100K/movies.dat": lines("122::Café (1992)::Comedy|Romance", "185::Net, The (1995)::Action"),
        },
    )


def ml_csv(name: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        return zipped(
            folder / f"{name}.zip",
            {
                f"{name}/ratings.csv": lines(
                    "userId,movieId,rating,timestamp", "1,296,5.0,7", "1,306,3.5,8", "2,296,4,9"
                ),
                f"{name}/movies.csv": lines(
                    "movieId,title,genres",
                    '296,"Pulp ""Fiction"", A (1994)",Comedy|Crime',
                    "306,Röd,(no genres listed)",
                ),
            },
        )

    return build


KUAIRAND_LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
KUAIRAND_USER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{i}" for i in range(18))
)
KUAIRAND_VIDEO = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)


def kuairand(suffix: str, top: str) -> Callable[[Path], Path]:
    def event(user: int, video: int, time: int, click: int) -> str:
        return f"{user},{video},20220408,1000,{time},{click},0,0,0,0,0,1,5000,9000,0,0,0,0,1"

    def build(folder: Path) -> Path:
        encrypted = ",".join(f"{i}.0" if i == 4 else str(i) for i in range(18))
        people = [f'{user},full_active,0,0,1,5,"(0,10]",3,"[1,10)",0,0,90,61-90,{encrypted}' for user in (0, 1)]
        return tarred(
            folder / f"{top}.tar.gz",
            {
                f"{top}/data/log_standard_4_08_to_4_21_{suffix}.csv": lines(
                    KUAIRAND_LOG, event(0, 7, 1649400000000, 1), event(1, 8, 1649400000500, 1)
                ),
                f"{top}/data/log_standard_4_22_to_5_08_{suffix}.csv": lines(
                    KUAIRAND_LOG,
                    event(0, 8, 1650700000000, 1),
                    event(1, 7, 1650700000001, 0),
                    event(1, 7, 1650800000001, 1),
                ),
                f"{top}/data/log_random_4_22_to_5_08_{suffix}.csv": lines(KUAIRAND_LOG, event(0, 7, 1650700000000, 1)),
                f"{top}/data/user_features_{suffix}.csv": lines(KUAIRAND_USER, *people),
                f"{top}/data/video_features_basic_{suffix}.csv": lines(
                    KUAIRAND_VIDEO,
                    '7,441,NORMAL,2022-04-01,ShortImport,1,17200.0,720,1280,98,4.0,"12,65"',
                    "8,442,AD,2022-04-02,Web,1,,720,1280,,,",
                ),
                f"{top}/load_data_{suffix}.py": b"",
            },
        )

    return build


def amazon(folder: Path) -> Path:
    def review(user: str, item: str, time: int) -> str:
        return json.dumps(
            {
                "reviewerID": user,
                "asin": item,
                "reviewerName": "é",
                "helpful": [0, 1],
                "reviewText": "Good.",
                "overall": 5.0,
                "summary": "It's fine",
                "unixReviewTime": time,
                "reviewTime": "02 1",
            }
        )

    products = lines(
        "{'asin': 'B1', 'title': 'Brush \\'best\\'', 'price': 3.17, 'brand': 'X', 'categories': [['Beauty', 'Hair']]}",
        "{'asin': 'B2', 'categories': [['Beauty', 'Skin'], ['Beauty', 'Sun']], 'description': \"it's\"}",
        "{'asin': 'B9', 'title': 'never reviewed'}",
    )
    folder = folder / "amazon"
    folder.mkdir()
    reviews = lines(review("A1", "B1", 1400000000), review("A1", "B2", 1400086400), review("A2", "B1", 1300000000))
    (folder / "reviews_Beauty_5.json.gz").write_bytes(gzip.compress(reviews))
    (folder / "meta_Beauty.json.gz").write_bytes(gzip.compress(products))
    return folder


def mind(folder: Path) -> Path:
    folder = folder / "mind"
    folder.mkdir()
    news = 'N1\tsports\tgolf\tPGA "Tour" winners\tA gallery\thttps://x\t[]\t[]'
    train = lines("1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N2-0", "2\tU2\t11/12/2019 6:11:30 PM\t\tN1-0 N3-1")
    dev = lines("1\tU1\t11/15/2019 7:00:00 AM\tN1 N2 N3\tN2-1 N3-0")
    zipped(
        folder / "MINDsmall_train.zip",
        {"behaviors.tsv": train, "news.tsv": lines(news, "N2\thealth\tdiet\tEat\t\thttps://y\t[]\t[]")},
    )
    zipped(
        folder / "MINDsmall_dev.zip",
        {
            "MINDsmall_dev/behaviors.tsv": dev,
            "MINDsmall_dev/news.tsv": lines(news, "N3\tnews\tus\tRain\tWet\tu\t[]\t[]"),
        },
    )
    return folder


def taobao(folder: Path) -> Path:
    folder = folder / "taobao"
    folder.mkdir()
    tarred(
        folder / "raw_sample.csv.tar.gz",
        {
            "raw_sample.csv": lines(
                "user,time_stamp,adgroup_id,pid,nonclk,clk",
                "1,1494137644,10,430548_1007,0,1",
                "1,1494137650,11,430548_1007,1,0",
                "2,1494137600,11,430539_1007,0,1",
                "1,1494137660,11,430539_1007,0,1",
            )
        },
    )
    (folder / "ad_feature.csv").write_bytes(
        lines(
            "adgroup_id,cate_id,campaign_id,customer,brand,price", "10,6406,83237,1,95471,170.0", "11,392,1,2,NULL,99.0"
        )
    )
    (folder / "user_profile.csv").write_bytes(
        lines(
            "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
            "new_user_class_level ",
            "1,0,5,2,5,,3,0,3",
            "2,0,5,2,5,1,3,1,2",
        )
    )
    return folder


DEEZER = {fold: [[i, i + 1, 8] for i in range(4)] for fold in ("train", "validation", "test")}


def deezer(folder: Path) -> Path:
    return write_deezer(folder / "deezer", DEEZER, songs=9)


CASES: dict[str, Callable[[Path], Path]] = {
    "ml-100k": ml_100k,
    "ml-1m": ml_1m,
    "ml-10m": ml_10m,
    "ml-20m": ml_csv("ml-20m"),
    "ml-25m": ml_csv("ml-25m"),
    "ml-32m": ml_csv("ml-32m"),
    "kuairand-pure": kuairand("pure", "KuaiRand-Pure"),
    "kuairand-1k": kuairand("1k", "KuaiRand-1K"),
    "amazon-reviews": amazon,
    "mind-small": mind,
    "taobao-ad": taobao,
    "deezer-cold-start": deezer,
}


@pytest.mark.parametrize("name", CASES)
def test_official_layout_is_read_and_prepared(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = CASES[name](tmp_path)
    raw, prepared = tmp_path / "raw", tmp_path / "prepared"
    run("data", "get", name, "--from", str(copy), "--to", str(raw))
    shown = capsys.readouterr()
    assert f"twotower data prepare {raw}/spec.toml" in shown.out
    assert f"licence of {name}" in shown.err
    assert f"{name} came from {copy}" in shown.err
    run("data", "prepare", str(raw / "spec.toml"), "--to", str(prepared))
    dataset = Dataset.load(prepared)
    events = rows(raw / "interactions.parquet")
    assert dataset.log.num_events == len(events)
    assert json.loads((raw / "source.json").read_text())["licence"] == fetch.source_of(name).licence


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 0


def got(name: str, tmp_path: Path, **options: Any) -> Path:
    return sources.get(name, tmp_path / "raw", from_path=CASES[name](tmp_path), **options).parent


def test_ml_100k_tables(tmp_path: Path) -> None:
    raw = got("ml-100k", tmp_path)
    assert rows(raw / "interactions.parquet")[0] == ("1", "1", 5.0, 881250949)
    assert rows(raw / "users.parquet") == [("1", 24, "M", "technician", "85711"), ("2", 53, "F", "other", "94043")]
    assert rows(raw / "items.parquet") == [
        ("1", "Toy Story (1995)", 1995, ["Animation", "Children's", "Comedy"]),
        ("2", "Misérables, Les (1995)", 1995, ["Drama"]),
        ("3", "unknown", None, ["unknown"]),
    ]


def test_ml_1m_tables(tmp_path: Path) -> None:
    raw = got("ml-1m", tmp_path)
    assert rows(raw / "interactions.parquet") == [
        ("1", "1193", 5.0, 978300760),
        ("1", "661", 3.0, 978302109),
        ("2", "661", 4.0, 978298413),
    ]
    assert rows(raw / "items.parquet")[0] == ("661", 'Café "au lait": x (1996)', 1996, ["Animation", "Children's"])
    assert rows(raw / "users.parquet")[1] == ("2", "M", "56", "16", "70072")


def test_ml_csv_tables(tmp_path: Path) -> None:
    raw = got("ml-25m", tmp_path)
    assert rows(raw / "items.parquet") == [
        ("296", 'Pulp "Fiction", A (1994)', 1994, ["Comedy", "Crime"]),
        ("306", "Röd", None, []),
    ]
    assert rows(raw / "interactions.parquet")[1] == ("1", "306", 3.5, 8)


def test_kuairand_joins_the_standard_logs_and_leaves_the_random_one_out(tmp_path: Path) -> None:
    raw = got("kuairand-pure", tmp_path)
    log = rows(raw / "interactions.parquet")
    assert [(row[0], row[1], row[2], row[3]) for row in log] == [
        ("0", "7", 1649400000000, 1),
        ("1", "8", 1649400000500, 1),
        ("0", "8", 1650700000000, 1),
        ("1", "7", 1650700000001, 0),
        ("1", "7", 1650800000001, 1),
    ]
    assert rows(raw / "items.parquet") == [
        ("7", "441", "NORMAL", "ShortImport", "4", ["12", "65"], 17200.0),
        ("8", "442", "AD", "Web", None, [], None),
    ]
    assert rows(raw / "users.parquet")[0][1:8] == ("full_active", "0", "1", "(0,10]", "[1,10)", "0", "61-90")
    dataset = Dataset.load(prepare(raw / "spec.toml", tmp_path / "prepared"))
    assert dataset.log.labels is not None
    assert dataset.log.labels.tolist().count(0.0) == 1
    assert dataset.log.times is not None
    assert int(dataset.log.times.min()) == 1649400000


def test_amazon_reads_products_that_are_no_json_and_keeps_the_reviewed(tmp_path: Path) -> None:
    raw = got("amazon-reviews", tmp_path, category="Beauty")
    assert rows(raw / "interactions.parquet")[0] == ("A1", "B1", 5.0, 1400000000, "It's fine")
    assert rows(raw / "items.parquet") == [
        ("B1", "Brush 'best'", "X", ["Beauty", "Hair"], 3.17),
        ("B2", None, None, ["Beauty", "Skin", "Sun"], None),
    ]


def test_amazon_without_products_has_no_items(tmp_path: Path) -> None:
    copy = amazon(tmp_path)
    (copy / "meta_Beauty.json.gz").unlink()
    spec = sources.get("amazon-reviews", tmp_path / "raw", from_path=copy)
    assert "[items]" not in spec.read_text()
    assert "amazon-reviews-beauty" in spec.read_text()


def test_mind_puts_the_history_before_the_first_impression(tmp_path: Path) -> None:
    raw = got("mind-small", tmp_path)
    first, last = 1573463158, 1573801200
    assert rows(raw / "interactions.parquet") == [
        ("U1", "N1", first, 1, "history"),
        ("U1", "N2", first, 1, "history"),
        ("U1", "N3", first, 1, "impression"),
        ("U1", "N2", first, 0, "impression"),
        ("U1", "N2", last, 1, "impression"),
        ("U1", "N3", last, 0, "impression"),
        ("U2", "N1", 1573582290, 0, "impression"),
        ("U2", "N3", 1573582290, 1, "impression"),
    ]
    assert [row[:4] for row in rows(raw / "items.parquet")] == [
        ("N1", 'PGA "Tour" winners', "sports", "golf"),
        ("N2", "Eat", "health", "diet"),
        ("N3", "Rain", "news", "us"),
    ]


def test_taobao_tables(tmp_path: Path) -> None:
    raw = got("taobao-ad", tmp_path)
    assert rows(raw / "interactions.parquet")[1] == ("1", "11", 1494137650, 0, "430548_1007")
    assert rows(raw / "items.parquet")[1] == ("11", "392", "1", "2", None, 99.0)
    assert rows(raw / "users.parquet")[0] == ("1", "0", "5", "2", "5", None, "3", "0", "3")


def test_deezer_tables(tmp_path: Path) -> None:
    raw = got("deezer-cold-start", tmp_path)
    assert rows(raw / "users.parquet")[:2] == [
        ("0", "train", [0.5, 0.0, 30.0, 0.0]),
        ("1", "train", [1.5, 3.0, 30.0, 1.0]),
    ]
    assert rows(raw / "users.parquet")[-1][:2] == ("11", "test")
    assert rows(raw / "interactions.parquet")[:3] == [("0", "0"), ("0", "1"), ("0", "8")]
    assert rows(raw / "items.parquet")[2] == ("2", [2.0, 1.5, 0.0])
    assert rows(raw / "warm_users.parquet") == [("0", [1.0, 2.0, 3.0])]


def test_deezer_tables_of_ut_als_where_only_its_files_are_there(tmp_path: Path) -> None:
    def read(copy: Path) -> dict[str, list[tuple[Any, ...]]]:
        raw = sources.get("deezer-cold-start", tmp_path / f"raw-{copy.name}", from_path=copy).parent
        return {name: rows(raw / f"{name}.parquet") for name in ("users", "items", "warm_users", "interactions")}

    svd, mf, both = (
        read(write_deezer(tmp_path / name, DEEZER, 9, spaces))
        for name, spaces in {"svd": ("svd",), "mf": ("mf",), "both": ("mf", "svd")}.items()
    )
    assert mf["users"][:2] == [
        ("0", "train", [0.125, -1.0, 0.0, 0.0, 30.0]),
        ("1", "train", [1.125, -1.0, 3.0, 3.0, 30.0]),
    ]
    assert [user[:2] for user in mf["users"]] == [user[:2] for user in svd["users"]]
    assert mf["items"] == [(str(song), [0.25, -float(song)]) for song in range(9)]
    assert mf["warm_users"] == [("0", [7.0, 8.0])]
    assert mf["interactions"] == svd["interactions"]
    assert both == svd


def test_unpacked_folder_is_read_as_its_archive_is(tmp_path: Path) -> None:
    copy = ml_1m(tmp_path)
    zipfile.ZipFile(copy).extractall(tmp_path / "unpacked")
    one = sources.get("ml-1m", tmp_path / "one", from_path=copy).parent
    two = sources.get("ml-1m", tmp_path / "two", from_path=tmp_path / "unpacked").parent
    for table in ("interactions", "users", "items"):
        assert rows(one / f"{table}.parquet") == rows(two / f"{table}.parquet")


def test_prepare_at_once_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, prepared = tmp_path / "raw", tmp_path / "raw-prepared"
    run("data", "get", "ml-1m", "--from", str(ml_1m(tmp_path)), "--to", str(raw), "--prepare", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"name": "ml-1m", "spec": str(raw / "spec.toml"), "prepared": str(prepared)}
    assert Dataset.load(prepared).log.num_events == 3


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "get", *arguments])
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in shown.err
    return last


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = ("--to", str(tmp_path / "raw"))
    assert "did you mean 'ml-100k'" in fails(capsys, "ml-10k", *to)
    assert "--list" in fails(capsys)
    assert "no such file" in fails(capsys, "ml-1m", "--from", str(tmp_path / "none.zip"), *to)
    assert "no file ratings.dat in the copy; it holds u.data" in fails(
        capsys, "ml-1m", "--from", str(ml_100k(tmp_path)), *to
    )
    assert "did you mean 'Beauty'" in fails(capsys, "amazon-reviews", "--category", "Beaty", *to)
    assert "--category" in fails(capsys, "amazon-reviews", *to)
    assert "no categories" in fails(capsys, "ml-1m", "--category", "Beauty", *to)
    assert "--from" in fails(capsys, "taobao-ad", *to)
    assert "--from" in fails(capsys, "yelp-2019", *to)
    assert "is not drawn" in fails(capsys, "ml-1m", "--seed", "3", *to)
    assert not (tmp_path / "raw").exists()


def test_folder_with_other_content_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "not written by twotower" in fails(
        capsys, "ml-1m", "--from", str(ml_1m(tmp_path)), "--to", str(tmp_path / "mine")
    )
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_file_of_another_shape_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = zipped(tmp_path / "x.zip", {"ratings.csv": b"userId,movie,rating,timestamp\n1,2,3,4\n", "movies.csv": b""})
    assert "no column 'movieId'" in fails(capsys, "ml-25m", "--from", str(copy), "--to", str(tmp_path / "raw"))
    copy = zipped(tmp_path / "y.zip", {"ratings.dat": b"1::2::good::4\n", "movies.dat": b"1::x (2000)::A\n"})
    assert "cannot read" in fails(capsys, "ml-10m", "--from", str(copy), "--to", str(tmp_path / "raw"))


def test_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    run("data", "get", "--list", "--json")
    table = {row["name"]: row for row in json.loads(capsys.readouterr().out)["data_sets"]}
    assert set(CASES) | {"synthetic", "yelp-2019"} <= set(table)
    assert table["ml-25m"]["bytes"] == 261_978_986
    assert not table["taobao-ad"]["downloads"]
    run("data", "get", "--list")
    shown = capsys.readouterr().out
    assert all(name in shown for name in table)
    assert "CC BY-SA" in shown


def fake_wheel(path: Path) -> Path:
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    return zipped(
        path,
        {
            f"{folder}.inter": lines(
                "user_id:token\titem_id:token\trating:float\ttimestamp:float",
                "1\t1\t5\t881250949",
                "2\t2\t3\t881250950",
                "1\t2\t4\t881250960",
                "2\t3\t1\t9",
            ),
            f"{folder}.user": lines(
                "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
                "1\t24\tM\ttechnician\t85711",
                "2\t53\tF\tother\t94043",
            ),
            f"{folder}.item": lines(
                "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
                "1\tToy Story\t1995\tAnimation Children's Comedy",
                "2\tMisérables, Les\t1995\tDrama",
                "3\tunkonwn\tunkonwn\tunknown",
            ),
            "recbole/__init__.py": b"raise SystemExit('never run')",
        },
    )


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(archive: Archive, target: Path, **options: object) -> Path:
        raise SourceUnavailable(f"{archive.address}: cannot be reached (test)")

    monkeypatch.setattr(fetch, "download", refuse)


def test_wheel_gives_the_same_tables_as_the_official_archive(
    tmp_path: Path, no_home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "fetch_wheel", lambda folder: fake_wheel(tmp_path / "recbole-1.2.1-py3-none-any.whl"))
    told: list[str] = []
    one = sources.get("ml-100k", tmp_path / "one", notice=told.append).parent
    two = sources.get("ml-100k", tmp_path / "two", from_path=ml_100k(tmp_path)).parent
    for table in ("interactions", "users", "items"):
        assert rows(one / f"{table}.parquet") == rows(two / f"{table}.parquet")
    assert "recbole==1.2.1" in told[-1]
    assert "recbole==1.2.1" in json.loads((one / "source.json").read_text())["origin"]
    assert (one / "spec.toml").read_text() == (two / "spec.toml").read_text()


def test_wheel_at_hand_is_a_copy(tmp_path: Path) -> None:
    spec = sources.get("ml-100k", tmp_path / "raw", from_path=fake_wheel(tmp_path / "recbole.whl"))
    assert len(rows(spec.parent / "interactions.parquet")) == 4


def test_no_source_at_all_is_told_apart(tmp_path: Path, no_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> Path:
        raise SourceUnavailable("recbole==1.2.1: pip could not download it (test)")

    monkeypatch.setattr(fetch, "fetch_wheel", refuse)
    with pytest.raises(SourceUnavailable, match=r"grouplens.*recbole"):
        sources.get("ml-100k", tmp_path / "raw")
    with pytest.raises(SourceUnavailable, match="grouplens"):
        sources.get("ml-1m", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_downloads_are_unpacked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def copy(archive: Archive, target: Path, **options: object) -> Path:
        asked.append(archive.address)
        target.parent.mkdir(parents=True, exist_ok=True)
        made = amazon(tmp_path) if not (tmp_path / "amazon").exists() else tmp_path / "amazon"
        target.write_bytes((made / archive.name).read_bytes())
        return target

    monkeypatch.setattr(fetch, "download", copy)
    spec = sources.get("amazon-reviews", tmp_path / "raw", category="Beauty")
    assert [address.rpartition("/")[2] for address in asked] == ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"]
    assert len(rows(spec.parent / "items.parquet")) == 2
    assert (tmp_path / "downloads" / "reviews_Beauty_5.json.gz").exists()


@pytest.mark.slow
def test_real_wheel_equals_the_real_data(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    from twotower.data.sources.wheel import fetch_wheel

    try:
        wheel = fetch_wheel(tmp_path / "downloads")
    except SourceUnavailable as error:
        pytest.skip(f"no package registry: {error}")
    one = sources.get("ml-100k", tmp_path / "one", from_path=wheel).parent
    two = sources.get("ml-100k", tmp_path / "two", from_path=shared_data("ml-100k")).parent
    for table in ("interactions", "users", "items"):
        key = "" if table == "interactions" else f"ORDER BY {table[:-1]}_id"
        assert rows(one / f"{table}.parquet", key) == rows(two / f"{table}.parquet", key)


PARQUET = {
    "ml-100k": ("ml-100k", None, 943, 1682, 100_000),
    "ml-1m": ("ml-1m", None, 6040, 3883, 1_000_209),
    "ml-latest-small-2018": ("ml-latest-small-2018", None, 610, 9742, 100_836),
    "kuairand-pure": ("kuairand-pure", None, 25_156, 7583, 228_329),
    "amazon-beauty-5core": ("amazon-reviews", "Beauty", 22_363, 12_101, 198_502),
    "amazon-musical-instruments-5core": ("amazon-reviews", "Musical_Instruments", 1429, 900, 10_261),
    "yelp-2019": ("yelp-2019", None, 30_431, 20_033, 316_354),
    "amazon-instruments-2018": ("amazon-instruments-2018", None, 24_772, 9922, 206_153),
    "citeulike-a": ("citeulike-a", None, 5551, 16_980, 204_986),
    "lastfm-hetrec2011": ("lastfm-hetrec2011", None, 1892, 17_632, 92_834),
    "sessions-diginetica": ("sessions-diginetica", None, 202_633, 43_097, 982_961),
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", PARQUET)
def test_real_parquet_folder_is_recognised_and_prepared(
    folder: str, tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    name, category, users, items, events = PARQUET[folder]
    spec = sources.get(name, tmp_path / "raw", from_path=shared_data(folder), category=category)
    dataset = Dataset.load(prepare(spec, tmp_path / "prepared"))
    assert (dataset.schema.num_users - 2, dataset.schema.num_items - 2) == (users, items)
    assert dataset.log.num_events == events


def test_parquet_folder_of_another_set_is_named(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="ask for ml-100k"):
        sources.get("ml-1m", tmp_path / "raw", from_path=shared_data("ml-100k"))
    with pytest.raises(InputError, match="ask for amazon-reviews --category Beauty"):
        sources.get(
            "amazon-reviews",
            tmp_path / "raw",
            from_path=shared_data("amazon-beauty-5core"),
            category="Musical_Instruments",
        )
