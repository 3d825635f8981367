"""One fault of a real world, from its injection until it is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_taskservice.drivers.ledger import Ledger, Strike
    from pytest_taskservice.drivers.worker_fleet import Member
    from pytest_taskservice.scenario.acts import FaultCall

__all__ = ["Injected", "text_of"]

# How the history has always spelt it, in every world.
_SPELT = {"when": "at", "lasts": "for"}


class Injected:
    """A fault that was injected."""

    def __init__(self, call: FaultCall, *, ledger: Ledger, end: Callable[[Injected], None]) -> None:
        self.call = call
        self.over = False
        """Whether it strikes no more and lasts no longer."""
        self.moments: list[float] = []
        """When it has struck by itself, and not by the hand of a worker."""
        self.undo: Callable[[], object] | None = None
        self.strike: Strike | None = None
        self.noticed = 0
        """How many of its strikes the test process has heard of, of those that stop a worker."""
        self.stopped: list[Member] = []
        self._ledger, self._end = ledger, end

    @property
    def struck(self) -> int:
        """How often it has struck."""
        return len(self.struck_at)

    @property
    def struck_at(self) -> tuple[float, ...]:
        """When it has struck, each time."""
        return tuple(sorted([*self.moments, *(claim["at"] for claim in self.claims())]))

    def claims(self) -> list[dict[str, Any]]:
        """Return what the workers have claimed to have done by it."""
        return self._ledger.claims(self.strike.id) if self.strike else []

    def heal(self) -> None:
        """End it; may be called twice."""
        self._end(self)


def text_of(call: FaultCall) -> str:
    """Return a fault as the history has it."""
    told = {
        _SPELT.get(each.name, each.name): getattr(call, each.name)
        for each in fields(call)[1:]
        if getattr(call, each.name) != each.default
    }
    return " ".join([call.kind, *(f"{name}={value}" for name, value in told.items())])
