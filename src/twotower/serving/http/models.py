"""Requests of the service, as pydantic models: their keys and the kinds of values."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twotower.core.errors import InputError, closest, shown

R = TypeVar("R", bound="Request")

Id = str | int
"""An outside id: a text, or a whole number that stands for its digits."""


_WANTED = {
    "model_type": "a JSON object is wanted",
    "dict_type": "a JSON object is wanted",
    "list_type": "a list of ids is wanted",
    "int_type": "a whole number is wanted",
    "string_type": "text is wanted",
    "bool_type": "true or false is wanted",
}
"""What to say of the kinds that pydantic tells apart."""

FILTER = "Condition on columns of the items, such as genre = 'Comedy' and year >= 1990."
ONLY = "Ids of items that alone may come back, such as those in stock."


class Request(BaseModel):
    """Parse a body of JSON: no value is turned into another kind, and no key is left unread."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Recommend(Request):
    """Describe a request for recommendations: a user, a history, or a user with what came since."""

    user: Id | None = Field(None, description="Id of a known user; or give a history, or both.")
    history: list[Id] | None = Field(
        None, description="Item ids, oldest first: of one who is not known, or since the bundle."
    )
    features: dict[str, Any] | None = Field(
        None, description="Raw columns of one who is not known, with a history or alone."
    )
    k: int = Field(10, description="How many items.")
    exclude: list[Id] = Field(default_factory=list, description="Further item ids to leave out.")
    include_seen: bool | None = Field(
        None, description="Whether to offer what the user has seen too; where it is left out: as the bundle was judged."
    )
    filter: str | None = Field(None, description=FILTER)
    only: list[Id] | None = Field(None, description=ONLY)


class Rank(Request):
    """Put these items in order for a user, or for one with this history."""

    candidates: list[Id] = Field(description="Item ids, each once.")
    user: Id | None = Field(None, description="Id of a known user; or give a history, or both.")
    history: list[Id] | None = Field(
        None, description="Item ids, oldest first: of one who is not known, or since the bundle."
    )
    features: dict[str, Any] | None = Field(
        None, description="Raw columns of one who is not known, with a history or alone."
    )
    k: int | None = Field(None, description="How many of them; all where it is left out.")


class SimilarTo(Request):
    """Describe a request for the items nearest to one."""

    item: Id = Field(description="Id of a known item.")
    k: int = Field(10, description="How many items.")
    filter: str | None = Field(None, description=FILTER)
    only: list[Id] | None = Field(None, description=ONLY)


class Swap(Request):
    """Serve another bundle from now on."""

    bundle: str | None = Field(None, description="Folder beside the one that was served first; none: read it again.")
    then: str | None = Field(None, description="The same for the pre-ranker's bundle.")


def validated(kind: type[R], body: object) -> R:
    """Return the body as a request of this kind.

    Raises:
        InputError: names the first place that is wrong, and what is wanted there.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("str", "int")) or "the body"
    if first["type"] == "extra_forbidden":
        raise InputError(f"no key {shown(place)} in this request; {closest(place[:80], kind.model_fields)}")
    if first["type"] == "missing":
        raise InputError(f"the request lacks '{place}'; give it")
    wanted = _WANTED.get(first["type"], first["msg"][0].lower() + first["msg"][1:])
    raise InputError(f"{shown(place, 60)[1:-1]} = {shown(first['input'], 60)}: {wanted}")
