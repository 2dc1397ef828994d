"""Registry of named parts of one kind: built in, registered by other packages, or found as a plug-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from twotower.core.errors import InputError, shown, unknown_name

T = TypeVar("T")
P = TypeVar("P")


class Registry(Generic[T]):
    """Map names to parts. A part is given by its name, or as the part itself.

    Names come from three places, in this order: the package's own table, `register` in a module that was imported, and
    entry points of installed packages (``[project.entry-points."twotower.models"]``), which are imported when their
    name is asked for. No file of ours, such as a bundle, can make us import code: it holds the name alone.

    Args:
        what: what a part is, for messages: "model".
        variable: the registry's name in the package, for messages: "MODELS".
        known: the package's own parts: an object, or "module:attribute", imported when it is asked for.
        group: name of the entry points; empty: none are looked for.

    Examples:
        >>> shapes = Registry("shape", "SHAPES", {"text": str})
        >>> @shapes.register("whole")
        ... class Whole: ...
        >>> shapes.get("whole") is Whole, shapes.name_of(str), sorted(shapes)
        (True, 'text', ['text', 'whole'])
    """

    def __init__(self, what: str, variable: str, known: Mapping[str, str | T], *, group: str = "") -> None:
        self.what, self.variable, self.group = what, variable, group
        self.parts: dict[str, str | T] = dict(known)

    def register(self, name: str) -> Callable[[P], P]:
        """Return a decorator that gives a part its name.

        Raises:
            InputError: if the name is no text of one word, or another part has it. The same part may be registered
                again, as a notebook does when a cell is run twice: the last definition counts.
        """
        if not isinstance(name, str) or not name or any(letter.isspace() for letter in name):
            raise InputError(f"a {self.what}'s name is one word, such as 'nearest'; got {shown(name)}")

        def add(part: P) -> P:
            holder = self.parts.get(name)
            if holder is None and name in self._plug_ins():
                holder = self._plug_ins()[name].value
            if holder is not None and not _same_place(holder, part):
                raise InputError(
                    f"{self.what} '{name}' is taken by {_place(holder)}; register {_place(part)} under another name"
                )
            self.parts[name] = part  # type: ignore[assignment]
            return part

        return add

    def get(self, part: str | T) -> T:
        """Return the part of a name; anything but text is returned as it is.

        Raises:
            InputError: if nothing has that name (the closest is named), or the plug-in that has it cannot be imported.
        """
        if not isinstance(part, str):
            return part
        if part in self.parts:
            found = self.parts[part]
            return _imported(found) if isinstance(found, str) else found
        plug_ins = self._plug_ins()
        if part not in plug_ins:
            raise unknown_name(self.what, part, self)
        try:
            loaded = plug_ins[part].load()
        except Exception as error:
            raise InputError(
                f"{self.what} '{part}': the plug-in {plug_ins[part].value} cannot be imported "
                f"({type(error).__name__}: {error}); mend or uninstall it"
            ) from error
        self.parts[part] = loaded
        return loaded

    def name_of(self, part: str | T) -> str:
        """Return the name under which a part is known: the one that a run and a bundle keep.

        Raises:
            InputError: if it has none; says how to give it one.
        """
        if isinstance(part, str):
            self.get(part)
            return part
        for name, holder in self.parts.items():
            if holder is part or (isinstance(holder, str) and holder == _place(part)):
                return name
        for name, plug_in in self._plug_ins().items():
            if plug_in.value == _place(part):
                return name
        raise InputError(
            f"{self.what} {_place(part)} has no name, and a bundle notes names: "
            f"write @{self.variable}.register('a_name') above it"
        )

    def module_of(self, name: str) -> str:
        """Return the module that defines the part of a name, which a bundle notes.

        Raises:
            InputError: as `get`.
        """
        part: Any = self.get(name)
        return str(getattr(part, "__module__", None) or type(part).__module__)

    def __contains__(self, name: object) -> bool:
        return name in self.parts or name in self._plug_ins()

    def __iter__(self) -> Iterator[str]:
        return iter({**self.parts, **self._plug_ins()})

    def __len__(self) -> int:
        return len({**self.parts, **self._plug_ins()})

    def __repr__(self) -> str:
        return f"Registry({self.what}: {', '.join(self)})"

    def _plug_ins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)} if self.group else {}


def _imported(place: str) -> Any:
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


def _place(part: Any) -> str:
    """Return "module:attribute" of a class or function; of anything else, how it prints."""
    if isinstance(part, str):
        return part
    name = getattr(part, "__qualname__", None)
    return f"{part.__module__}:{name}" if name else repr(part)


def _same_place(holder: Any, part: Any) -> bool:
    return holder is part or (hasattr(part, "__qualname__") and _place(holder) == _place(part))
