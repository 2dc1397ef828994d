"""Filters on columns of items: an expression, parsed and checked, and the items that pass it."""
