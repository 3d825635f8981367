"""What every workflow store does, over memory and over each kind of Redis."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice.backends.probing import connect_redis
from taskservice.backends.storage import Storage
from taskservice.errors import (
    BackendUnavailableError,
    LeaseLostError,
    PayloadError,
    QuestionError,
    ServiceClosedError,
    WorkflowExpiredError,
    WorkflowOverError,
)
from taskservice.workflow.model import (
    Deadlines,
    EntryKind,
    FailureReason,
    JournalEntry,
    Question,
    WorkflowEvent,
    WorkflowRun,
    WorkflowStatus,
)
from taskservice.workflow.store.base import WorkflowStore, apply_signal
from taskservice.workflow.store.memory import MemoryStore
from taskservice.workflow.store.redis import RedisStore
from taskservice.workflow.transitions import Answer, Ask, Claim, Overdue, Renew, Step, Stop, Succeed, decide

WAIT = 15.0
NOW = 1_700_000_000.25
SERVERS = ("server", "embedded", "fake")
REAL = ("server", "embedded")
STARTED = ("status", {"status": "WAITING"})
QUESTION = Question(id="q1", prompt="approve?", schema={"type": "boolean"}, data={"amount": 12})


@pytest.fixture(scope="session")
def redis_urls() -> Iterator[Callable[[str], str]]:
    """The URL of a server of each kind, started when first asked for."""
    servers: dict[str, Any] = {}

    def url(choice: str) -> str:
        if choice not in servers:
            servers[choice] = acquire(RedisRequest(choice=choice))
        return str(servers[choice].url)

    yield url
    for server in servers.values():
        server.close()


@pytest.fixture(params=REAL)
def client(request: pytest.FixtureRequest, redis_urls: Callable[[str], str]) -> Iterator[Redis]:
    """A client of a server that can be asked about itself."""
    with Redis.from_url(redis_urls(request.param)) as opened:
        yield opened


@pytest.fixture
def prefix() -> str:
    """Before every key of this test."""
    return f"{uuid4()}:"


@pytest.fixture
def redis_store(client: Redis, prefix: str) -> Iterator[RedisStore]:
    """A store on that server."""
    opened = RedisStore(Storage(client, prefix))
    yield opened
    opened.close()


@pytest.fixture(params=("memory", *SERVERS))
def store(
    request: pytest.FixtureRequest, redis_urls: Callable[[str], str], prefix: str
) -> Iterator[WorkflowStore]:
    """The implementation under test."""
    if request.param == "memory":
        yield MemoryStore()
        return

    with Redis.from_url(redis_urls(request.param)) as opened:
        found = RedisStore(Storage(opened, prefix))
        yield found
        found.close()


def start(store: WorkflowStore, *, deadlines: Deadlines | None = None, now: float = NOW) -> str:
    limits = deadlines or Deadlines()
    run = WorkflowRun(
        id=str(uuid4()),
        workflow="refund",
        owner="alice",
        args=["order-17"],
        kwargs={},
        created_at=now,
        updated_at=now,
        deadline=now + limits.busy,
        deadlines=limits,
    )
    assert store.create(run, STARTED)
    return run.id


def claim(store: WorkflowStore, run_id: str, now: float = NOW) -> int:
    return apply_signal(store, run_id, Claim(worker="w1"), now=now).run.lease.token


def ask(store: WorkflowStore, run_id: str, now: float = NOW) -> None:
    signal = Ask(token=claim(store, run_id, now), steps=1, question=QUESTION)
    apply_signal(store, run_id, signal, now=now, entry=entry(0, EntryKind.ASK, None))


def entry(index: int, kind: EntryKind, value: object) -> JournalEntry:
    return JournalEntry(index=index, kind=kind, name="approve?", value=value)


def load(store: WorkflowStore, run_id: str) -> WorkflowRun:
    run = store.load(run_id)
    assert run is not None
    return run


def ids(events: Sequence[WorkflowEvent]) -> list[int]:
    return [event.id for event in events]


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class Reader:
    """A client as it should be: it reads for itself when told to, and when it sees a hole."""

    def __init__(self, store: WorkflowStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._news = threading.Condition()
        self.calls: list[Sequence[WorkflowEvent]] = []
        self.ids: list[int] = []
        self.leave = store.watch(run_id, self._told)
        self._read()

    def _told(self, events: Sequence[WorkflowEvent]) -> None:
        with self._news:
            self.calls.append(events)
            self._news.notify()

    def _read(self) -> None:
        while page := self._store.events(self._run_id, after=len(self.ids)).events:
            self.ids += ids(page)

    def _take(self, events: Sequence[WorkflowEvent]) -> None:
        new = [number for number in ids(events) if number > len(self.ids)]
        if new and new[0] == len(self.ids) + 1:
            self.ids += new
        elif new or not events:
            self._read()

    def follow(self, last: int) -> list[int]:
        """Return the ids of all events once ``last`` is among them."""
        while len(self.ids) < last:
            with self._news:
                assert self._news.wait_for(lambda: self.calls, WAIT), f"only {len(self.ids)} of {last} came"
                calls, self.calls = self.calls, []
            for events in calls:
                self._take(events)
        return self.ids

    def wait_for_call(self) -> Sequence[WorkflowEvent]:
        with self._news:
            assert self._news.wait_for(lambda: self.calls, WAIT), "nobody told"
            return self.calls.pop(0)


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


def test_data_that_nobody_sweeps_goes_by_itself(redis_store: RedisStore, client: Redis, prefix: str) -> None:
    run_id = start(redis_store, deadlines=Deadlines(data=100))
    token = claim(redis_store, run_id)
    keys = [f"{prefix}wf:{kind}:{run_id}" for kind in ("run", "journal", "events")]
    redis_store.emit(run_id, token, [((0, 0), "p", 1)], now=NOW)

    assert 100 + 15 < client.ttl(keys[0]) <= 15 + 100 + 60
    question = Ask(token=token, steps=1, question=QUESTION)
    apply_signal(redis_store, run_id, question, now=NOW, entry=entry(0, EntryKind.ASK, None))
    assert redis_store.count_keys(run_id) == 3
    for key in keys:
        assert 100 < client.ttl(key) <= 100 + 60
    apply_signal(redis_store, run_id, Stop(), now=NOW)
    for key in keys:
        assert 100 - 30 < client.ttl(key) <= 100


def test_data_that_nobody_sweeps_does_not_pile_up_in_memory() -> None:
    store = MemoryStore()
    run_id = start(store, deadlines=Deadlines(data=100))
    ask(store, run_id)

    assert store.next_due() == NOW + 100
    start(store, now=NOW + 159)
    assert store.load(run_id) is not None
    start(store, now=NOW + 160)
    assert store.load(run_id) is None


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


def test_each_key_of_a_run_ends_by_itself(redis_store: RedisStore, client: Redis, prefix: str) -> None:
    run_id = start(redis_store)
    apply_signal(redis_store, run_id, Claim(worker="w1"), now=NOW)
    redis_store.emit(run_id, 1, [((0, 0), "p", 1)], now=NOW)
    question = Ask(token=1, steps=1, question=QUESTION, timeout=100)
    apply_signal(redis_store, run_id, question, now=NOW, entry=entry(0, EntryKind.ASK, None))

    keys = [f"{prefix}wf:{kind}:{run_id}" for kind in ("run", "journal", "events")]

    assert sorted(client.scan_iter(f"{prefix}*")) == sorted(
        key.encode() for key in (*keys, f"{prefix}wf:deadlines")
    )
    kept = 100 + 86400 + 60
    for key in keys:
        assert kept - 30 < client.ttl(key) <= kept
    apply_signal(redis_store, run_id, Stop(), now=NOW)
    for key in keys:
        assert 86400 - 30 < client.ttl(key) <= 86400


def test_no_deadline_stays_of_a_run_that_vanished(
    redis_store: RedisStore, client: Redis, prefix: str
) -> None:
    gone, there = start(redis_store), start(redis_store)
    client.delete(f"{prefix}wf:run:{gone}")

    assert redis_store.due(NOW + 10) == [there]

    assert client.zrange(f"{prefix}wf:deadlines", 0, -1) == [there.encode()]


def test_a_waiting_run_takes_less_than_4_kb(redis_store: RedisStore, client: Redis, prefix: str) -> None:
    run_id = start(redis_store)
    token = claim(redis_store, run_id)
    redis_store.emit(run_id, token, [((0, 0), "progress", {"percent": 50})], now=NOW)
    step = Step(token=token, steps=1)
    apply_signal(redis_store, run_id, step, now=NOW, entry=entry(0, EntryKind.STEP, {"amount": 12.5}))
    asked = Ask(token=token, steps=2, question=QUESTION)
    apply_signal(redis_store, run_id, asked, now=NOW, entry=entry(1, EntryKind.ASK, None))

    sizes = [client.memory_usage(f"{prefix}wf:{kind}:{run_id}") for kind in ("run", "journal", "events")]

    assert sum(size or 0 for size in sizes) < 4096, sizes
    apply_signal(redis_store, run_id, Answer(question_id="q1"), now=NOW)
    assert ids(redis_store.events(run_id).events) == [1, 2, 3, 4, 5]


def test_scripts_are_sent_again_to_a_server_that_lost_them(redis_store: RedisStore, client: Redis) -> None:
    run_id = start(redis_store)
    client.script_flush()

    redis_store.emit(run_id, claim(redis_store, run_id), [((0, 0), "p", 1)], now=NOW)

    assert ids(redis_store.events(run_id).events) == [1, 2, 3]


@pytest.mark.parametrize("client", ["server"], indirect=True)
def test_a_thousand_watched_runs_share_one_connection_that_is_idle(
    redis_store: RedisStore, client: Redis
) -> None:
    others = len(subscribers(client))
    run_ids = [start(redis_store) for _ in range(1000)]
    readers = [Reader(redis_store, run_id) for run_id in run_ids]
    for reader in readers:
        assert list(reader.wait_for_call()) == []

    assert len(subscribers(client)) == others + 1

    before = commands(client)
    for reader, run_id in zip(readers, run_ids, strict=True):
        apply_signal(redis_store, run_id, Stop(), now=NOW)
        reader.follow(2)
    busy = commands(client) - before
    # Per run: one load, one write, and the twelve that its script calls. The readers ask nothing.
    assert busy < 1000 * 14 + 100, busy


@pytest.mark.parametrize("client", ["server"], indirect=True)
def test_nobody_asks_anything_while_nothing_happens(redis_store: RedisStore, client: Redis) -> None:
    reader = Reader(redis_store, start(redis_store))
    reader.wait_for_call()

    before = commands(client)
    threading.Event().wait(1.0)

    # The first question about commands counts itself.
    assert commands(client) - before <= 2


def test_after_a_broken_connection_everybody_is_told(redis_store: RedisStore, client: Redis) -> None:
    run_ids = [start(redis_store) for _ in range(3)]
    readers = [Reader(redis_store, run_id) for run_id in run_ids]
    for reader in readers:
        assert list(reader.wait_for_call()) == []

    client.client_kill_filter(_type="pubsub")
    for reader in readers:
        assert list(reader.wait_for_call()) == []
    for run_id in run_ids:
        apply_signal(redis_store, run_id, Stop(), now=NOW)

    for reader in readers:
        assert reader.follow(2) == [1, 2]


def test_closing_ends_thread_and_connection(redis_store: RedisStore, client: Redis) -> None:
    before = len(subscribers(client))
    Reader(redis_store, start(redis_store)).wait_for_call()
    assert len(subscribers(client)) == before + 1

    redis_store.close()

    assert not [each for each in threading.enumerate() if each.name == "taskservice-events"]
    wait_until(lambda: len(subscribers(client)) == before, "the connection stayed")


def test_a_client_that_decodes_is_as_good(client: Redis, prefix: str) -> None:
    url = client.connection_pool.connection_kwargs
    with Redis(host=url["host"], port=url["port"], decode_responses=True) as decoding:
        store = RedisStore(Storage(decoding, prefix))
        run_id = start(store)
        reader = Reader(store, run_id)
        ask(store, run_id)

        assert reader.follow(3) == [1, 2, 3]
        assert load(store, run_id).question == QUESTION
        assert store.due(NOW + 1e6) == [run_id]
        assert len(store.journal(run_id)) == 1
        store.close()


def test_a_server_that_is_not_there_is_told_by_name() -> None:
    store = RedisStore(Storage(connect_redis("redis://127.0.0.1:1/0", 1.0), "x:"))

    with pytest.raises(BackendUnavailableError, match="start or configure the redis back end") as caught:
        store.load("r1")

    assert pickle.loads(pickle.dumps(caught.value)).backend == "redis"
    store.watch("r1", lambda _: None)
    store.close()


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


def subscribers(client: Redis) -> list[Any]:
    return list(client.client_list(_type="pubsub"))


def commands(client: Redis) -> int:
    stats: dict[str, Any] = client.info("commandstats")
    return sum(int(found["calls"]) for found in stats.values())
