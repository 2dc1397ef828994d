"""Version of the package, for files that note it."""

__version__ = "0.1.0"
