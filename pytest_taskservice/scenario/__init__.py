"""Scenario files: read them, ask what they need, play them."""
