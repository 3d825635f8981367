"""Who watches a run in any workflow store is told of each event."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from taskservice.errors import ServiceClosedError
from taskservice.workflow.store.base import WorkflowStore, apply_signal
from taskservice.workflow.transitions import Stop
from tests.contract.stored_runs import NOW, WAIT, Reader, claim, start

if TYPE_CHECKING:
    from taskservice.workflow.model import WorkflowEvent


def test_watchers_are_told_each_event_in_order(store: WorkflowStore) -> None:
    run_id, other = start(store), start(store)
    token = claim(store, run_id)
    readers = [Reader(store, run_id) for _ in range(3)]
    stranger = Reader(store, other)

    for count in range(20):
        store.emit(run_id, token, [((0, count), "p", count)], now=NOW)
    apply_signal(store, run_id, Stop(), now=NOW)

    for reader in readers:
        assert reader.follow(23) == list(range(1, 24))
    assert stranger.ids == [1]
    assert not any(stranger.calls)


def test_no_event_is_lost_between_watching_and_reading(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)
    turns = threading.Semaphore(0)

    def emit() -> None:
        for count in range(600):
            if count % 20 == 0:
                assert turns.acquire(timeout=WAIT)
            store.emit(run_id, token, [((0, count), "p", count)], now=NOW)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(emit)
        readers: list[Reader] = []
        for number in range(30):
            # Twenty events come while this one does.
            turns.release()
            readers.append(Reader(store, run_id))
            if number % 5 == 4:
                readers.pop(0).leave()
    done.result()

    for reader in readers:
        assert reader.follow(602) == list(range(1, 603))


def test_of_two_who_come_at_once_both_are_told(store: WorkflowStore) -> None:
    for _ in range(20):
        run_id = start(store)
        token = claim(store, run_id)

        # The second comes while the server has not yet confirmed for the first.
        readers = [Reader(store, run_id), Reader(store, run_id)]
        store.emit(run_id, token, [((0, 0), "p", 1)], now=NOW)

        for reader in readers:
            assert reader.follow(3) == [1, 2, 3]
            reader.leave()


def test_who_leaves_is_told_nothing_more(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)
    gone, stays = Reader(store, run_id), Reader(store, run_id)
    stays.follow(2)
    gone.leave()
    gone.leave()
    told = len(gone.calls)

    store.emit(run_id, token, [((0, 0), "p", 1)], now=NOW)

    assert stays.follow(3) == [1, 2, 3]
    assert not any(gone.calls[told:])


def test_a_watcher_that_raises_harms_no_other(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)

    def fail(_: Sequence[WorkflowEvent]) -> None:
        raise ValueError("nobody expects this")

    store.watch(run_id, fail)
    reader = Reader(store, run_id)

    store.emit(run_id, token, [((0, 0), "p", 1)], now=NOW)

    assert reader.follow(3) == [1, 2, 3]


def test_large_events_and_many_at_once_arrive(store: WorkflowStore) -> None:
    run_id = start(store)
    token = claim(store, run_id)
    reader = Reader(store, run_id)

    store.emit(run_id, token, [((0, 0), "p", "x" * 100_000), ((0, 1), "p", "line\nline")], now=NOW)
    store.emit(run_id, token, [((0, 2 + count), "p", count) for count in range(1000)], now=NOW)

    assert reader.follow(1004) == list(range(1, 1005))
    assert len(store.events(run_id, after=2, limit=1).events[0].data) == 100_000


def test_a_closed_store_is_not_watched(store: WorkflowStore) -> None:
    run_id = start(store)
    Reader(store, run_id)

    store.close()
    store.close()

    with pytest.raises(ServiceClosedError):
        store.watch(run_id, lambda _: None)
