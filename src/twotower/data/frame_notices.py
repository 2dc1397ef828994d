"""Sentences about what was guessed from a frame: logged, and kept for the manifest."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

logger = logging.getLogger("twotower.data.frames")


@dataclass
class Notices:
    """Hold what was guessed or done, in order."""

    said: list[str] = field(default_factory=list)

    def tell(self, text: str, *, doubtful: bool = False) -> None:
        """Keep and log a sentence; one that may well be wrong is logged as a warning."""
        self.said.append(text)
        logger.log(logging.WARNING if doubtful else logging.INFO, "%s", text)
