"""Models: two towers and a scorer, joined, one file a system."""
