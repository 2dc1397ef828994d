"""Names of recipes with a few words each, so that a list of them needs no PyTorch; `recipes` has the runs."""

from __future__ import annotations

RECIPES = {
    "two_tower": "linear towers over features and pooled history, in-batch softmax",
    "sasrec": "causal transformer, full softmax",
    "sasrec_ml_1m": "the same for MovieLens-1M, 200 epochs",
    "semantic": "items and users by texts alone",
    "tdm": "a tree over the items and a scorer of its nodes, sampled softmax",
    "all_to_all": "one transformer over history and item, sampled softmax",
    "item_cosine": "item-to-item cosine, shrunk by ten users",
    "item_lists": "item-to-item lists in the order of time, shrunk by a hundred events",
}
"""By name."""
