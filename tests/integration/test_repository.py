"""What holds for the repository as a whole, whatever the code does."""

from __future__ import annotations

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

import twotower
from twotower.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "twotower"
MODULES = sorted(SOURCE.rglob("*.py"))
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".html", ".js", ".css", ".csv", ""}

HEAVY = ("duckdb", "sklearn", "scipy", "faiss", "fastapi", "starlette", "uvicorn", "pandas", "matplotlib", "typer")


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def trees() -> Iterator[tuple[str, ast.Module]]:
    """One after the other: all at once are millions of objects, through which Python would look for garbage."""
    for path in MODULES:
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_no_file_names_a_path_of_one_machine():
    machine = re.compile(r"(?<![\w.])/(work|root|farm|home/\w+|tmp/\w+)/")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked_files()
        if path.suffix in TEXT and (match := machine.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found


def test_no_large_file_is_tracked():
    large = [path.name for path in tracked_files() if path.stat().st_size > 2_000_000]
    assert not large


def dangerous(node: ast.AST) -> str | None:
    """What a node does that can run code from a file, or None."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        taken = {module.split(".")[0] for module in modules} & {
            "pickle",
            "cPickle",
            "dill",
            "shelve",
            "marshal",
            "joblib",
        }
        return f"imports {taken.pop()}" if taken else None
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in ("eval", "exec", "yaml.load", "yaml.unsafe_load"):
        return f"calls {called}"
    if called == "torch.load" and given.get("weights_only") != "True":
        return "calls torch.load without weights_only=True"
    if given.get("allow_pickle") == "True":
        return f"calls {called} with allow_pickle=True"
    return None


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_the_search_for_dangerous_code_finds_it(code):
    assert any(dangerous(node) for node in ast.walk(ast.parse(code)))


def test_no_file_can_make_us_run_its_code():
    found = [
        f"{name}:{node.lineno} {what}" for name, tree in trees() for node in ast.walk(tree) if (what := dangerous(node))
    ]
    assert not found


def test_nothing_is_left_for_later():
    later = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    found = [path.relative_to(ROOT).as_posix() for path in MODULES if later.search(path.read_text(encoding="utf-8"))]
    assert not found


def test_a_folder_above_a_parquet_file_is_never_a_column():
    """DuckDB takes a folder called item=3 for one, in place of the file's own, unless each reader is told not to."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?<!def )read_parquet\(", line) and not re.search("hive_partitioning|NO_FOLDERS", line)
    ]
    assert found == []


def test_every_module_says_what_it_is():
    silent = [name for name, tree in trees() if not ast.get_docstring(tree)]
    assert not silent


def test_the_page_on_the_architecture_names_every_folder():
    page = (ROOT / "docs" / "concepts" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(SOURCE).as_posix() for path in MODULES} - {"."}
    assert sorted(folder for folder in folders if f"`{folder}`" not in page) == []
    section = page.split("## The folders")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `([a-z/]+)` \|", section, re.MULTILINE))
    assert sorted(named - folders) == []


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for path in MODULES}
    assert not [folder.name for folder in folders if not (folder / "__init__.py").is_file()]


