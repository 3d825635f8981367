"""What eager mode did otherwise than a worker would have, in whole lines: a failing test is told them.

For uses that an honest test may well have, and that are no reason to skip it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from pytest_taskservice.clock import in_event_loop
from pytest_taskservice.drivers.receivers import OF_MESSAGES, OF_WORKERS, receivers_heard

__all__ = ["EagerWords"]

_ROUTES = ("queue", "routing_key", "exchange", "priority")
_ATTRIBUTES = {
    "rate_limit": "ran it at once",
    "time_limit": "let it run as long as it would",
    "soft_time_limit": "let it run as long as it would",
    "expires": "ran it before it could expire",
}


class EagerWords:
    """The words on one test."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def text(self) -> str:
        """Return the lines, in the order in which they came to be true."""
        return "\n".join(self._lines)

    def sent(self, task: Any, options: Mapping[str, Any]) -> None:
        """Note what the options of a call name in vain."""
        for name in _ROUTES:
            if options.get(name) is not None:
                self._say(f"{task.name} was sent with {name} {options[name]!r}: eager mode has no queues")

    def started(self, task: Any, request: Any) -> None:
        """Note what the task is set to, and see whether its body asks how it was delivered."""
        if in_event_loop():
            self._say(
                f"{task.name} was sent from within an event loop: eager mode ran it there, where "
                "asyncio.run(), async_to_sync() and Django's database refuse to be called; on a worker they "
                "do not"
            )
        for name, did in _ATTRIBUTES.items():
            if (value := getattr(task, name, None)) is not None:
                self._say(f"{task.name} has {name} {value!r}: eager mode {did}")
        if type(request.delivery_info) is dict:
            request.delivery_info = _Delivery(request.delivery_info, task.name, self._say)

    def retried(self, task: Any, request: Any, reason: Any) -> None:
        """Note a retry that a worker would have put off."""
        if (when := getattr(reason, "when", None)) is not None:
            wait = f"countdown {when:g}" if isinstance(when, int | float) else f"eta {when}"
            run = f"{task.name}[{str(request.id)[:8]}]"
            self._say(f"{run} raised Retry with {wait}: eager mode ran it again at once")

    def failed(self, task: Any, error: BaseException) -> None:
        """Note a task that Celery let fail because it ran at once, within the task, what replaces it."""
        inner = error.__traceback__
        if type(error) is not RuntimeError or "Never call result.get()" not in str(error):
            return
        while inner is not None:
            if inner.tb_frame.f_code.co_name == "on_replace":
                self._say(
                    f"{task.name} was replaced by a canvas: eager mode ran that inside of it, where Celery "
                    "refuses to wait; a worker runs it afterwards"
                )
                return
            inner = inner.tb_next

    def unstorable(self, task: str, result: Any, serializer: str) -> None:
        """Note a result that eager mode has handed over as it is."""
        kind = type(result).__qualname__
        self._say(f"{task} returned {kind!r}, which {serializer} cannot hold: a worker would have failed it")

    def listening(self) -> AbstractContextManager[None]:
        """Note each signal that the test listens to in vain."""
        return receivers_heard((*OF_MESSAGES, *OF_WORKERS), self._listened)

    def _listened(self, name: str) -> None:
        self._say(f"{name} was listened to: eager mode has no worker and no message, and never sends it")

    def _say(self, line: str) -> None:
        self._lines[line] = None


class _Delivery(dict[str, Any]):
    """What a request says of its delivery, and to whom it has said something that no worker would."""

    def __init__(self, told: Mapping[str, Any], task: str, say: Callable[[str], None]) -> None:
        super().__init__(told)
        self._task, self._say = task, say

    def __getitem__(self, key: str) -> Any:
        self._looked(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._looked(key)
        return super().get(key, default)

    def _looked(self, key: str) -> None:
        # A retry of Celery's own takes everything along, unasked.
        caller = str(sys._getframe(2).f_globals.get("__name__", ""))  # noqa: SLF001 - cheap, and nothing else says it
        if key != "is_eager" and not caller.startswith("celery."):
            self._say(f"{self._task} looked at delivery_info[{key!r}]: eager mode delivers nothing")
