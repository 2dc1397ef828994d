"""Sequence encoders of the user tower, one file a paper."""
