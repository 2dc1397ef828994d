"""Evaluation: what is ranked against what, as data; the figures; the report."""
