"""FIT (fully interacted two-tower): early interaction by meta queries, late interaction by a small MLP."""