def loaded_by(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter holds after ``code``."""
    program = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.split())


def test_importing_the_package_is_light():
    assert loaded_by("import twotower") == set()


def test_training_and_evaluation_need_neither_data_frames_nor_a_server():
    layers = ("core", "ops", "towers", "scorers", "sampling", "losses", "metrics", "models", "training", "evaluation")
    modules = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        for path in MODULES
        if path.relative_to(SOURCE).parts[0] in layers and path.name != "__init__.py"
    ]
    assert loaded_by("\n".join(f"import {module}" for module in modules)) == set()


def test_commands_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    code = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
    found = {
        (document.name, target)
        for document in documents
        for block in code.findall(document.read_text(encoding="utf-8"))
        for target in re.findall(r"(?:^|`|\s)make ([a-z-]+)", block)
    }
    assert {"setup", "demo", "test"} <= {target for _, target in found}
    assert not [use for use in found if use[1] not in targets]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_reference(verb):
    reference = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert re.search(rf"^## twotower {verb}\b", reference, re.MULTILINE)


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == twotower.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", changelog, re.MULTILINE)
    assert sections[0] == project["version"]


def test_the_readme_opens_with_six_lines():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"```(\w+)\n(.*?)```", readme, re.DOTALL)
    assert first is not None
    assert first[1] == "python"
    assert len([line for line in first[2].splitlines() if line]) == 6


def lines_of_code(block: str) -> int:
    return len([line for line in block.splitlines() if line.strip(" #")])


def test_the_readme_counts_the_lines_of_the_pages_as_they_are():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    counts = []
    for name in ("rectools", "recbole", "tfrs"):
        page = (ROOT / "docs" / "how-to" / f"from-{name}.md").read_text(encoding="utf-8")
        theirs, ours, *_ = re.findall(r"```python(?: title=[^\n]*)?\n(.*?)```", page, re.DOTALL)
        counts.append((lines_of_code(theirs), lines_of_code(ours)))
    (rectools, a), (recbole, b), (tfrs, c) = counts
    assert f"[{rectools} of RecTools, {recbole} of RecBole, {tfrs} of TensorFlow Recommenders]" in readme
    assert f"and {a}, {b} and {c} here" in readme


@pytest.mark.slow
def test_the_six_lines_of_the_readme_run(tmp_path):
    pytest.importorskip("pandas")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [lines, *_] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    rows = [f"{190 + user},{user % 2}-{(user + step) % 7},{step}" for user in range(12) for step in range(6)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ndcg@10" in done.stdout
    assert "Answer(id=" in done.stdout


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULE_OF = {
    "scikit-learn": "sklearn",
    "faiss-cpu": "faiss",
    "qdrant-edge-py": "qdrant_edge",
    "umap-learn": "umap",
    "tensorboard": "torch.utils.tensorboard",
    "mlflow-skinny": "mlflow",
    "fbgemm-gpu": "torchrec",
}
"""Modules of packages that have another name; PyTorch imports tensorboard for us, and TorchRec FBGEMM."""


@functools.cache
def imported_modules() -> frozenset[str]:
    """Every module that the package imports anywhere, by its full name, and the packages that hold them."""
    found: set[str] = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    return frozenset(found | {name.split(".")[0] for name in found})


def unused(requirements: list[str], imported: Set[str]) -> list[str]:
    """Those of a list of requirements that no module imports."""
    names = [re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in requirements]
    return [name for name in names if MODULE_OF.get(name, name.replace("-", "_")) not in imported]


def test_the_search_for_requirements_that_nobody_imports_finds_them():
    assert unused(["numpy>=1.26", "pymilvus>=2.5", "uvicorn[standard]>=0.30"], {"numpy"}) == ["pymilvus", "uvicorn"]


DEVELOPING = {"dev", "docs"}
"""Extras that name tools, which nothing of the package imports."""


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"].keys() - DEVELOPING))
def test_an_extra_names_only_what_is_imported(extra):
    assert not unused(PROJECT["optional-dependencies"][extra], imported_modules())


def test_an_install_brings_only_what_is_imported():
    assert not unused(PROJECT["dependencies"], imported_modules())


def test_an_extra_that_a_message_asks_for_exists():
    texts = [path.read_text(encoding="utf-8") for path in [*MODULES, *(ROOT / "docs").rglob("*.md")]]
    asked = {extra for text in texts for extra in re.findall(r"twotower\[([a-z]+)\]", text)}
    assert {"text", "fast", "plots"} <= asked <= PROJECT["optional-dependencies"].keys()


def test_continuous_integration_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def imports() -> dict[str, set[str]]:
    """The modules of ours that each module imports, at its top or within functions, but not for types alone."""
    names = {}
    for path in MODULES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {name: set() for name in names}

    def walk(module: str, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.ImportFrom):
                wholes = [f"{child.module}.{alias.name}" for alias in child.names]
                found[module] |= {whole if whole in names else str(child.module) for whole in wholes} & names.keys()
            elif isinstance(child, ast.Import):
                found[module] |= {alias.name for alias in child.names} & names.keys()
            walk(module, child)

    for name, path in names.items():
        walk(name, ast.parse(path.read_text(encoding="utf-8")))
    return found


def circles(arrows: dict[str, set[str]]) -> set[str]:
    """The modules from which a way leads back to themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = list(arrows[start])
        while ahead:
            module = ahead.pop()
            if module not in seen:
                seen.add(module)
                ahead += arrows[module]
        return seen

    return {module for module in arrows if module in reached(module)}


def test_the_search_for_circles_finds_them():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"b", "c"}


def test_no_circle_of_files():
    assert circles(imports()) == set()


TABLES = SOURCE / "towers"
MAKERS = (
    *("DenseTable", "HashedTable", "QuotientRemainderTable", "SparseTable", "HostTable", "ShardedTable"),
    *("build_table", "table_of"),
)


def table_weights(tree: ast.Module, tables: frozenset[str]) -> list[int]:
    """Lines that make an embedding past the table protocol, or read the weight of one of ``tables``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("nn.Embedding", "nn.EmbeddingBag")):
            found.append(node.lineno)
        if isinstance(node, ast.Attribute) and node.attr in ("weight", "shard", "embedding_dim", "num_embeddings"):
            owner = node.value.value if isinstance(node.value, ast.Subscript) else node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            if name in tables:
                found.append(node.lineno)
    return found


@functools.cache
def names_of_tables() -> frozenset[str]:
    """The names that any module gives what a maker of tables returns, and those of arguments that are tables."""
    names = {"table", "tables"}
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                calls = {ast.unparse(part.func) for part in ast.walk(node.value) if isinstance(part, ast.Call)}
                if calls & set(MAKERS):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names |= {target.attr if isinstance(target, ast.Attribute) else "" for target in targets}
            if isinstance(node, ast.arg) and node.annotation is not None and ast.unparse(node.annotation) == "Table":
                names.add(node.arg)
    return frozenset(names - {"", "layers"})


@pytest.mark.parametrize(
    "code",
    [
        "self.item_table.weight[2:]",
        "F.embedding(history, self.ids.weight)",
        "rows = table.weight",
        "dim = model.user_table.embedding_dim",
        "self.item_table = nn.Embedding(9, 3)",
        "torch.nn.EmbeddingBag(9, 3)",
    ],
)
def test_the_search_for_weights_of_tables_finds_them(code):
    assert table_weights(ast.parse(code), names_of_tables())


def test_embeddings_are_read_through_the_table_protocol_alone():
    own = {"row_adagrad.py", "table_files.py"} | {path.name for path in TABLES.glob("*_table.py")} | {"table.py"}
    found = [
        f"{name}:{line}"
        for name, tree in trees()
        if not (name.startswith(("src/twotower/towers/", "src/twotower/training/")) and name.split("/")[-1] in own)
        for line in table_weights(tree, names_of_tables())
    ]
    assert not found
