"""Celery's configuration for workers; the clients' is the same one."""

from __future__ import annotations

from taskservice.backends.configuration import celery_config

__all__ = ["celery_config"]
