"""Stateless tensor functions."""
