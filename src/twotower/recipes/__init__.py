"""Whole runs: names become classes in build.py, one recipe a file."""
