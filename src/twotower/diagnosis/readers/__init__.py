"""Readers of vectors, one a kind of file: each gives a `Table` with the account of what was read."""
