"""Pre-rankers: models that score a list of candidates."""
