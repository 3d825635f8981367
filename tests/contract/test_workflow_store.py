"""What every workflow store does, over memory and over each kind of Redis."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from taskservice.errors import (
    LeaseLostError,
    PayloadError,
    QuestionError,
    WorkflowExpiredError,
    WorkflowOverError,
)
from taskservice.workflow.model import (
    Deadlines,
    EntryKind,
    FailureReason,
    WorkflowEvent,
    WorkflowRun,
    WorkflowStatus,
)
from taskservice.workflow.store.base import WorkflowStore, apply_signal
from taskservice.workflow.store.memory import MemoryStore
from taskservice.workflow.transitions import Answer, Claim, Overdue, Renew, Step, Stop, Succeed, decide
from tests.contract.stored_runs import (
    NOW,
    QUESTION,
    STARTED,
    WAIT,
    Reader,
    ask,
    claim,
    entry,
    ids,
    load,
    start,
    wait_until,
)


def test_a_run_is_read_as_it_was_written(store: WorkflowStore) -> None:
    run = WorkflowRun(
        id="r1",
        workflow="refund",
        owner="al\nice ☃",
        args=[1, None, "ünï", [1.5], {"a": {"__type__": "uuid", "__value__": "x"}}],
        kwargs={"amount": Decimal("1.10"), "day": date(2026, 2, 3), "raw": b"\xff", "id": UUID(int=7)},
        created_at=NOW,
        updated_at=NOW + 0.1,
        deadline=NOW + 10.3,
        deadlines=Deadlines(busy=1.5, max_events=7),
    )

    assert store.create(run, STARTED)

    assert store.load("r1") == replace(run, last_event=1)
    assert store.events("r1").events == (WorkflowEvent(id=1, kind="status", data=STARTED[1], at=NOW),)


def test_an_id_is_taken_once(store: WorkflowStore) -> None:
    run_id = start(store)
    again = replace(load(store, run_id), owner="mallory")

    assert not store.create(again, STARTED)

    assert load(store, run_id).owner == "alice"
    assert ids(store.events(run_id).events) == [1]


def test_of_an_unknown_run_nothing_is_known(store: WorkflowStore) -> None:
    assert store.load("nobody") is None
    assert store.journal("nobody") == []
    assert store.events("nobody").events == ()
    assert not store.forget("nobody")
    with pytest.raises(WorkflowExpiredError):
        apply_signal(store, "nobody", Stop(), now=NOW)
    with pytest.raises(LeaseLostError):
        store.emit("nobody", 1, [((0, 1), "progress", 1)], now=NOW)


def test_what_is_no_json_is_refused_by_name_and_nothing_is_written(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)

    with pytest.raises(PayloadError, match=r"journal entry 'approve\?'"):
        apply_signal(
            store, run_id, Step(token=token, steps=1), now=NOW, entry=entry(0, EntryKind.STEP, object())
        )

    assert load(store, run_id).steps == 0
    assert store.journal(run_id) == []


def test_a_change_is_written_with_its_event_and_its_entry(store: WorkflowStore) -> None:
    run_id = start(store)
    ask(store, run_id)

    run = load(store, run_id)

    assert (run.status, run.version, run.steps) == (WorkflowStatus.INPUT, 2, 1)
    assert run.question == QUESTION
    assert run.lease.token == 1
    assert run.lease.worker == "w1"
    assert run.deadline == NOW + 86400
    assert store.journal(run_id) == [entry(0, EntryKind.ASK, None)]
    event = store.events(run_id, after=2).events[0]
    assert (event.id, event.kind, event.data["id"]) == (3, "question", "q1")


def test_the_store_keeps_what_decide_said(store: WorkflowStore) -> None:
    run_id = start(store)
    ask(store, run_id)
    apply_signal(store, run_id, Answer(question_id="q1"), now=NOW + 1)
    token = claim(store, run_id, NOW + 2)

    change = apply_signal(store, run_id, Succeed(token=token, result={"paid": True}), now=NOW + 3)

    assert store.load(run_id) == replace(change.run, last_event=6)
    assert [event.data.get("status") for event in store.events(run_id).events] == [
        "WAITING",
        "RUNNING",
        "INPUT",
        "INPUT_OVER",
        "RUNNING",
        "SUCCESS",
    ]


def test_who_saw_an_older_version_writes_nothing(store: WorkflowStore) -> None:
    run_id = start(store)
    before = load(store, run_id)
    claim(store, run_id)

    late = decide(before, Stop(), now=NOW)
    written = store.write(before, late, now=NOW, entry=entry(0, EntryKind.STEP, 1))

    assert not written
    assert load(store, run_id).status is WorkflowStatus.RUNNING
    assert store.journal(run_id) == []
    assert ids(store.events(run_id).events) == [1, 2]
    assert store.due(NOW + 20) == [run_id]


def test_one_of_many_answers_is_taken(store: WorkflowStore) -> None:
    run_id = start(store)
    ask(store, run_id)
    barrier = threading.Barrier(8)

    def answer(value: int) -> bool:
        barrier.wait(WAIT)
        try:
            apply_signal(
                store, run_id, Answer(question_id="q1"), now=NOW, entry=entry(0, EntryKind.INPUT, value)
            )
        except QuestionError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(answer, range(8)))

    assert sum(won) == 1
    assert [found.value for found in store.journal(run_id)] == [won.index(True)]
    assert load(store, run_id).status is WorkflowStatus.INPUT_OVER
    assert ids(store.events(run_id).events) == [1, 2, 3, 4]


def test_an_entry_takes_the_place_of_the_one_at_its_index(store: WorkflowStore) -> None:
    run_id = start(store)
    ask(store, run_id)

    apply_signal(store, run_id, Answer(question_id="q1"), now=NOW, entry=entry(0, EntryKind.INPUT, ""))

    assert store.journal(run_id) == [entry(0, EntryKind.INPUT, "")]


def test_the_journal_is_in_order(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)

    for index in range(12):
        signal = Step(token=token, steps=index + 1)
        apply_signal(store, run_id, signal, now=NOW, entry=entry(index, EntryKind.STEP, index))

    assert [found.index for found in store.journal(run_id)] == list(range(12))
    assert [found.value for found in store.journal(run_id)] == list(range(12))


def test_the_ids_of_events_have_no_gap_whoever_writes(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)

    def emit() -> None:
        for count in range(100):
            store.emit(run_id, token, [((0, count), "progress", count)], now=NOW)

    def claim_again() -> None:
        # Each renewal takes the version from under the others.
        for _ in range(30):
            apply_signal(store, run_id, Renew(token=token), now=NOW)

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(emit), pool.submit(claim_again), pool.submit(claim_again)]
    for each in done:
        each.result()
    apply_signal(store, run_id, Stop(), now=NOW)

    events = store.events(run_id).events
    assert ids(events) == list(range(1, 104))
    assert [event.data for event in events if event.kind == "progress"] == list(range(100))
    assert load(store, run_id).version == 62
    assert load(store, run_id).last_event == 103


def test_events_are_read_on_from_any_id(store: WorkflowStore) -> None:
    run_id = start(store)
    store.emit(run_id, claim(store, run_id), [((0, count), "p", count) for count in range(5)], now=NOW)

    for after in range(9):
        page = store.events(run_id, after=after)
        assert ids(page.events) == list(range(after + 1, 8))
        assert not page.trimmed
    assert ids(store.events(run_id, after=2, limit=3).events) == [3, 4, 5]


def test_what_was_trimmed_is_told(store: WorkflowStore) -> None:
    run_id = start(store, deadlines=Deadlines(max_events=3))
    store.emit(run_id, claim(store, run_id), [((0, count), "p", count) for count in range(8)], now=NOW)

    page = store.events(run_id, after=6)

    assert ids(page.events) == [8, 9, 10]
    assert page.trimmed
    assert not store.events(run_id, after=7).trimmed
    assert store.events(run_id, after=0).trimmed
    assert not store.events(run_id, after=10).trimmed


def test_an_event_that_was_accepted_is_not_taken_again(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)
    store.emit(run_id, token, [((0, 0), "p", "a"), ((0, 1), "p", "b")], now=NOW)
    store.emit(run_id, token, [((10, 0), "p", "c")], now=NOW)

    store.emit(run_id, token, [((0, 1), "p", "b"), ((2, 5), "p", "?"), ((10, 1), "p", "d")], now=NOW)

    assert [event.data for event in store.events(run_id, after=2).events] == ["a", "b", "c", "d"]
    assert load(store, run_id).seen_emit == (10, 1)


def test_an_event_is_news_of_the_run_and_leaves_its_version(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)
    before = load(store, run_id)

    store.emit(run_id, token, [((0, 0), "p", 1)], now=NOW + 5)

    assert load(store, run_id).updated_at == NOW + 5
    assert store.write(before, decide(before, Renew(token=token), now=NOW + 6), now=NOW + 6)
    assert load(store, run_id).updated_at == NOW + 5
    assert load(store, run_id).last_event == 3


def test_events_are_refused_from_who_does_not_have_the_run(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)
    apply_signal(store, run_id, Claim(worker="w2"), now=NOW + 100)
    event = [((0, 0), "p", 1)]

    with pytest.raises(LeaseLostError):
        store.emit(run_id, token, event, now=NOW)
    store.emit(run_id, token + 1, event, now=NOW)
    apply_signal(store, run_id, Stop(), now=NOW)
    with pytest.raises(LeaseLostError):
        store.emit(run_id, token + 1, event, now=NOW)

    assert ids(store.events(run_id, after=2).events) == [3, 4]


def test_runs_are_due_by_their_deadline_the_longest_first(store: WorkflowStore) -> None:
    late = start(store, deadlines=Deadlines(busy=3))
    first = start(store, deadlines=Deadlines(busy=1))
    second = start(store, deadlines=Deadlines(busy=2))

    assert store.due(NOW + 0.999) == []
    assert store.due(NOW + 1) == [first]
    assert store.due(NOW + 9) == [first, second, late]
    assert store.due(NOW + 9, limit=2) == [first, second]


def test_a_run_is_due_by_its_last_deadline_and_never_when_over(store: WorkflowStore) -> None:
    asked, over = start(store), start(store)
    ask(store, asked)
    apply_signal(store, over, Stop(), now=NOW)

    assert store.due(NOW + 86399) == []
    assert store.due(NOW + 86400) == [asked]
    apply_signal(store, asked, Overdue(), now=NOW + 86400)
    assert store.due(NOW + 86400 * 1.5) == []
    assert load(store, asked).reason is FailureReason.INPUT_TIMEOUT


def test_a_forgotten_run_leaves_nothing(store: WorkflowStore) -> None:
    run_id = start(store)
    ask(store, run_id)

    assert store.forget(run_id)

    assert store.load(run_id) is None
    assert store.journal(run_id) == []
    assert store.events(run_id).events == ()
    assert store.due(NOW + 1e6) == []
    assert not store.forget(run_id)


def test_a_run_that_is_over_is_kept_for_a_while_and_gone_after_it(store: WorkflowStore) -> None:
    run_id = start(store, deadlines=Deadlines(kept=0.2))
    apply_signal(store, run_id, Stop(), now=NOW)

    def gone() -> bool:
        # Memory goes by the instants that come in, Redis by its own.
        store.due(NOW + 1)
        return store.load(run_id) is None

    wait_until(gone, "the run stayed")
    assert store.events(run_id).events == ()
    with pytest.raises(WorkflowExpiredError):
        apply_signal(store, run_id, Stop(), now=NOW)


def test_of_a_run_that_expires_the_last_event_is_heard_and_nothing_is_left(store: WorkflowStore) -> None:
    run_id = start(store, deadlines=Deadlines(data=5))
    ask(store, run_id)
    reader = Reader(store, run_id)
    if not store.local:
        # Confirmed by the server: who comes later can read nothing any more.
        reader.wait_for_call()

    assert store.due(NOW + 4.9) == []
    assert store.due(NOW + 5) == [run_id]
    change = apply_signal(store, run_id, Overdue(), now=NOW + 5)

    assert change.run.reason is FailureReason.EXPIRED
    assert reader.follow(4) == [1, 2, 3, 4]
    assert store.load(run_id) is None
    assert (store.journal(run_id), store.events(run_id).events, store.due(NOW + 1e6)) == ([], (), [])
    with pytest.raises(WorkflowExpiredError):
        apply_signal(store, run_id, Stop(), now=NOW + 5)


def test_what_a_function_emits_keeps_the_data(store: WorkflowStore) -> None:
    run_id = start(store, deadlines=Deadlines(data=5))
    token = claim(store, run_id)
    store.emit(run_id, token, [((0, 0), "p", 1)], now=NOW + 4)

    assert apply_signal(store, run_id, Overdue(), now=NOW + 5).run.reason is None
    assert load(store, run_id).gone_at == NOW + 9
    assert apply_signal(store, run_id, Overdue(), now=NOW + 9).run.reason is FailureReason.EXPIRED


def test_data_that_nobody_sweeps_does_not_pile_up_in_memory() -> None:
    store = MemoryStore()
    run_id = start(store, deadlines=Deadlines(data=100))
    ask(store, run_id)

    assert store.next_due() == NOW + 100
    start(store, now=NOW + 159)
    assert store.load(run_id) is not None
    start(store, now=NOW + 160)
    assert store.load(run_id) is None


def test_only_memory_is_local(store: WorkflowStore) -> None:
    assert store.local == isinstance(store, MemoryStore)


def test_finished_runs_do_not_pile_up_in_memory() -> None:
    store = MemoryStore()
    first = start(store)
    apply_signal(store, first, Stop(), now=NOW)
    second = start(store, now=NOW + 86400 - 1)

    assert store.load(first) is not None
    third = start(store, now=NOW + 86400)
    assert store.load(first) is None
    assert load(store, second)
    assert load(store, third)


def test_a_stopped_run_never_succeeds(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)
    before = load(store, run_id)
    apply_signal(store, run_id, Stop(), now=NOW)

    late = decide(before, Succeed(token=token, result=1), now=NOW)

    assert not store.write(before, late, now=NOW)
    with pytest.raises(WorkflowOverError):
        apply_signal(store, run_id, Succeed(token=token, result=1), now=NOW)
    assert load(store, run_id).reason is FailureReason.STOPPED
