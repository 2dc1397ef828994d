"""Models for new users: their features are known, and no event."""
