"""The version of the package, for what notes it in files."""

__version__ = "0.1.0"
