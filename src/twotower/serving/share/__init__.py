"""Bundles sent to and fetched from other places: file systems behind fsspec, and hubs of models."""
