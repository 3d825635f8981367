"""Contracts, each played by all its implementations."""
