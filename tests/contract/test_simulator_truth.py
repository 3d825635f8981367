"""The simulator tells the truth: the same cases, played by a real worker and in virtual time, are told alike.

What is compared: results, errors and their text, what each body was handed and knew of itself, callbacks and
errbacks, everything stored in the result backend, each run's history, and the order that canvas promises.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.task import Task
from celery.backends.base import Backend
from celery.worker.request import Request
from kombu.asynchronous.timer import Timer

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.drivers.celery_worker import CeleryWorkerDriver, WorkerOptions
from pytest_taskservice.redis import RedisRequest, acquire
from taskservice.reaper import shared_reaper
from tests.contract.truth import truth_tasks
from tests.contract.truth.truth_drawn import EXPIRES, drawn_trees, lasting, single
from tests.contract.truth.truth_worlds import Seen, differences, play

if TYPE_CHECKING:
    from pytest_taskservice.drivers.base import WorldDriver
    from pytest_taskservice.redis import RedisServer
    from tests.contract.truth.truth_cases import Case

SLOTS = 8
TREES = 120
FAMILIES: dict[str, Callable[[], list[Case]]] = {
    "single": single,
    "trees": lambda: drawn_trees(TREES),
    "lasting": lasting,
}


class Real:
    """One real worker, and what it has shown so far."""

    def __init__(self, server: RedisServer, slots: int) -> None:
        self.driver = CeleryWorkerDriver(
            server, options=WorkerOptions(concurrency=slots), reaper=shared_reaper(), prefix=f"truth{slots}:"
        )
        self._seen: dict[str, tuple[list[Case], dict[str, Seen]]] = {}

    def family(self, name: str) -> tuple[list[Case], dict[str, Seen]]:
        """Return the cases of a family as they really are; they are played once."""
        if name not in self._seen:
            cases = FAMILIES[name]()
            seen = play(self.driver, cases)
            # A machine may be too slow to show what happens to a message that arrives in time.
            self._seen[name] = [case for case in cases if not came_too_late(case, seen[case.name])], seen
        return self._seen[name]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis for the real workers."""
    found = acquire(RedisRequest())
    yield found
    found.close()


@pytest.fixture(scope="module")
def real(server: RedisServer) -> Iterator[Real]:
    """A real worker."""
    found = Real(server, SLOTS)
    yield found
    found.driver.close()


@pytest.fixture
def simulated() -> CelerySimDriver:
    """The simulator, with as many slots."""
    return CelerySimDriver(options=SimulatorOptions(concurrency=SLOTS))


@pytest.mark.parametrize(("family", "seed"), [("single", 0), ("lasting", 0), ("trees", 0), ("trees", 1)])
def test_a_simulated_run_is_as_a_real_one(
    real: Real, simulated: CelerySimDriver, family: str, seed: int
) -> None:
    cases, shown = real.family(family)
    simulated.seed = seed

    found = differences({case.name: shown[case.name] for case in cases}, play(simulated, cases))

    assert not found, told(found, cases)


def came_too_late(case: Case, seen: Seen) -> bool:
    """Say whether a message expired on its way."""
    kinds = [event[0] for history in seen.histories.get(case.name, ()) for event in history]
    return case.options == EXPIRES and not case.revoked and "received" not in kinds


def without_errbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "_call_task_errbacks", lambda *args, **kwargs: None)


def without_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Request, "maybe_expire", lambda self: False)


def without_countdown(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = Task.signature_from_request

    def now(self: Any, *args: Any, **options: Any) -> Any:
        return original(self, *args, **{**options, "countdown": None})

    monkeypatch.setattr(Task, "signature_from_request", now)


def early(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = Timer.call_at

    def soon(self: Any, eta: float, *args: Any, **options: Any) -> Any:
        return original(self, eta - 0.15, *args, **options)

    monkeypatch.setattr(Timer, "call_at", soon)


@pytest.mark.parametrize(
    ("mutate", "concerns"),
    [
        (without_errbacks, "'errback': 'new'"),
        (without_expiry, "'expires'"),
        (without_countdown, "'kind': 'retry', 'times': 1, 'countdown'"),
        (early, "{'countdown': 0.2}"),
    ],
)
def test_a_celery_that_behaves_otherwise_is_noticed(
    real: Real,
    simulated: CelerySimDriver,
    monkeypatch: pytest.MonkeyPatch,
    mutate: Callable[[pytest.MonkeyPatch], None],
    concerns: str,
) -> None:
    cases, shown = real.family("single")
    chosen = [case for case in cases if concerns in repr(case)]
    mutate(monkeypatch)

    found = differences({case.name: shown[case.name] for case in chosen}, play(simulated, chosen))

    assert chosen
    assert found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_slot_takes_messages_by_priority_and_then_by_age(server: RedisServer, seed: int) -> None:
    priorities = [0, 9, 3, None, 5, 6, 2, 9, 0, 8, 3, 1]
    simulated = CelerySimDriver(options=SimulatorOptions(concurrency=1))
    simulated.seed = seed

    order = taken(simulated, priorities)

    assert order == real_order(server, priorities)
    assert order != sorted(order)


_orders: dict[str, list[int]] = {}


def real_order(server: RedisServer, priorities: Sequence[int | None]) -> list[int]:
    """Return how a real worker of one slot takes these messages."""
    if "order" not in _orders:
        driver = Real(server, 1).driver
        try:
            _orders["order"] = taken(driver, priorities)
        finally:
            driver.close()
    return _orders["order"]


def taken(driver: WorldDriver, priorities: Sequence[int | None]) -> list[int]:
    """Return the order in which messages are taken that were all there before."""
    app, queue = truth_tasks.app, "truth-priorities"
    driver.begin(app, {})
    try:
        truth_tasks.store().delete(truth_tasks.JOURNAL)
        send(queue, "first", None)
        driver.settle(timeout=20)
        app.control.cancel_consumer(queue, reply=True, timeout=5, limit=1)
        # What waits at the queue still takes one message more, and gives it back behind the next: wake it.
        send("celery", "last", None)
        driver.settle(timeout=20)
        for number, priority in enumerate(priorities):
            send(queue, str(number), priority)
        app.control.add_consumer(queue, reply=True, timeout=5, limit=1)
        driver.settle(timeout=20)
        entries = [json.loads(line)["run"] for line in truth_tasks.store().lrange(truth_tasks.JOURNAL, 2, -1)]
        return [int(run) for run in entries]
    finally:
        driver.reset()


def send(queue: str, name: str, priority: int | None) -> None:
    options: dict[str, Any] = {} if priority is None else {"priority": priority}
    truth_tasks.play.apply_async(kwargs={"does": {"kind": "return"}}, task_id=name, queue=queue, **options)


def told(found: dict[str, list[str]], cases: Sequence[Case]) -> str:
    """Return the differences, the smallest case first."""
    by_name = {case.name: case for case in cases}
    names = sorted(found, key=lambda name: len(repr(by_name[name])))
    lines = [f"{len(found)} of {len(cases)} cases differ"]
    for name in names[:5]:
        lines += [repr(by_name[name]), *(f"    {line[:1000]}" for line in found[name][:10])]
    return "\n".join(lines)
