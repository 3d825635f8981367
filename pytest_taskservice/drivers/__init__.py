"""The worlds: one driver each, and what they share."""
