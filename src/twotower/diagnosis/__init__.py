"""Diagnosis of vectors: what is wrong with them, which feature causes it, and what remedies it."""

from twotower.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
