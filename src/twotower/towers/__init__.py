"""Towers: modules from features to vectors, one kind a file."""
