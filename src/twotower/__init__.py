"""Retrieval and pre-ranking with two-tower models, from a raw log to a served, inspected, reproducible recommender."""

__version__ = "0.1.0"
