"""Metrics: ranked ids and truth -> one number per user, with intervals and tests over users."""
