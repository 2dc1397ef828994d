"""Interaction units of FIT by name."""

from __future__ import annotations

from typing import Any

from twotower.core.errors import unknown_name
from twotower.towers.fields import ItemFields
from twotower.towers.interaction.base import InteractionUnit
from twotower.towers.interaction.deepfm import DeepFM
from twotower.towers.interaction.dien import DIEN
from twotower.towers.interaction.din import DIN
from twotower.towers.interaction.target_attention import TargetAttention

UNITS: dict[str, Any] = {"din": DIN, "target_attention": TargetAttention, "dien": DIEN, "deepfm": DeepFM}


def check_unit(name: str) -> None:
    """Refuse the name of no unit.

    Raises:
        InputError: names the closest one.
    """
    if name not in UNITS:
        raise unknown_name("interaction unit", name, UNITS)


def build_unit(name: str, fields: ItemFields) -> InteractionUnit:
    """Build a unit that reads the fields of history items."""
    unit: InteractionUnit = DeepFM(fields.width, fields=fields.count) if name == "deepfm" else UNITS[name](fields.width)
    return unit
