"""The harness: a pytest plugin that puts Celery apps and task services into worlds."""
