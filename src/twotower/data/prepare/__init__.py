"""Preparation: from raw tables to a folder of memory-mapped arrays."""
