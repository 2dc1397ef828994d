"""From raw tables to a folder of memory-mapped arrays."""
