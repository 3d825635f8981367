"""What stands for the connection on which the task service's result backend runs its script.

A ``ScriptLine`` belongs to one thread. All simulated processes share one, and with it the backend: each call
has a connection that nobody else waits on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_taskservice.simulator.celery.quick_results import QuickClient

__all__ = ["QuickScriptLine", "ScriptLines"]


class QuickScriptLine:
    """Runs a script that is known, without redis-py."""

    busy = False
    """Whether somebody waits on it: each call is one's own."""

    def __init__(self, client: QuickClient, script: str) -> None:
        self._client = client
        self._script = script

    def run(self, keys: Sequence[Any], arguments: Sequence[Any], *, wait: bool) -> None:
        """Run it; who does not wait loses a round trip's time all the same, as on any connection here."""
        self._client.eval(self._script, len(keys), *keys, *arguments)


class ScriptLines:
    """As many ``ScriptLine`` as there are who run the script at once."""

    busy = False
    """Whether there is none that is free: one is made then."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._free: list[Any] = []

    def run(self, keys: Sequence[Any], arguments: Sequence[Any], *, wait: bool) -> None:
        """Run it on one that nobody else waits on."""
        line = self._free.pop() if self._free else self._make()
        try:
            line.run(keys, arguments, wait=wait)
        finally:
            self._free.append(line)
