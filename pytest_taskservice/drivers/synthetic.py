"""The task that plays a scenario's behaviours: one body, registered in every world."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario.behaviour import SYNTHETIC, Behaviour

if TYPE_CHECKING:
    import celery

__all__ = ["SYNTHETIC", "register"]


def register(app: celery.Celery) -> celery.Task[..., Any]:
    """Return the synthetic task of ``app``, registered under :data:`SYNTHETIC` at the first call.

    It takes one argument, ``Behaviour.to_json()``. Time limits end it and are never retried.
    """
    # Shared tasks would appear in every other app of the process.
    decorate: Any = app.task(name=SYNTHETIC, bind=True, shared=False, lazy=False)
    task: celery.Task[..., Any] = decorate(_play)
    return task


def _play(self: celery.Task[..., Any], behaviour: dict[str, Any]) -> Any:
    """Play one attempt of a behaviour."""
    played = Behaviour.from_json(behaviour)
    _run_for(played.runs_for, ignores_soft_limit=played.ignores_soft_limit)
    attempt = self.request.retries + 1
    error = played.failure(attempt)
    if error is None:
        return played.returns

    delay = played.retry_delay(attempt)
    if played.retry is None or delay is None:
        raise error

    raise self.retry(countdown=delay, max_retries=played.retry.max_attempts - 1, exc=error)


def _run_for(seconds: float, *, ignores_soft_limit: bool) -> None:
    from celery.exceptions import SoftTimeLimitExceeded

    end = time.monotonic() + seconds
    while True:
        try:
            _sleep_until(end)
        except SoftTimeLimitExceeded:
            if not ignores_soft_limit:
                raise
        else:
            return


def _sleep_until(end: float) -> None:
    while (left := end - time.monotonic()) > 0:
        time.sleep(left)
