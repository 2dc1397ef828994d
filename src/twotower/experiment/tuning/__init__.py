"""Tuning: trials of one model with other settings, judged on validation data, within a time budget."""
