"""The ledger of one Locust process: every run from the moment it was due to its end, told to Locust as well.

A run's latency counts from when it was *due*. Whoever measures from when it was sent leaves out how long it
had to wait for that, which is longest when all goes worst: coordinated omission.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, time
from typing import Any, Final, Protocol

from gevent.event import Event

from taskservice.load.account import Account

__all__ = ["Fire", "Flight", "Ledger", "RunError"]


HALF: Final = 0.5
"""A second's end is told a hair after it, and is still that second's."""


class RunError(Exception):
    """How Locust is told that a run failed."""


class Fire(Protocol):
    """``Environment.events.request.fire``."""

    def __call__(self, **said: Any) -> object:
        """Tell of one request."""


class Flight:
    """One run; instants are in seconds of the monotonic clock."""

    __slots__ = ("_over", "due", "ended", "forgotten", "name", "number", "started", "timed")

    def __init__(self, number: int, name: str, due: float, *, timed: bool, forgotten: bool = False) -> None:
        self.number = number
        self.name = name
        self.due = due
        self.started = monotonic()
        self.timed = timed
        self.forgotten = forgotten
        self.ended = False
        self._over: Event | None = None

    def wait(self) -> None:
        """Let other greenlets run until it is over."""
        if not self.ended:
            self._over = self._over or Event()
            self._over.wait()

    def end(self) -> None:
        """Wake whoever waits."""
        self.ended = True
        if self._over is not None:
            self._over.set()


class Ledger:
    """Keeps an `Account`; runs count for latency and throughput from ``warmup`` seconds on."""

    def __init__(self, fire: Fire, *, warmup: float = 0.0, clock: Callable[[], float] = monotonic) -> None:
        self.account = Account()
        self.flights: dict[int, Flight] = {}
        self._fire = fire
        self._clock = clock
        self._offset = time() - clock()
        self._counted_from = clock() + warmup
        self._number = 0
        self._stopped: float | None = None

    @property
    def in_flight(self) -> int:
        """How many runs are under way."""
        return len(self.flights)

    def depart(self, name: str, due: float, *, forgotten: bool = False) -> Flight:
        """Note a run that is due now, or was at ``due``; a forgotten one is over once it is sent."""
        self._number += 1
        flight = Flight(self._number, name, due, timed=due >= self._counted_from, forgotten=forgotten)
        self.flights[flight.number] = flight
        self.account.arrivals += 1
        self.account.measured += flight.timed
        self.account.second(due + self._offset).arrivals += 1
        if flight.timed:
            self.account.parts["lag"].add(flight.started - due)
        return flight

    def hear(self, message: list[Any]) -> None:
        """Take what the engine tells."""
        match message:
            case ["sent", number, began, ended]:
                self.sent(self.flights[number], began, ended)
            case ["over", number, at, error, waited, ran]:
                flight = self.flights[number]
                self.worked(flight.name, waited, ran, timed=flight.timed)
                self.over(flight, at, error)
            case ["refused", number, began, ended, error]:
                self.refused(self.flights[number], began, ended, error)
            case ["worked", number, waited, ran]:
                # Its end may have come first, and whether it counts is no longer known.
                found = self.flights.get(number)
                name, timed = (
                    (found.name, found.timed) if found else ("", self._clock() >= self._counted_from)
                )
                self.worked(name or "task events", waited, ran, timed=timed)
            case ["backlog", at, waiting, unacked]:
                second = self.account.second(at)
                second.waiting, second.unacked = waiting, unacked
            case ["gone"]:
                self.settle(dict.fromkeys(self.flights, "unknown"))

    def sent(self, flight: Flight, began: float, ended: float) -> None:
        """Note that it was sent."""
        self.account.sent += 1
        if flight.timed and self._stopped is None:
            self.account.timely_sent += 1
        self._part("enqueue", flight.name, ended - began, timed=flight.timed)
        if flight.forgotten:
            flight.end()

    def refused(self, flight: Flight, began: float, ended: float, error: str) -> None:
        """Note that it could not be sent."""
        self.account.fail("refused", error)
        self._tell("enqueue", flight.name, ended - began, error)
        self._close(flight)

    def worked(self, name: str, waited: float | None, ran: float | None, *, timed: bool) -> None:
        """Note what a worker said."""
        if waited is not None:
            self._part("queue_wait", name, waited, timed=timed)
        if ran is not None:
            self._part("run", name, ran, timed=timed)

    def over(self, flight: Flight, at: float, error: str) -> None:
        """Note its end."""
        account = self.account
        second = account.second(at + self._offset)
        if error:
            account.fail("failed", error)
            second.failed += 1
        else:
            account.ends["done"] += 1
            second.done += 1
        latency = at - flight.due
        second.latency.add(latency)
        if flight.timed:
            account.parts["end_to_end"].add(latency)
            account.parts["uncorrected"].add(at - flight.started)
        if not error and at >= self._counted_from and (self._stopped is None or at <= self._stopped):
            account.timely += 1
        self._tell("end to end", flight.name, latency, error)
        self._close(flight)

    def sample(self, users: int) -> None:
        """Note, at the end of a second, how many users there are and how much is under way."""
        now = self._clock()
        second = self.account.second(now + self._offset - HALF)
        second.users, second.in_flight = users, self.in_flight
        self.account.elapsed = max(0.0, now - self._counted_from)

    def stop(self) -> None:
        """Note that no more runs come: what ends from now on does not count for the throughput."""
        self._stopped = self._clock()
        self.account.elapsed = max(0.0, self._stopped - self._counted_from)

    def settle(self, where: dict[int, str]) -> None:
        """Note where the runs are whose ends nobody waits for any more."""
        for number, end in where.items():
            flight = self.flights.get(number)
            if flight is not None:
                self.account.ends[end] += 1
                self._close(flight)

    def _close(self, flight: Flight) -> None:
        self.flights.pop(flight.number, None)
        flight.end()

    def _part(self, part: str, name: str, seconds: float, *, timed: bool) -> None:
        if timed:
            self.account.parts[part].add(seconds)
        self._tell(part.replace("_", " "), name, seconds)

    def _tell(self, part: str, name: str, seconds: float, error: str = "") -> None:
        self._fire(
            request_type=part,
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=RunError(error) if error else None,
            context={},
        )
