"""Baselines: popularity, random, and closed forms on item co-occurrence."""
