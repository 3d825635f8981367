"""Durable interactive workflows."""
