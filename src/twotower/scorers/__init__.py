"""Scorers: user state and item state -> scores. Ranking and filtering belong to the index and to serving."""
