"""Interaction units: a history read for a query, by attention or recurrence."""
