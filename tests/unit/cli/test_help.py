"""Every help ends with examples that parse, and lists are there without PyTorch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from twotower.cli.main import VERBS, build_app, main


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The command and all below it, by the words that call them."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


APP: Any = typer.main.get_command(build_app())
ALL = dict(commands(APP))


def examples(epilog: str) -> list[str]:
    """The examples of a help's end."""
    return [line.removeprefix("$ ") for line in epilog.split("\n\n") if line.startswith("$ ")]


def parse(line: str) -> tuple[str, ...]:
    """Read an example as the command line would, run nothing, and return the words that call its command."""
    program, *words = shlex.split(line)
    if program == "torchrun":
        program, *words = words[words.index("-m") + 1 :]
    assert program == "twotower"
    command, called, context = APP, [], None
    while hasattr(command, "commands"):
        name, *words = words
        called.append(name)
        command = command.commands[name]
        if hasattr(command, "commands"):
            context = command.make_context(name, [*words], parent=context)
    command.make_context(" ".join(called), [*words], parent=context)
    return tuple(called)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_help_ends_with_an_example_that_parses(words):
    found = examples(ALL[words].epilog or "")
    assert found
    for line in found:
        called = parse(line)
        assert called[: len(words)] == words, f"'{line}' stands in the help of another command"


def test_the_walk_meets_every_verb_and_what_is_below():
    assert {words[0] for words in ALL if words} == set(VERBS)
    assert ("data", "get") in ALL


@pytest.mark.parametrize("line", ["twotower train --mdl sasrec", "twotower similar", "twotower evaluate b -k"])
def test_the_search_for_examples_that_do_not_parse_finds_them(line):
    with pytest.raises(Exception) as error:
        parse(line)
    assert "ClickException" in [base.__name__ for base in type(error.value).__mro__]


def test_an_example_is_shown_as_it_is_typed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["similar", "--help"])
    shown = capsys.readouterr().out
    assert all(f"$ {line}" in shown for line in examples(ALL["similar",].epilog))


def test_train_lists_models_plug_ins_and_recipes(capsys, monkeypatch):
    import importlib.metadata

    from twotower.experiment.recipes import RECIPES
    from twotower.models.registry import MODELS

    plug_in = importlib.metadata.EntryPoint("from_elsewhere", "nowhere:Model", "twotower.models")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [plug_in] if group == plug_in.group else [])
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    models = next(line for line in shown.splitlines() if line.strip().startswith("Models: "))
    assert set(models.replace("Models:", "").replace(",", " ").split()) == {*MODELS, "from_elsewhere"}
    recipes = next(line for line in shown.splitlines() if line.strip().startswith("Recipes: "))
    assert all(f" {name}: " in recipes for name in RECIPES)


def test_the_list_of_recipes_is_that_of_the_runs():
    from twotower.experiment import names, recipes

    assert list(names.RECIPES) == list(recipes.RECIPES)


@pytest.mark.parametrize("verb", [[], ["train"]])
def test_help_loads_no_pytorch(verb):
    program = (
        "import sys\nfrom twotower.cli.main import main\n"
        f"try:\n    main([*{verb!r}, '--help'])\nexcept SystemExit:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"
