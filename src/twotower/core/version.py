"""Version of the package, for files that note it."""

__version__ = "0.2.0"
