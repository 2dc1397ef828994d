"""Fits a model: run description, step, loop, checkpoint."""
