"""Emission: a function's own events on their way to the store, in order and in few calls.

The first event after a pause goes out at once. What follows within `QUIET` seconds is gathered, and sent
together by one thread of the process.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol

from taskservice.errors import BackendUnavailableError, WorkflowError

__all__ = ["Emission", "Emitter", "Flusher", "joined"]

logger = logging.getLogger(__name__)

QUIET: Final = 0.002
BATCH: Final = 500
CROWD: Final = 2000
RETRY: Final = 0.2
LONGEST_JOIN: Final = 32_768
_PARTS: Final = ("text", "delta")

Mark = tuple[int, int]
Send = Callable[[Sequence[tuple[Mark, str, Any]]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Emission:
    """One event to come; ``coalesce`` lets it be joined with its neighbours of the same kind."""

    mark: Mark
    kind: str
    data: Any
    coalesce: bool = False


def joined(first: Emission, second: Emission) -> Emission | None:
    """Return both as one event, or ``None`` if they must stay two.

    Texts are put together, and dicts that differ in nothing but their ``text`` or ``delta``.
    """
    if not (first.coalesce and second.coalesce) or first.kind != second.kind:
        return None

    data = _joined_data(first.data, second.data)
    return None if data is None else Emission(mark=second.mark, kind=second.kind, data=data, coalesce=True)


def _joined_data(first: Any, second: Any) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return first + second if len(first) + len(second) <= LONGEST_JOIN else None
    if not isinstance(first, dict) or not isinstance(second, dict) or first.keys() != second.keys():
        return None

    different = [key for key in first if first[key] != second[key] or key in _PARTS]
    if len(different) != 1 or different[0] not in _PARTS:
        return None
    part = different[0]
    text = _joined_data(first[part], second[part]) if isinstance(first[part], str) else None
    return None if text is None else {**first, part: text}


class Emitter:
    """The events of one run; ``send`` writes some, and raises as a store does. For any thread."""

    def __init__(self, send: Send, flusher: EventFlusher) -> None:
        self._send = send
        self._flusher = flusher
        self._buffer: deque[Emission] = deque()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._sent_at = -QUIET
        self.refused: WorkflowError | None = None

    @property
    def crowded(self) -> bool:
        """Whether so much waits that whoever adds to it should `flush` first."""
        return len(self._buffer) >= CROWD

    def put(self, emission: Emission, *, at_once: bool) -> None:
        """Take an event; ``at_once`` lets the calling thread send it if nothing was just sent."""
        with self._lock:
            last = self._buffer[-1] if self._buffer else None
            both = None if last is None else joined(last, emission)
            if both is not None:
                self._buffer[-1] = both
            else:
                self._buffer.append(emission)
        if at_once and self.wait_seconds() <= 0 and self._sending.acquire(blocking=False):
            try:
                self._drain()
            except BackendUnavailableError:
                self._flusher.wake(self, RETRY)
            except WorkflowError as error:
                self.refused = error
            finally:
                self._sending.release()
        else:
            self._flusher.wake(self)

    def flush(self) -> None:
        """Send all that waits, now; the store's errors come through, and nothing is lost by them."""
        if self._buffer or self._sending.locked():
            with self._sending:
                self._drain()

    def wait_seconds(self) -> float:
        """Return how long to gather before the next sending."""
        return self._sent_at + QUIET - monotonic()

    def _drain(self) -> None:
        while batch := self._take():
            try:
                self._send([(each.mark, each.kind, each.data) for each in batch])
            except BackendUnavailableError:
                with self._lock:
                    self._buffer.extendleft(reversed(batch))
                raise
            finally:
                self._sent_at = monotonic()

    def _take(self) -> list[Emission]:
        with self._lock:
            return [self._buffer.popleft() for _ in range(min(BATCH, len(self._buffer)))]


class EventFlusher(Protocol):
    """Sends later what emitters have gathered."""

    def wake(self, emitter: Emitter, seconds: float = 0.0) -> None:
        """Have ``emitter`` flushed as soon as it has gathered, in ``seconds`` at the earliest."""

    def close(self) -> None:
        """Flush nothing more."""


class Flusher:
    """The thread that sends what emitters have gathered; it starts when it is first needed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: dict[Emitter, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def wake(self, emitter: Emitter, seconds: float = 0.0) -> None:
        """Have ``emitter`` flushed as soon as it has gathered, in ``seconds`` at the earliest."""
        at = monotonic() + max(seconds, emitter.wait_seconds())
        with self._condition:
            known = self._due.get(emitter)
            if known is not None and known <= at:
                return
            self._due[emitter] = at
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._serve, name="taskservice-emit", daemon=True)
                self._thread.start()
            self._condition.notify()

    def close(self) -> None:
        """End the thread; what emitters still hold is flushed by those who have them."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def _serve(self) -> None:
        while (ready := self._wait()) is not None:
            for emitter in ready:
                try:
                    emitter.flush()
                except BackendUnavailableError:
                    self.wake(emitter, RETRY)
                except WorkflowError as error:
                    emitter.refused = error
                except Exception:
                    logger.exception("events not sent")

    def _wait(self) -> list[Emitter] | None:
        with self._condition:
            while not self._closed:
                now = monotonic()
                ready = [emitter for emitter, at in self._due.items() if at <= now]
                if ready:
                    for emitter in ready:
                        del self._due[emitter]
                    return ready
                self._condition.wait(min(self._due.values()) - now if self._due else None)
        return None
