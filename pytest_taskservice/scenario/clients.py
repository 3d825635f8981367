"""A client that reads the events of one workflow run, is cut off, and reads on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.errors import HarnessError
from pytest_taskservice.scenario.record import ClientEvent, ClientTale

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.drivers.base import WorkflowControl

__all__ = ["Client"]


class Client:
    """One client; it reads when it connects, just before it is cut off, and when the story ends."""

    def __init__(self, run: str, control: WorkflowControl, now: Callable[[], float]) -> None:
        self._run = run
        self._control = control
        self._now = now
        self._began = now()
        self._events: list[ClientEvent] = []
        self._connected = False
        self._refused = ""

    def connect(self) -> None:
        """Read on after the last event that was seen."""
        self._connected = True
        self.read()

    def disconnect(self) -> None:
        """Be cut off."""
        self.read()
        self._connected = False

    def read(self) -> None:
        """Read what there is, if connected."""
        if not self._connected:
            return
        last = self._events[-1].id if self._events else 0
        try:
            found = self._control.events(self._run, after=last)
        except HarnessError:
            raise
        except Exception as error:  # noqa: BLE001 - what the system under test says to a client
            code = getattr(error, "code", None)
            self._refused = code if isinstance(code, str) else type(error).__name__
            return
        now = self._now()
        self._events += [
            ClientEvent(at=now, id=event.id, kind=event.kind, data=event.data) for event in found
        ]

    def tale(self) -> ClientTale:
        """Return all that it read."""
        return ClientTale(run=self._run, at=self._began, events=tuple(self._events), refused=self._refused)
