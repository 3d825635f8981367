"""The simulated broker: queues, deliveries, and what becomes of a message that nobody acknowledges.

Messages travel in the order in which they were sent, over all queues; the seed draws how long each takes
and which of several consumers gets it. Two kinds of broker differ in what they do for a consumer that is
gone: ``redis`` gives its messages to others after the visibility timeout, ``amqp`` at once.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from kombu.utils.uuid import uuid

from pytest_taskservice.simulator.celery.ways import Ways

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.agenda import Due
    from pytest_taskservice.simulator.core.simulation import Simulation

__all__ = ["Broker", "BrokerDownError", "BrokerRules", "Consumer", "Latency", "rules_for"]

Raw = dict[str, Any]

_REDIS = ("redis", "rediss", "sentinel", "valkey", "valkeys")
_DEFAULT_VISIBILITY = 3600.0
_LAST_SENT = 10_000
_LOOK_AGAIN = 1.0


class BrokerDownError(ConnectionRefusedError):
    """The simulated broker is down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerRules:
    """How one kind of broker treats messages.

    ``visibility_timeout`` in seconds: when an unacknowledged message goes to somebody else; ``None``: as
    soon as its consumer is gone. ``priority_steps``: lower goes first, in these groups; ``None``: higher
    goes first, on queues declared with ``x-max-priority`` only.
    """

    kind: str = "redis"
    visibility_timeout: float | None = _DEFAULT_VISIBILITY
    priority_steps: tuple[int, ...] | None = (0, 3, 6, 9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Spans of seconds that the seed draws from."""

    message: tuple[float, float] = (0.0003, 0.003)
    publish: tuple[float, float] = (0.0001, 0.0005)
    start: tuple[float, float] = (0.0002, 0.002)
    body: tuple[float, float] = (0.0002, 0.002)
    boot: tuple[float, float] = (0.001, 0.003)


class Consumer(Protocol):
    """One channel that consumes."""

    @property
    def client_name(self) -> str:
        """Whose it is: a worker's name, ``beat`` or, where it is the test's, nothing."""

    def free(self) -> bool:
        """Return whether it takes one more message now."""

    def take(self, raw: Raw, queue: str) -> None:
        """Take a message."""

    def on_the_way(self) -> list[tuple[str, Raw]]:
        """Return what was handed over and not looked at yet, with its queue."""


class _Unacked:
    __slots__ = ("consumer", "due", "queue", "raw")

    def __init__(self, queue: str, raw: Raw, consumer: Any, due: Due | None) -> None:
        self.queue = queue
        self.raw = raw
        self.consumer = consumer
        self.due = due


class Broker:
    """One broker, as one URL reaches it."""

    def __init__(self, simulation: Simulation, rules: BrokerRules, latency: Latency) -> None:
        self.rules = rules
        self.latency = latency
        self.ways = Ways()
        """How clients reach it; faults' doing."""
        self.fate: Callable[[str, Raw], Iterable[float]] | None = None
        """Says for a message when it and its copies arrive, in seconds on top; a fault's hook."""
        self.keeps: Callable[[str, Raw, Any], bool] | None = None
        """Says whether an acknowledgement is lost; a fault's hook."""
        self._simulation = simulation
        self._ready: dict[str, list[tuple[int, int, Raw]]] = {}
        self._consumers: dict[str, list[Consumer]] = {}
        self._unacked: dict[str, _Unacked] = {}
        self._overdue: list[str] = []
        self._limits: dict[str, int] = {}
        self._orders = count()
        self._front = count(-1, -1)
        self._last_arrival = 0.0
        # Those that have arrived are dropped by whoever looks next.
        self._coming: deque[tuple[Due, str, Raw]] = deque(maxlen=_LAST_SENT)
        self._dispatching = False
        # kombu's Redis transport says so in the headers, too; a server of AMQP never touches those.
        self._mark_again = {"redelivered": True} if rules.kind == "redis" else {}

    # What clients do.

    def check(self, client: str) -> None:
        """Raise :class:`BrokerDownError` during an outage; wait while it is silent, both for ``client``."""
        if not self.ways.mute or not self.ways.of(client).mute:
            return
        if not self.ways.of(client).down:
            self._simulation.wait(
                lambda: not self.ways.of(client).silent, timeout=None, what="the broker to answer"
            )
        if self.ways.of(client).down:
            raise BrokerDownError(111, "connection refused: the simulated broker is down")

    def declare(self, queue: str, arguments: Mapping[str, Any] | None) -> None:
        """Note a queue's limits."""
        limit = (arguments or {}).get("x-max-priority")
        if limit is not None:
            self._limits[queue] = int(limit)

    def publish(self, queue: str, raw: Raw) -> None:
        """Accept a message; it arrives a little later, never before one that was sent earlier."""
        simulation = self._simulation
        way = self.ways.common
        delay = simulation.random.between("message", self.latency.message) + way.slower
        if way.wire is not None:
            # Behind those that were sent before.
            delay = max(delay, self._last_arrival - simulation.elapsed) + way.wire.seconds(raw)
        arrival = max(simulation.elapsed + delay, self._last_arrival)
        self._last_arrival = arrival
        if self.fate is None:
            due = simulation.after(arrival - simulation.elapsed, self._arrive, queue, raw)
            self._coming.append((due, queue, raw))
            return
        for number, more in enumerate(self.fate(queue, raw)):
            copy = raw if not number else {**raw, "properties": {**raw["properties"], "delivery_tag": uuid()}}
            simulation.after(arrival + more - simulation.elapsed, self._arrive, queue, copy)

    def arrive_now(self, queue: str) -> None:
        """Have in ``queue`` what was accepted for it: a client that looks itself finds it there."""
        while self._coming and self._coming[0][0].action is None:
            self._coming.popleft()
        found = [due for due in self._coming if due[1] == queue and due[0].action is not None]
        for due, _, raw in found:
            self._simulation.cancel(due)
            self._put(queue, raw, next(self._orders))
        if found:
            # Only then: whoever looks again and again for what never comes would bring something each time.
            self.kick()

    def get(self, queue: str) -> Raw | None:
        """Take the first message of ``queue``, if there is one."""
        waiting = self._ready.get(queue)
        if not waiting:
            return None
        raw = heapq.heappop(waiting)[2]
        if not waiting:
            del self._ready[queue]
        return raw

    def size(self, queue: str) -> int:
        """Return how many messages wait in ``queue``."""
        return len(self._ready.get(queue, ()))

    def purge(self, queue: str) -> int:
        """Drop what waits in ``queue``; return how many that were."""
        return len(self._ready.pop(queue, ()))

    def listed(self, queue: str, priority: int) -> list[Raw]:
        """Return what waits in ``queue`` with a priority of a step's, the newest first: a list of a Redis."""
        self.arrive_now(queue)
        step = self._step(priority)
        found = [item for item in self._ready.get(queue, ()) if item[0] == step]
        return [raw for _, _, raw in sorted(found, key=_rank, reverse=True)]

    def drop(self, queue: str, priority: int) -> bool:
        """Drop that; return whether there was anything."""
        self.arrive_now(queue)
        step, before = self._step(priority), self._ready.get(queue, [])
        kept = [item for item in before if item[0] != step]
        if kept:
            heapq.heapify(kept)
            self._ready[queue] = kept
        else:
            self._ready.pop(queue, None)
        return len(kept) < len(before)

    def _step(self, priority: int) -> int | None:
        steps = self.rules.priority_steps or ()
        # The first list has the name of its queue.
        return 0 if not priority else steps.index(priority) if priority in steps else None

    def consume(self, queue: str, consumer: Consumer) -> None:
        """Let ``consumer`` have messages of ``queue``."""
        self._consumers.setdefault(queue, []).append(consumer)
        self.kick()

    def leave(self, queue: str, consumer: Consumer) -> None:
        """End that."""
        consumers = self._consumers.get(queue, [])
        if consumer in consumers:
            consumers.remove(consumer)

    # What becomes of deliveries.

    def delivered(self, tag: str, queue: str, raw: Raw, consumer: Any) -> None:
        """Note that a message is with ``consumer`` and not acknowledged."""
        timeout = self.rules.visibility_timeout
        due = None if timeout is None else self._simulation.after(timeout, self.restore, tag)
        self._unacked[tag] = _Unacked(queue, raw, consumer, due)

    def acknowledge(self, tag: str) -> None:
        """Forget a delivery."""
        unacked = self._unacked.get(tag)
        if unacked is None:
            return
        if self.keeps is not None and self.keeps(unacked.queue, unacked.raw, unacked.consumer):
            return
        del self._unacked[tag]
        self._simulation.cancel(unacked.due)
        self.kick()

    def speak_again(self) -> None:
        """Go on where a silence or an outage is over."""
        if not self.ways.common.silent:
            overdue, self._overdue = self._overdue, []
            for tag in overdue:
                # Those who acknowledge it now are heard first.
                self._simulation.after(_LOOK_AGAIN, self.restore, tag)
        self.kick()

    def restore(self, tag: str, *, behind: bool = False) -> None:
        """Put a delivery back at the head of its queue, or ``behind`` all that waits there."""
        if self.ways.common.silent and tag in self._unacked:
            # Nobody can look, until it speaks again.
            self._overdue.append(tag)
            return
        unacked = self._unacked.pop(tag, None)
        if unacked is None:
            return
        self._simulation.cancel(unacked.due)
        raw = unacked.raw
        properties = raw["properties"]
        again = {
            **raw,
            "headers": {**(raw["headers"] or {}), **self._mark_again},
            "properties": {
                **properties,
                "delivery_info": {**properties["delivery_info"], "redelivered": True},
            },
        }
        self._put(unacked.queue, again, next(self._orders if behind else self._front))
        self.kick()

    def lost(self, gone: Callable[[Any], bool]) -> None:
        """Consumers are gone without a word: give their messages to others, at once or in time."""
        for consumers in self._consumers.values():
            consumers[:] = [consumer for consumer in consumers if not gone(consumer)]
        if self.rules.visibility_timeout is None:
            # The last delivered first, so that the first one ends up at the head.
            for tag in [tag for tag, unacked in self._unacked.items() if gone(unacked.consumer)][::-1]:
                self.restore(tag)

    def closed(self, consumer: Any, tags: list[str]) -> None:
        """Take back the deliveries ``tags`` of a channel that is closed.

        RabbitMQ does so itself. With Redis it is kombu that writes them back, one in front of the other,
        which it cannot during an outage: then they come back after the visibility timeout.
        """
        if self.rules.visibility_timeout is None:
            self.lost(lambda one: one is consumer)
        elif not self.ways.of(consumer.client_name).down:
            for tag in tags:
                self.restore(tag)

    def unacked(self) -> list[tuple[str, Raw]]:
        """Return what is delivered and not acknowledged, with its queue."""
        return [(unacked.queue, unacked.raw) for unacked in self._unacked.values()]

    def held(self) -> list[tuple[Raw, Any, float | None]]:
        """Return what is delivered and not acknowledged: message, consumer, when it goes to somebody else."""
        return [
            (held.raw, held.consumer, None if held.due is None else held.due.at)
            for held in self._unacked.values()
        ]

    def coming(self) -> list[tuple[str, Raw]]:
        """Return what was sent and has not arrived, with its queue."""
        return self._simulation.arguments_of(self._arrive)

    def waiting(self) -> list[tuple[str, Raw]]:
        """Return what waits in queues."""
        return [
            (queue, raw) for queue, items in self._ready.items() for _, _, raw in sorted(items, key=_rank)
        ]

    def kick(self) -> None:
        """Look soon whether a waiting message can be delivered."""
        if self._ready and not self._dispatching:
            self._dispatching = True
            self._simulation.after(0.0, self._dispatch)

    def _arrive(self, queue: str, raw: Raw) -> None:
        self._put(queue, raw, next(self._orders))
        if not self._dispatching:
            self._dispatch()

    def _put(self, queue: str, raw: Raw, order: int) -> None:
        heapq.heappush(self._ready.setdefault(queue, []), (self._priority(queue, raw), order, raw))

    def _priority(self, queue: str, raw: Raw) -> int:
        found = raw["properties"].get("priority") or 0
        steps = self.rules.priority_steps
        if steps is not None:
            return bisect_right(steps, int(found)) - 1
        limit = self._limits.get(queue)
        return 0 if limit is None else -min(int(found), limit)

    def _dispatch(self) -> None:
        self._dispatching = True
        try:
            while self._deliver_one():
                pass
        finally:
            self._dispatching = False

    def _deliver_one(self) -> bool:
        best: tuple[int, str, list[Consumer]] | None = None
        for queue, items in self._ready.items():
            order = items[0][1]
            if best is not None and order >= best[0]:
                continue
            free = [consumer for consumer in self._consumers.get(queue, ()) if consumer.free()]
            if self.ways.mute:
                free = [consumer for consumer in free if not self.ways.of(consumer.client_name).mute]
            if free:
                best = (order, queue, free)
        if best is None:
            return False
        _, queue, free = best
        raw = self.get(queue)
        assert raw is not None
        self._simulation.random.choice("consumer", free).take(raw, queue)
        return True


def rules_for(scheme: str, options: Mapping[str, Any]) -> BrokerRules:
    """Return what the broker of a URL with ``scheme`` does, with the app's transport ``options``."""
    if scheme.partition("+")[0].lower() not in _REDIS:
        return BrokerRules(kind="amqp", visibility_timeout=None, priority_steps=None)
    return BrokerRules(
        visibility_timeout=float(options.get("visibility_timeout") or _DEFAULT_VISIBILITY),
        priority_steps=tuple(options.get("priority_steps") or (0, 3, 6, 9)),
    )


def _rank(item: tuple[int, int, Raw]) -> tuple[int, int]:
    return item[:2]
