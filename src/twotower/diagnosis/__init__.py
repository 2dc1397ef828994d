"""Vectors -> what is wrong with them, which feature is to blame, and what to do."""
