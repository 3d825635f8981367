"""Canvases: several runs that hang together, planned once and run by every back end."""
