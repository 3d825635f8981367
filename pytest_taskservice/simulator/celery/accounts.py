"""Accounts: for every run that was accepted, what became of it, or where it is, or why it is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_taskservice.history import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_taskservice.simulator.celery.world import CeleryWorld

__all__ = ["Account", "Accounts", "take_stock"]

_STATES = {
    EventKind.SUCCEEDED: "SUCCESS",
    EventKind.FAILED: "FAILURE",
    EventKind.REVOKED: "REVOKED",
    EventKind.REJECTED: "REJECTED",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """One run.

    ``state`` is its first final state, empty without one. ``place`` says where its message or its body is,
    empty if nowhere; ``lost`` says why it can reach no final state. ``starts`` counts bodies, ``successes``
    those that ended well.
    """

    run: str
    task: str
    state: str = ""
    place: str = ""
    lost: str = ""
    deliveries: int = 0
    starts: int = 0
    successes: int = 0

    def __str__(self) -> str:
        return f"{self.task}[{self.run}]: {self.state or self.place or f'lost: {self.lost}'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """All runs, in the order in which they were accepted."""

    runs: tuple[Account, ...]

    @property
    def final(self) -> tuple[Account, ...]:
        """Those that have a final state."""
        return tuple(run for run in self.runs if run.state)

    @property
    def pending(self) -> tuple[Account, ...]:
        """Those that are somewhere, and have none yet."""
        return tuple(run for run in self.runs if not run.state and run.place)

    @property
    def lost(self) -> tuple[Account, ...]:
        """Those that will never have one."""
        return tuple(run for run in self.runs if run.lost)

    def __getitem__(self, run: str) -> Account:
        for account in self.runs:
            if account.run == run:
                return account
        raise KeyError(run)

    def __iter__(self) -> Iterator[Account]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __str__(self) -> str:
        return "\n".join(map(str, self.runs)) or "no run was accepted"


def take_stock(world: CeleryWorld) -> Accounts:
    """Go through the record, and then through everything that can hold a run."""
    states, last = _states(world)
    tasks: dict[str, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for _, kind, run, task, *_ in world.record.notes():
        if kind == EventKind.SENT:
            tasks.setdefault(run, task)
        counts[str(kind), run] += 1
    places = dict(_places(world))
    return Accounts(
        runs=tuple(
            Account(
                run=run,
                task=task,
                state=states.get(run, ""),
                place=places.get(run, ""),
                lost="" if run in states or run in places else _reason(world, last.get(run)),
                deliveries=counts["received", run],
                starts=counts["started", run],
                successes=counts["succeeded", run],
            )
            for run, task in tasks.items()
        )
    )


def _states(world: CeleryWorld) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Return each run's first final state, and what was said last of each: kind and worker."""
    states: dict[str, str] = {}
    last: dict[str, tuple[str, str]] = {}
    for _, kind, run, _, _, worker, detail in world.record.notes():
        if not run:
            continue
        state = _STATES.get(kind, "")  # type: ignore[call-overload] # notes are of more kinds
        if kind == "stored" and detail["state"] != "RETRY":
            state = detail["state"]
        if state and not detail.get("requeue"):
            states.setdefault(run, state)
        last[run] = (str(kind), worker)
    return states, last


def _places(world: CeleryWorld) -> Iterator[tuple[str, str]]:
    for broker in world.brokers():
        for queue, raw in broker.coming():
            yield _run(raw), f"on its way to the queue {queue!r}"
        for queue, raw in broker.waiting():
            yield _run(raw), f"waits in the queue {queue!r}"
        for raw, consumer, at in broker.held():
            process = consumer.process()
            name = getattr(process, "name", "a consumer that is gone")
            alive = getattr(process, "alive", False)
            back = "" if alive or at is None else f", which has ended; goes to another at +{at:g} s"
            yield _run(raw), f"delivered to {name} and not acknowledged{back}"
    for worker in world.living():
        for job in worker.simulated_pool.jobs:
            yield job.id, f"runs on {worker.process.name}"


def _reason(world: CeleryWorld, last: tuple[str, str] | None) -> str:
    kind, name = last or ("", "")
    if kind == EventKind.SENT:
        return "nobody has received it, and no queue holds it: purged, or no queue takes its routing key"
    ended = {worker for _, kind, _, _, _, worker, _ in world.record.notes() if kind == "crashed"}
    if name in ended:
        return f"{kind} by {name}, which acknowledged it and was killed"
    return f"{kind} by {name}, which acknowledged it and said no more"


def _run(raw: Mapping[str, Any]) -> str:
    return str((raw.get("headers") or {}).get("id") or "")
