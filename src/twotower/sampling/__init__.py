"""Which negatives, and how likely each was. Sources add up; each states its own exact log q."""
