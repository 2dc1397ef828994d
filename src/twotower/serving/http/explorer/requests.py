"""Requests of the explorer's page, as pydantic models."""

from __future__ import annotations

from pydantic import Field

from twotower.serving.http.explorer.shelf import Which
from twotower.serving.http.models import FILTER, Id, Request


class Search(Request):
    """Find items by the letters of their titles."""

    text: str = Field("", description="Letters of a title, or an id; without any, the items of the most events.")
    k: int = Field(10, description="How many items.")


class Seen(Request):
    """Describe a request for what a known user has seen."""

    user: Id = Field(description="Id of a known user.")
    k: int = Field(20, description="How many items, the latest first.")


class Asked(Request):
    """Describe the user of a request, and the bundle that it is for."""

    bundle: Which = Field("first", description="The bundle of the service, or the one beside it.")
    user: Id | None = Field(None, description="Id of a known user; or give a history, or both.")
    history: list[Id] | None = Field(None, description="Item ids, oldest first.")


class Recommend(Asked):
    """Describe a request for recommendations."""

    k: int = Field(10, description="How many items.")
    filter: str | None = Field(None, description=FILTER)


class Filter(Request):
    """Count the items that a filter lets through."""

    bundle: Which = Field("first", description="The bundle of the service, or the one beside it.")
    filter: str = Field(description=FILTER)


class Why(Asked):
    """Describe a request for the reasons of one item's score."""

    item: Id = Field(description="Id of a known item.")


class Place(Asked):
    """Describe a request for the coordinates of the user and of items on the map."""

    items: list[Id] = Field(default_factory=list, description="Item ids; those that are unknown are left out.")


class Map(Request):
    """Describe a request for the map of a bundle."""

    bundle: Which = Field("first", description="The bundle of the service, or the one beside it.")
