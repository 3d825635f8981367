"""Worlds in virtual time: the core that knows no library, Celery over it, and event loops over it."""
