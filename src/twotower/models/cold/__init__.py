"""Models for new users, who have features and no event."""
