"""Scores -> scalar. A loss holds no model and calls no sampler."""
