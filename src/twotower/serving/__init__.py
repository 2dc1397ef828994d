"""Serving: the bundle (everything a served model needs, in one folder) and what answers from it."""
