"""Checks and remedies on a bundle that exists: which features fail in serving, and what helps."""
