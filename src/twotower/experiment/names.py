"""What each recipe is, in a few words, so that a list of them needs no PyTorch; `recipes` has the runs."""

from __future__ import annotations

RECIPES = {
    "two_tower": "features and pooled history, for sets of the size of MovieLens-100K",
    "sasrec": "causal transformer, for sets of the size of MovieLens-100K",
    "sasrec_ml_1m": "the same for MovieLens-1M, 200 epochs",
    "semantic": "items and users by texts alone",
}
"""By name."""
