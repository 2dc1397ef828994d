"""Models for new users, of whom features are known and no event."""
