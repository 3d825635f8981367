"""Django's mail back end of a worker process: mail is kept as in the test's process, and the log says so."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from typing import Any

__all__ = ["EmailBackend"]

logger = logging.getLogger(__name__)

_locmem: Any = import_module("django.core.mail.backends.locmem")


class EmailBackend(_locmem.EmailBackend):  # type: ignore[misc] # Django is not typed
    """Mail that stays in this process, as Django's test environment has it."""

    def send_messages(self, messages: Iterable[Any]) -> int:
        """Keep ``messages`` in this process's ``mail.outbox``."""
        kept = list(messages)
        for message in kept:
            logger.info(
                "kept mail %r in this worker, another process than the test: mail.outbox does not show it; "
                "the worlds celery-sim and celery-eager do",
                message.subject,
            )
        return int(super().send_messages(kept) or 0)
