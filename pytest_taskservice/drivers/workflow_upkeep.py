"""What a runner does beside its runs, in a world's own time: leases renewed, events sent on.

The runtime has a thread for each, which keeps real time.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from taskservice.errors import WorkflowError
from taskservice.workflow.leases import term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskservice.workflow.emission import Emitter
    from taskservice.workflow.leases import LeasedRun

__all__ = ["Later", "TimedFlusher", "TimedKeeper"]

Later: TypeAlias = "Callable[[float, Callable[[], object]], Callable[[], object]]"
"""Has something done in so many seconds; what is returned takes that back."""


class TimedKeeper:
    """Renews each lease as often as the runtime's own does, while ``lives()``, asked where it is kept."""

    def __init__(self, later: Later, lives: Callable[[], Callable[[], bool]] | None = None) -> None:
        self._later = later
        self._lives = lives or (lambda: lambda: True)

    @contextmanager
    def keep(self, leased: LeasedRun) -> Iterator[None]:
        """Renew the lease until the block is left, or whoever executes the run is no more."""
        lives, cancel = self._lives(), None

        def renew() -> None:
            nonlocal cancel
            # Who is stopped, or killed, says nothing; who is continued says it again.
            if lives():
                leased.renew()
            if not leased.lost.is_set():
                cancel = self._later(term(leased), renew)

        cancel = self._later(term(leased), renew)
        try:
            yield
        finally:
            cancel()

    def close(self) -> None:
        """Do nothing: what is kept is left by whoever keeps it."""


class TimedFlusher:
    """Has emitters flushed when they have gathered."""

    def __init__(self, later: Later) -> None:
        self._later = later
        self._waiting: set[Emitter] = set()

    def wake(self, emitter: Emitter, seconds: float = 0.0) -> None:
        """Have ``emitter`` flushed as soon as it has gathered, in ``seconds`` at the earliest."""
        if emitter not in self._waiting:
            self._waiting.add(emitter)
            self._later(max(seconds, emitter.wait_seconds(), 0.0), lambda: self._flush(emitter))

    def close(self) -> None:
        """Flush nothing more."""
        self._waiting.clear()

    def _flush(self, emitter: Emitter) -> None:
        if emitter not in self._waiting:
            return
        self._waiting.discard(emitter)
        try:
            emitter.flush()
        except WorkflowError as error:
            emitter.refused = error
