"""Bundles pushed and pulled: whole, checked, never over another, and without keys in any message."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from twotower.cli.main import main
from twotower.core.address import reaching, shown_address
from twotower.core.errors import InputError
from twotower.core.manifest import write_signed
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.serving.retriever import load
from twotower.serving.share.address import check_names
from twotower.serving.share.files import Files
from twotower.serving.share.transfer import pull, push


def by_name(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


stand_in = module("hub_stand_in")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """One for the module: older versions of the hub's library keep the address of their import."""
    with stand_in.running() as running, pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_ENDPOINT", running.address)
        pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
        yield running


@pytest.fixture
def hub(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    server.commits.clear()
    server.private.clear()
    server.spoil = False
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", stand_in.TOKEN)
    return server


@pytest.fixture
def memory() -> Iterator[dict[str, Any]]:
    MemoryFileSystem.store.clear()
    yield MemoryFileSystem.store
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["local", "file", "memory", "hub"])
def address(request: pytest.FixtureRequest, tmp_path: Path, memory: dict[str, Any]) -> str:
    if request.param == "hub":
        request.getfixturevalue("hub")
    return {
        "local": str(tmp_path / "elsewhere" / "films"),
        "file": (tmp_path / "elsewhere" / "films").as_uri(),
        "memory": "memory://elsewhere/films",
        "hub": "hf://me/films",
    }[request.param]


@pytest.fixture
def other(write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path) -> Path:
    """Another bundle, with other files."""
    write(tmp_path / "other", titled_dataset, "item_cosine")
    return tmp_path / "other"


def test_what_is_pushed_is_pulled_to_the_byte_and_answers_alike(
    address: str, bundle_folder: Path, tmp_path: Path
) -> None:
    sent = push(bundle_folder, address)
    got = pull(address, tmp_path / "got")
    assert by_name(tmp_path / "got") == by_name(bundle_folder)
    assert sent == got
    assert (sent.address, sent.files) == (address, len(by_name(bundle_folder)))
    assert load(tmp_path / "got").recommend("u2", k=3) == load(bundle_folder).recommend("u2", k=3)


def test_a_bundle_takes_the_place_of_another_only_when_told(
    address: str, bundle_folder: Path, other: Path, tmp_path: Path
) -> None:
    push(bundle_folder, address)
    pull(address, tmp_path / "got")
    for again in (lambda: push(other, address), lambda: pull(address, tmp_path / "got")):
        with pytest.raises(InputError, match="holds a bundle; --replace puts"):
            again()
    push(other, address, replace=True)
    assert by_name(tmp_path / "got") == by_name(bundle_folder)
    pull(address, tmp_path / "got", replace=True)
    assert by_name(tmp_path / "got") == by_name(other), "no file of the old one is left"


