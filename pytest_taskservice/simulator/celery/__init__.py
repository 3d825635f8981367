"""Celery in virtual time: its real worker, canvas, retries and beat over a simulated broker and pool."""
