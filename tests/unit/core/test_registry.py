"""Names to parts: built in, registered, and found as plug-ins."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from twotower.core import registry as module
from twotower.core.errors import InputError
from twotower.core.registry import Registry


class Circle:
    """A part of one's own."""


@pytest.fixture
def shapes() -> Registry:
    return Registry("shape", "twotower.SHAPES", {"queue": "collections:deque"}, group="twotower.shapes")


def with_plug_in(monkeypatch, value: str) -> None:
    point = EntryPoint("plugged", value, "twotower.shapes")
    monkeypatch.setattr(module, "entry_points", lambda group: [point] if group == "twotower.shapes" else [])


def test_a_built_in_part_is_imported_by_name_and_finds_its_name_again(shapes):
    assert shapes.get("queue").__name__ == "deque"
    shapes.register("circle")(Circle)
    assert shapes.get("circle") is Circle
    assert shapes.name_of(Circle) == "circle"
    assert shapes.get(Circle) is Circle
    assert list(shapes) == ["queue", "circle"]


def test_an_unknown_name_names_the_closest(shapes):
    with pytest.raises(InputError, match="unknown shape 'quue'; did you mean 'queue'"):
        shapes.get("quue")


def test_a_part_without_a_name_is_told_how_to_get_one(shapes):
    with pytest.raises(InputError, match=r"Circle has no name.*@twotower\.SHAPES\.register"):
        shapes.name_of(Circle)


def test_a_name_is_not_taken_twice_but_a_cell_may_run_again(shapes):
    shapes.register("circle")(Circle)
    again = type("Circle", (), {"__module__": Circle.__module__, "__qualname__": Circle.__qualname__})
    assert shapes.register("circle")(again) is again
    assert shapes.get("circle") is again
    with pytest.raises(InputError, match="shape 'queue' is taken by collections:deque"):
        shapes.register("queue")(Circle)


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["", "two words", 3, Circle])
def test_a_name_that_is_no_word_is_refused(shapes, name):
    with pytest.raises(InputError, match="one word"):
        shapes.register(name)


def test_a_plug_in_is_found_by_its_name(shapes, monkeypatch):
    with_plug_in(monkeypatch, f"{__name__}:Circle")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Circle)
    assert "plugged" in shapes
    assert shapes.get("plugged") is Circle
    with pytest.raises(InputError, match="taken"):
        shapes.register("plugged")(dict)


def test_a_plug_in_that_fails_on_import_is_one_line(shapes, monkeypatch):
    with_plug_in(monkeypatch, "no_such_package_of_shapes:Circle")
    with pytest.raises(InputError, match="shape 'plugged': the plug-in no_such_package_of_shapes:Circle cannot be"):
        shapes.get("plugged")
    assert shapes.get("queue").__name__ == "deque"
