"""Causes: which features cause what a diagnosis found."""
