"""A function's own events on their way to the store."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from taskservice.errors import BackendUnavailableError
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.workflow import WorkflowContext, WorkflowRegistry, workflow
from taskservice.workflow.definitions import new_run
from taskservice.workflow.emission import Emission, Emitter, Flusher, joined
from taskservice.workflow.runtime import WorkflowRuntime
from taskservice.workflow.store.base import apply_signal
from taskservice.workflow.store.memory import MemoryStore
from taskservice.workflow.transitions import Claim

WAIT = 20.0


def emission(data: Any, *, kind: str = "token", count: int = 1, coalesce: bool = True) -> Emission:
    return Emission(mark=(0, count), kind=kind, data=data, coalesce=coalesce)


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ("a", "b", "ab"),
        ({"delta": "a"}, {"delta": "b"}, {"delta": "ab"}),
        ({"text": "a", "by": 1}, {"text": "a", "by": 1}, {"text": "aa", "by": 1}),
        ({"text": "a", "by": 1}, {"text": "b", "by": 2}, None),
        ({"text": "a", "delta": "b"}, {"text": "c", "delta": "d"}, None),
        ({"percent": 1}, {"percent": 2}, None),
        (1, 2, None),
        ("a" * 20_000, "b" * 20_000, None),
    ],
)
def test_texts_are_joined_and_what_differs_otherwise_is_not(first: Any, second: Any, both: Any) -> None:
    found = joined(emission(first), emission(second, count=2))

    assert (None if found is None else (found.mark, found.data)) == (None if both is None else ((0, 2), both))


def test_only_who_wants_it_and_is_of_one_kind_is_joined() -> None:
    assert joined(emission("a", coalesce=False), emission("b")) is None
    assert joined(emission("a", kind="other"), emission("b")) is None


def test_the_first_event_goes_out_before_emit_returns_and_a_burst_in_few_calls() -> None:
    calls: list[list[Any]] = []
    sent = threading.Event()

    def send(events: Any) -> None:
        calls.append([data for _, _, data in events])
        if calls[-1][-1] == 200:
            sent.set()

    flusher = Flusher()
    emitter = Emitter(send, flusher)
    emitter.put(emission(1, coalesce=False), at_once=True)
    at_once = list(calls)
    for number in range(2, 201):
        emitter.put(emission(number, count=number, coalesce=False), at_once=True)

    assert at_once == [[1]]
    assert sent.wait(WAIT)
    flusher.close()
    assert [number for call in calls for number in call] == list(range(1, 201))
    assert len(calls) < 100


def test_what_a_store_did_not_take_is_sent_again_in_order() -> None:
    taken: list[Any] = []
    answers = iter([BackendUnavailableError("redis", "away")])
    done = threading.Event()

    def send(events: Any) -> None:
        for error in answers:
            raise error
        taken.extend(data for _, _, data in events)
        if len(taken) == 2:
            done.set()

    flusher = Flusher()
    emitter = Emitter(send, flusher)
    emitter.put(emission("a", coalesce=False), at_once=True)
    emitter.put(emission("b", count=2, coalesce=False), at_once=False)

    assert done.wait(WAIT)
    flusher.close()
    assert taken == ["a", "b"]


def test_what_a_crashed_worker_had_handed_over_is_not_joined_with_what_follows() -> None:
    registry, store, now = WorkflowRegistry(), MemoryStore(), [1000.0]

    @workflow("talking", registry=registry)
    def talking(ctx: WorkflowContext) -> None:
        for letter in "abcd":
            ctx.emit("token", letter, coalesce=True)

    run = new_run(talking, owner="", now=now[0], payload_limit=PAYLOAD_LIMIT)
    store.create(run, ("status", {"status": "WAITING"}))
    claimed = apply_signal(store, run.id, Claim(worker="crashed"), now=now[0]).run
    store.emit(run.id, claimed.lease.token, [((0, 2), "token", "ab")], now=now[0])
    now[0] += claimed.deadlines.lease + 1

    runtime = WorkflowRuntime(store, registry=registry, clock=lambda: now[0])
    runtime.runner.execute(run.id)
    runtime.close()

    events = store.events(run.id).events
    assert "".join(event.data for event in events if event.kind == "token") == "abcd"
