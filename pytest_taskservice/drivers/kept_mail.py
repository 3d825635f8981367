"""Django's mail back end of a worker process: mail is kept as in the test's process, and the log says so."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from importlib import import_module
from typing import Any

__all__ = ["EmailBackend", "keep_mail"]

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


def keep_mail() -> None:
    """Have this process keep all mail, whatever its settings say."""
    settings: Any = import_module("django.conf").settings
    place = f"{EmailBackend.__module__}.{EmailBackend.__qualname__}"
    if hasattr(settings, "MAILERS"):
        settings.MAILERS = {alias: {"BACKEND": place} for alias in settings.MAILERS}
    # Before Django 6.1 MAILERS mean nothing. From then on this one is deprecated.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.EMAIL_BACKEND = place
