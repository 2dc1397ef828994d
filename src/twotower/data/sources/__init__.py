"""Public data sets and the synthetic one: fetched, unpacked and written as tables with a spec that `prepare` reads.

Add one: write the file of its family with a `Source` and a reader, and list it in `registry.py`.
"""

from twotower.data.sources.base import Source, SourceUnavailable
from twotower.data.sources.fetch import available, get

__all__ = ["Source", "SourceUnavailable", "available", "get"]
