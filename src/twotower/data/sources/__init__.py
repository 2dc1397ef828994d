"""Public data sets and the synthetic one. Add one: write its file, name it in `registry.py`."""
