"""Ranked ids and truth -> one number per user, and what to say of many of them."""
