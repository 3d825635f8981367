"""What can go wrong, as frozen values: kinds, their options, and where in a run's life they strike."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import FaultError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "WAYS", "Fault", "Point", "make_fault"]


class Point(StrEnum):
    """A place between the arrival of a message and its acknowledgement."""

    RECEIVED = "received"
    """The message is with the worker; its body has not started."""
    STARTED = "started"
    """The body is about to run. With early acknowledgement the message is gone."""
    RUNNING = "running"
    """``into`` seconds into the body, if it takes that long."""
    STORED = "stored"
    """The result is stored; a late acknowledgement has not been sent."""


_WHERE = frozenset({"at", "into", "task", "worker", "times"})
_WAYS = frozenset({"worker", "target", "after", "for_"})
_MESSAGES = frozenset({"task", "queue", "times", "after", "for_"})

KINDS: Mapping[str, frozenset[str]] = {
    "kill": _WHERE | {"after", "for_", "restart", "target"},
    "lose_child": _WHERE | {"after", "for_"},
    "term": _WHERE | {"after", "for_", "restart"},
    "restart": _WHERE | {"after", "for_", "restart", "target"},
    "pause": _WHERE | {"after", "for_", "target"},
    "down": _WAYS,
    "reset_peer": frozenset({"worker", "after"}),
    "latency": _WAYS | {"by"},
    "timeout": _WAYS,
    "bandwidth": _WAYS | {"rate"},
    "slicer": _WAYS | {"size", "by"},
    "duplicate": _MESSAGES | {"by"},
    "delay": _MESSAGES | {"by"},
    "drop_ack": _MESSAGES,
    "slow": frozenset({"by", "task", "worker", "after", "for_"}),
    "clock": frozenset({"by", "after", "for_"}),
}
"""What each kind of fault may be told."""

_AT_POINTS = frozenset({"kill", "term", "restart", "pause"})
_MEASURED = frozenset({"latency", "delay", "slow", "clock"})
_COUNTED = {"bandwidth": "rate", "slicer": "size"}
_LASTING = frozenset({"down", "latency", "timeout", "bandwidth", "slicer", "slow", "clock"})
WAYS = ("down", "latency", "timeout", "bandwidth", "slicer")
"""Faults of the way to the broker."""
_TARGETS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(WAYS, ("worker", "beat")),
    "kill": ("worker", "beat"),
    "pause": ("worker", "beat", "broker"),
    "restart": ("worker", "beat", "broker"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing to go wrong. Durations are seconds of virtual time.

    ``task``, ``worker`` and ``queue`` are names or patterns with ``*``; empty means any. ``at`` is a
    :class:`Point`; without one, a fault strikes ``after`` so many seconds. ``for_`` is how long it lasts, or
    stays in wait; ``None``: until it is healed. ``times`` is how often it strikes; ``None``: without end.
    ``by`` is how much: of delay, or of a clock's step. ``rate`` is in bytes a second, ``size`` in bytes.
    ``restart`` is when another process takes the place of the one that has ended; ``None``: never.
    """

    kind: str
    at: str | None = None
    into: float = 0.0
    task: str = ""
    worker: str = ""
    queue: str = ""
    after: float = 0.0
    for_: float | None = None
    by: float = 0.0
    times: int | None = 1
    restart: float | None = 1.0
    target: str = "worker"
    rate: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("fault", str(self.kind), tuple(KINDS))
        for name in self._told():
            _check_option(self.kind, name)
        self._check_point()
        self._check_numbers()
        targets = _TARGETS.get(self.kind, ("worker",))
        if self.target not in targets:
            raise UnknownNameError(f"target of the fault {self.kind!r}", self.target, targets)

    def __str__(self) -> str:
        told = {name: getattr(self, name) for name in self._told()}
        return " ".join([self.kind, *(f"{name.rstrip('_')}={value}" for name, value in told.items())])

    @property
    def waits(self) -> bool:
        """Whether it lies in wait for a run or a message, instead of striking by itself."""
        return self.at is not None or self.kind in ("lose_child", "duplicate", "delay", "drop_ack")

    @property
    def lasts(self) -> bool:
        """Whether it goes on until it is healed."""
        return self.kind in _LASTING or (self.kind == "pause" and not self.waits)

    @property
    def is_of_ways(self) -> bool:
        """Whether it is of the way to the broker, or as good as one."""
        return self.kind in WAYS or (self.kind == "pause" and self.target == "broker")

    @property
    def is_of_one(self) -> bool:
        """Whether it is of the way of some alone: the workers that it names, or the beat."""
        return self.kind in WAYS and bool(self.worker or self.target == "beat")

    def _told(self) -> list[str]:
        return [field.name for field in fields(self)[1:] if getattr(self, field.name) != field.default]

    def _check_point(self) -> None:
        if self.at is not None and self.at not in tuple(Point):
            raise UnknownNameError(f"point of the fault {self.kind!r}", str(self.at), tuple(map(str, Point)))
        if self.into and self.at != Point.RUNNING:
            raise FaultError(
                f"into={self.into:g} says how far a body has run: it needs at='running', got {self.at!r}"
            )
        if self.kind == "lose_child" and self.at in (None, Point.RECEIVED):
            raise FaultError(
                f"lose_child needs a body to lose: at='started', 'running' or 'stored', got {self.at!r}"
            )
        lies = self.task or self.times != 1 or (self.for_ is not None and self.kind != "pause")
        if self.kind in _AT_POINTS and self.at is None and lies:
            raise FaultError(
                f"a {self.kind} with task, times or for_ lies in wait: say where, with at='received', "
                "'started' ..."
            )
        if self.kind == "pause" and self.at is not None and self.for_ is None:
            raise FaultError("a pause that lies in wait needs for_: how long it lasts")
        if self.target != "worker" and self.at is not None:
            raise FaultError(f"{self.target} runs no tasks: at={self.at!r} says nothing of it")

    def _check_numbers(self) -> None:
        for name in ("into", "after", "for_", "restart"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise FaultError(
                    f"{self.kind}: {name} must be a time that does not lie in the past, got {value!r}"
                )
        if self.times is not None and (self.times < 1 or self.times != int(self.times)):
            raise FaultError(f"{self.kind}: times must be a whole number from 1 on, got {self.times!r}")
        if not isfinite(self.by) or (self.by < 0 and self.kind != "clock"):
            raise FaultError(f"{self.kind}: by must be a duration, got {self.by!r}")
        if self.kind in _MEASURED and not self.by:
            raise FaultError(f"{self.kind} by how much? Say by=seconds")
        counted = _COUNTED.get(self.kind)
        if counted and not (isinstance(getattr(self, counted), int) and getattr(self, counted) > 0):
            raise FaultError(f"{self.kind} needs {counted}: a whole number of bytes, from 1 on")


def make_fault(kind: str, options: Mapping[str, Any]) -> Fault:
    """Return the fault; durations may be ``timedelta``."""
    if kind not in KINDS:
        raise UnknownNameError("fault", str(kind), tuple(KINDS))
    for name in options:
        _check_option(kind, name)
    return Fault(kind=kind, **{name: _plain(value) for name, value in options.items()})


def _check_option(kind: str, name: str) -> None:
    if name not in KINDS[kind]:
        raise UnknownNameError(f"option of the fault {kind!r}", name, tuple(sorted(KINDS[kind])))


def _plain(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value
