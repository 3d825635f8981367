"""How what a fault has ended in a real world comes back: by itself after a while, or when it is healed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_taskservice.drivers.worker_alarms import COURIER
from pytest_taskservice.errors import HarnessTimeoutError

if TYPE_CHECKING:
    import threading

    from pytest_taskservice.drivers.worker_alarms import Alarms
    from pytest_taskservice.drivers.worker_fleet import Fleet, Member
    from pytest_taskservice.drivers.worker_injected import Injected
    from pytest_taskservice.scenario.acts import FaultCall

__all__ = ["Recovery"]

_ENDS = ("kill", "term", "restart")
_TURN = 0.5


class Recovery:
    """Members that end, and what is to become of them.

    ``injected`` are the faults so far, ``lock`` guards them; each wait takes at most ``timeout`` seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        alarms: Alarms,
        injected: list[Injected],
        *,
        lock: threading.RLock,
        timeout: float,
    ) -> None:
        self._fleet = fleet
        self._alarms = alarms
        self._injected = injected
        self._lock = lock
        self._timeout = timeout
        # What is to be done for a member that ends: seconds until it is started again, None for not.
        self._awaited: dict[Member, float | None] = {}
        self._away: list[Member] = []
        self._heard: dict[tuple[int, str], int] = {}

    def expect(self, member: Member, restart: float | None) -> None:
        """Know, before it happens, that a member is ended, and in how many seconds it is started again."""
        self._awaited[member] = restart

    def gone(self, member: Member) -> bool:
        """Hear that a member has ended; return whether a fault has done it."""
        with self._lock:
            if member in self._awaited:
                wait = self._awaited.pop(member)
            elif (call := self._claimed_by(member)) is not None:
                wait = call.restart
            else:
                # It has ended itself: nobody starts it again.
                return False
            self._come_back(member, wait)
            return True

    def start_all(self) -> None:
        """Start again all that stays away by itself."""
        with self._lock:
            away, self._away = self._away, []
        for member in away:
            self._fleet.start_again(member, timeout=self._timeout)

    def await_ends(self, deadline: float, *, pending: Callable[[], str]) -> None:
        """Wait until all that ends has ended, and all that is to come again by itself has come."""
        while True:
            with self._lock:
                ending = ", ".join(member.name for member in self._awaited)
                heard = sum(self._heard.values())
            struck = sum(len(each.claims()) for each in self._kills())
            coming = pending()
            if not ending and not coming and struck == heard:
                return
            if time.monotonic() > deadline:
                what = coming or f"{ending or 'a worker that was struck'} to end"
                raise HarnessTimeoutError(f"not healed within {self._timeout:g} s: waited for {what}")
            time.sleep(COURIER)

    def await_turns(self, deadline: float) -> None:
        """Wait until all that is alive has its broker."""
        for member in self._fleet.workers:
            while member.alive and not self._fleet.turns(member, _TURN):
                if time.monotonic() > deadline:
                    raise HarnessTimeoutError(
                        f"{member.name} did not find its broker again within {self._timeout:g} s of healing"
                    )

    def forget(self) -> None:
        """Expect nothing any more."""
        self._awaited.clear()

    def _come_back(self, member: Member, wait: float | None) -> None:
        if wait is None:
            self._away.append(member)
            return

        def start() -> None:
            self._fleet.start_again(member, timeout=self._timeout)

        self._alarms.after(wait, start, what=f"{member.name} to be started again")

    def _claimed_by(self, member: Member) -> FaultCall | None:
        """Return the strike by which a worker has ended itself, if there is one that is not yet known of."""
        for injected in self._kills():
            assert injected.strike is not None
            key = (injected.strike.id, member.name)
            struck = sum(claim["worker"] == member.name for claim in injected.claims())
            if struck > self._heard.get(key, 0):
                # Several of its runs may have reached the point before it ended.
                self._heard[key] = struck
                return injected.call
        return None

    def _kills(self) -> list[Injected]:
        return [each for each in self._injected if each.strike is not None and each.strike.kind in _ENDS]
