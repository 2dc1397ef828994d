"""Vectors -> what is wrong with them, which feature is to blame, and what cures it."""

from twotower.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
