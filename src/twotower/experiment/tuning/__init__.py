"""Tuning: trials of one model with other settings, compared on validation data, within a time budget."""
