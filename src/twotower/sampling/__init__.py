"""Samplers of negatives, each with its exact log q; several sources add up."""
