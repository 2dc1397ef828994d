"""Experiment: one run from description to bundle, by split, training, evaluation, index and files."""
