"""Celery's own pytest fixtures in our worlds; what users load is ``pytest_taskservice.celery_compat``."""