def test_nothing_else_is_ever_replaced(bundle_folder: Path, memory: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    MemoryFileSystem().pipe_file("/notes/mine.txt", b"keep")
    for address in (str(tmp_path / "notes"), "memory://notes", "memory://notes/mine.txt"):
        for replace in (False, True):
            with pytest.raises(InputError, match="holds something other than a bundle; name another address"):
                push(bundle_folder, address, replace=replace)
    push(bundle_folder, "memory://films")
    with pytest.raises(InputError, match="so it was not written by twotower"):
        pull("memory://films", tmp_path / "notes", replace=True)
    assert by_name(tmp_path / "notes") == {"mine.txt": b"keep"}


def test_a_damaged_bundle_is_not_pushed(bundle_folder: Path, memory: dict[str, Any], tmp_path: Path) -> None:
    with (bundle_folder / "weights.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(InputError, match=r"weights\.safetensors was changed after it was written"):
        push(bundle_folder, "memory://films")
    with pytest.raises(InputError, match="no such bundle"):
        push(tmp_path / "nowhere", "memory://films")
    assert not memory


@pytest.mark.parametrize("name", ["weights.safetensors", "items/ids.npy", "run.toml"])
@pytest.mark.parametrize("fault", ["changed", "missing"])
def test_a_bundle_that_was_damaged_there_leaves_nothing_here(
    name: str, fault: str, bundle_folder: Path, memory: dict[str, Any], tmp_path: Path
) -> None:
    push(bundle_folder, "memory://films")
    if fault == "missing":
        MemoryFileSystem().rm_file(f"/films/{name}")
    else:
        MemoryFileSystem().pipe_file(f"/films/{name}", b"other")
    with pytest.raises(InputError, match="memory://films: ") as refused:
        pull("memory://films", tmp_path / "got")
    assert name in str(refused.value)
    assert str(tmp_path) not in str(refused.value), "it is known by its address"
    assert {path.name for path in tmp_path.iterdir()} <= {"bundle", "prepared"}


@pytest.mark.parametrize(
    "name",
    [
        "../out.txt",
        "/out.txt",
        "items/../../out.txt",
        "..",
        "a//b",
        "./a",
        "",
        "C:out",
        "a\\b",
        "a\nb",
        "manifest.json",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_fetched(
    name: str, bundle_folder: Path, memory: dict[str, Any], tmp_path: Path
) -> None:
    push(bundle_folder, "memory://films")
    there = MemoryFileSystem()
    manifest = json.loads(there.cat_file("/films/manifest.json"))
    manifest["hashes"][name] = "0" * 64
    there.pipe_file("/films/manifest.json", json.dumps(manifest).encode())
    there.pipe_file("/out.txt", b"bad")
    with pytest.raises(InputError, match="which no bundle has; nothing is fetched"):
        pull("memory://films", tmp_path / "deep" / "got")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "deep" in path.parts]


def test_names_of_features_with_odd_signs_are_plain_names() -> None:
    names = ["items/features/a:b [c]*?.npy", "items/features/größe.npy", "weights.safetensors"]
    assert check_names(names, "here") == sorted(names)


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"kind": "bundle", "format": 2}', b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none_is_one_line(
    text: bytes, memory: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MemoryFileSystem().pipe_file("/films/manifest.json", text)
    with pytest.raises(SystemExit) as end:
        main(["pull", "memory://films", "--to", str(tmp_path / "got")])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: memory://films")
    assert not (tmp_path / "got").exists()


def test_a_manifest_without_end_is_not_read_to_its_end(
    memory: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.serving.share.files.MOST_MANIFEST", 100)
    MemoryFileSystem().pipe_file("/films/manifest.json", b" " * 1000)
    with pytest.raises(InputError, match="too large to be that of a bundle"):
        pull("memory://films", tmp_path / "got")


class Cut(MemoryFileSystem):
    """A file system that fails at the call of a number."""

    protocol = "cut"
    at = -1
    calls = 0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return MemoryFileSystem._strip_protocol(str(path).replace("cut://", "memory://"))

    def _count(self) -> None:
        Cut.calls += 1
        if Cut.calls == Cut.at:
            raise TimeoutError("no answer from me:secret@host")

    def put_file(self, *args: Any, **more: Any) -> Any:
        self._count()
        return super().put_file(*args, **more)

    def cp_file(self, *args: Any, **more: Any) -> Any:
        self._count()
        return super().cp_file(*args, **more)

    def rm_file(self, *args: Any, **more: Any) -> Any:
        self._count()
        return super().rm_file(*args, **more)


def said_by(action: Callable[[], object]) -> str | None:
    """What the error of an action says; None where there is none."""
    try:
        action()
    except (InputError, ConnectionError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("replace", [False, True])
def test_a_push_that_is_cut_anywhere_never_leaves_a_mixture(
    replace: bool, bundle_folder: Path, other: Path, memory: dict[str, Any], tmp_path: Path
) -> None:
    import fsspec

    fsspec.register_implementation("cut", Cut, clobber=True)
    found = set()
    for at in range(1, 100):
        memory.clear()
        Cut.at = -1
        if replace:
            push(other, "cut://films")
        Cut.at, Cut.calls = at, 0
        told = said_by(lambda: push(bundle_folder, "cut://films", replace=replace))
        if told is None:
            break
        assert "cut://films: TimeoutError: no answer" in told
        rest = {name.split("/")[1] for name in memory if name.startswith("/.films.")}
        assert [f"lies whole in /{name}" in told for name in rest] in ([], [True]), "no rest is left silently"
        Cut.at = -1
        missing = said_by(lambda: pull("cut://films", tmp_path / "got", replace=True))
        assert missing is None or "manifest.json is not there" in missing
        whole = missing is None and by_name(tmp_path / "got") == by_name(other)
        found.add("none" if missing else "old" if whole else "mixture")
    else:
        pytest.fail("it never came to an end")
    assert found == ({"old", "none"} if replace else {"none"})
    pull("cut://films", tmp_path / "got", replace=True)
    assert by_name(tmp_path / "got") == by_name(bundle_folder)


def test_what_does_not_arrive_as_it_was_sent_is_noticed(
    bundle_folder: Path, memory: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(self: MemoryFileSystem, source: str, to: str, **_: Any) -> None:
        self.pipe_file(to, Path(source).read_bytes()[:-1])

    monkeypatch.setattr(MemoryFileSystem, "put_file", spoiled)
    with pytest.raises(ConnectionError, match="did not arrive as it was sent; nothing is changed"):
        push(bundle_folder, "memory://films")
    assert not memory


def test_a_whole_bucket_is_no_place_for_a_bundle(bundle_folder: Path, memory: dict[str, Any]) -> None:
    place = Files("memory://models")
    place.path = "models"  # as s3fs and gcsfs give it
    with pytest.raises(InputError, match="a whole bucket; name a folder in it, such as memory://models/films"):
        place.store(bundle_folder, {}, replace=False)
    assert not memory


def test_keys_of_an_address_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "ftp://me:secret@host/films?signature=abc123"
    assert shown_address(address) == "ftp://host/films"
    monkeypatch.setenv("HF_TOKEN", "hf_token1")
    with pytest.raises(ConnectionError) as told, reaching(address):
        raise OSError(f"cannot open {address}\nme:secret or secret, signature=abc123, hf_token1")
    assert not [key for key in ("secret", "abc123", "hf_token1", "\n") if key in str(told.value)]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("zzz://films/a", "Protocol not known"),
        ("hdfs2::memory://a/b", "the address of one folder"),
        ("memory://fil*/a", "the address of one folder"),
        ("memory://", "name a folder"),
        ("hf://films", "write hf://user/name"),
        ("hf://me/films/deep", "write hf://user/name"),
        ("hf://me/../films", "write hf://user/name"),
    ],
)
def test_an_address_that_is_none_is_one_line(
    address: str, said: str, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["push", str(bundle_folder), address], ["pull", address, "--to", str(tmp_path / "got")]):
        with pytest.raises(SystemExit) as end:
            main(words)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert end.value.code == 2
        assert said in line


def test_a_kind_of_address_without_its_package_says_which_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match="s3://films/a: this kind of address needs a package: '.*s3fs"):
        pull("s3://films/a", "got")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'twotower\[hub\]'"):
        pull("hf://me/films", "got")


def test_the_command_line_says_what_went_where(
    bundle_folder: Path, memory: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["push", str(bundle_folder), "memory://films"],
        ["pull", "memory://films", "--to", str(tmp_path / "g")],
    ):
        with pytest.raises(SystemExit) as end:
            main([*words, "--json"])
        assert end.value.code == 0
    pushed, pulled = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert pulled == pushed | {"bundle": str(tmp_path / "g")}
    assert pushed["files"] == len(by_name(bundle_folder))


def test_a_repository_is_private_and_arrives_in_one_commit(hub: Any, bundle_folder: Path, other: Path) -> None:
    push(bundle_folder, "hf://me/films")
    assert hub.private == {"me/films": True}
    push(other, "hf://me/films", replace=True)
    first, second, third = hub.commits["me/films"]
    assert set(first) == {".gitattributes"}
    assert set(second) == {".gitattributes", *by_name(bundle_folder)}
    assert set(third) == {".gitattributes", *by_name(other)}
    push(bundle_folder, "hf://me/open", private=False)
    assert not hub.private["me/open"]


def test_an_older_commit_is_pulled_by_its_name(hub: Any, bundle_folder: Path, other: Path, tmp_path: Path) -> None:
    push(bundle_folder, "hf://me/films")
    push(other, "hf://me/films", replace=True)
    pull(f"hf://me/films@{hub.sha('me/films', 1)}", tmp_path / "got")
    assert by_name(tmp_path / "got") == by_name(bundle_folder)
    with pytest.raises(InputError, match="has no revision 'gone'"):
        pull("hf://me/films@gone", tmp_path / "other-one")


def test_a_hub_that_refuses_or_spoils_is_one_line_without_the_token(
    hub: Any, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="manifest.json is not there, or you may not see it"):
        pull("hf://me/nothing", tmp_path / "got")
    hub.spoil = True
    with pytest.raises(ConnectionError, match="did not arrive as it was sent"):
        push(bundle_folder, "hf://me/films")
    monkeypatch.setenv("HF_TOKEN", "hf_wrongsecret")
    with pytest.raises(ConnectionError) as told:
        push(bundle_folder, "hf://me/more")
    assert "wrongsecret" not in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "got").exists()


def test_a_hash_of_the_manifest_itself_is_compared(bundle_folder: Path, memory: dict[str, Any], tmp_path: Path) -> None:
    push(bundle_folder, "memory://films")
    there = MemoryFileSystem()
    manifest = json.loads(there.cat_file("/films/manifest.json"))
    manifest["metrics"]["recall@10"] = 1.0
    there.pipe_file("/films/manifest.json", (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    with pytest.raises(InputError, match="manifest.json was changed"):
        pull("memory://films", tmp_path / "got")


def test_a_signed_folder_that_is_no_bundle_is_refused(memory: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "a.txt").write_text("a")
    write_signed(tmp_path / "fake", {"kind": "bundle", "format": 2})
    for name, data in by_name(tmp_path / "fake").items():
        MemoryFileSystem().pipe_file(f"/films/{name}", data)
    with pytest.raises(InputError, match="is not that of a bundle"):
        pull("memory://films", tmp_path / "got")
