"""Random interleavings of all that can happen to workflow runs, against a simple model of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice.backends.storage import Storage
from taskservice.errors import (
    LeaseLostError,
    QuestionError,
    RunNotClaimableError,
    WorkflowExpiredError,
    WorkflowOverError,
)
from taskservice.workflow.model import (
    Deadlines,
    EntryKind,
    FailureReason,
    JournalEntry,
    Question,
    WorkflowRun,
    WorkflowStatus,
)
from taskservice.workflow.store.base import WorkflowStore, apply_signal
from taskservice.workflow.store.memory import MemoryStore
from taskservice.workflow.store.redis import RedisStore
from taskservice.workflow.transitions import (
    Answer,
    Ask,
    Claim,
    Fail,
    Overdue,
    Renew,
    Signal,
    Step,
    Stop,
    Succeed,
    decide,
)

BUSY, INPUT, STALE, LEASE, DATA = 10.0, 50.0, 20.0, 15.0, 30.0
LIMITS = Deadlines(busy=BUSY, input=INPUT, stale=STALE, lease=LEASE, kept=1e9)
EDGES = {
    ("WAITING", "RUNNING"),
    ("RUNNING", "INPUT"),
    ("INPUT", "INPUT_OVER"),
    ("INPUT_OVER", "RUNNING"),
    ("RUNNING", "SUCCESS"),
    ("WAITING", "FAILED"),
    ("RUNNING", "FAILED"),
    ("INPUT", "FAILED"),
    ("INPUT_OVER", "FAILED"),
}
FINAL = {"SUCCESS", "FAILED"}
BEHIND = st.sampled_from([0, 0, 0, 0, 1, 2])
# Weighted, so that runs get somewhere before they end.
ACTS = [
    *["claim"] * 6,
    *["answer"] * 5,
    *["emit", "ask"] * 4,
    *["step", "renew"] * 2,
    *["succeed", "fail", "stop", "overdue"],
]
LEAP = st.sampled_from([*[0.0] * 16, 0.5, 0.5, 4.0, 4.0, 9.0, 10.0, 15.0, 51.0])


@dataclass
class Expected:
    """What the model thinks of a run."""

    id: str
    since: float
    news: float
    status: str = "WAITING"
    reason: str | None = None
    token: int = 0
    lease: float = 0.0
    question: str | None = None
    version: int = 0
    journal: list[tuple[str, Any]] = field(default_factory=list)
    events: int = 1
    emitted: int = 0
    stopped: bool = False
    vanished: bool = False
    """Its data is gone."""

    def deadline(self) -> float | None:
        if self.status in FINAL:
            return None
        if self.status == "INPUT":
            return self.since + INPUT
        if self.status == "RUNNING":
            return self.lease
        return self.since + BUSY


class Machine(RuleBasedStateMachine):
    """Users, workers that live and die, and sweepers, at a few runs; time moves by leaps."""

    runs = Bundle("runs")
    """Ids."""
    snapshots = Bundle("snapshots")
    """Runs as somebody saw them some time."""

    def __init__(self, store: WorkflowStore, data: float | None = None) -> None:
        super().__init__()
        self.store = store
        self.data = data
        self.now = 1_000.0
        self.model: dict[str, Expected] = {}
        self.seen: dict[str, int] = {}
        self.questions: list[str] = []

    @initialize(target=runs)
    def begin(self) -> str:
        return self.new_run()

    @precondition(lambda self: len(self.model) < 3)
    @rule(target=runs)
    def start(self) -> str:
        return self.new_run()

    def new_run(self) -> str:
        run_id = str(uuid4())
        run = WorkflowRun(
            id=run_id,
            workflow="w",
            owner="o",
            args=[],
            kwargs={},
            created_at=self.now,
            updated_at=self.now,
            deadline=self.now + BUSY,
            deadlines=replace(LIMITS, data=self.data),
        )
        assert self.store.create(run, ("status", {"status": "WAITING"}))
        self.model[run_id] = Expected(id=run_id, since=self.now, news=self.now)
        return run_id

    @rule(run_id=runs, what=st.sampled_from(ACTS), behind=BEHIND, small=st.integers(0, 2), leap=LEAP)
    def act(self, run_id: str, what: str, behind: int, small: int, leap: float) -> None:
        self.now += leap
        # The store may find out by this instant what is gone: before the act, so that we know it too.
        self.store.due(self.now)
        self.forget_what_is_gone()
        getattr(self, what)(run_id, behind, small)

    def claim(self, run_id: str, _: int, __: int) -> None:
        known = self.model[run_id]
        free = (known.status == "RUNNING" and known.lease <= self.now) or (
            known.status in {"WAITING", "INPUT_OVER"} and self.now < known.since + BUSY
        )
        if self.is_gone(known) or (free and known.status == "RUNNING" and self.is_silent(known)):
            self.refused(run_id, Claim(worker="w"), WorkflowExpiredError)
        elif known.status in FINAL:
            self.refused(run_id, Claim(worker="w"), WorkflowOverError)
        elif not free:
            self.refused(run_id, Claim(worker="w"), RunNotClaimableError)
        else:
            run = self.accepted(run_id, Claim(worker="w"))
            assert run.lease.token == known.token + 1
            if known.status != "RUNNING":
                known.events += 1
            known.status, known.since, known.token = "RUNNING", self.now, run.lease.token
            self.renewed(known, news=True)

    def step(self, run_id: str, behind: int, small: int) -> None:
        ticket = self.ticket(run_id, behind)
        known = self.model[ticket[0]]
        index = len(known.journal)
        entry = JournalEntry(index=index, kind=EntryKind.STEP, name="s", value=small)
        if self.works(ticket, Step(token=ticket[1], steps=index + 1), entry):
            known.journal.append(("step", small))
            self.renewed(known, news=True)

    def renew(self, run_id: str, behind: int, small: int) -> None:
        ticket = self.ticket(run_id, behind)
        if self.works(ticket, Renew(token=ticket[1])):
            self.renewed(self.model[ticket[0]])

    def ask(self, run_id: str, behind: int, small: int) -> None:
        ticket = self.ticket(run_id, behind)
        known = self.model[ticket[0]]
        index = len(known.journal)
        question = Question(id=f"q{len(self.questions)}", prompt="?")
        entry = JournalEntry(index=index, kind=EntryKind.ASK, name="?")
        if self.works(ticket, Ask(token=ticket[1], steps=index + 1, question=question), entry):
            self.questions.append(question.id)
            known.journal.append(("ask", None))
            known.status, known.since, known.question = "INPUT", self.now, question.id
            known.news = self.now
            known.events += 1

    def succeed(self, run_id: str, behind: int, small: int) -> None:
        ticket = self.ticket(run_id, behind)
        if self.works(ticket, Succeed(token=ticket[1], result=7)):
            self.ended(self.model[ticket[0]], "SUCCESS", None)

    def fail(self, run_id: str, behind: int, small: int) -> None:
        ticket = self.ticket(run_id, behind)
        if self.works(ticket, Fail(token=ticket[1], reason=FailureReason.ERROR)):
            self.ended(self.model[ticket[0]], "FAILED", "error")

    def emit(self, run_id: str, behind: int, small: int) -> None:
        known = self.model[run_id]
        many = 2 - small
        # As a function does that is run again: first what it emitted before.
        events = [
            ((0, count), "p", count) for count in range(max(0, known.emitted - small), known.emitted + many)
        ]
        _, token = ticket = self.ticket(run_id, behind)
        if not self.holds(ticket):
            with pytest.raises(LeaseLostError):
                self.store.emit(run_id, token, events, now=self.now)
            return
        self.store.emit(run_id, token, events, now=self.now)
        known.events += many
        known.emitted += many
        if many:
            known.news = self.now

    def answer(self, run_id: str, behind: int, small: int) -> None:
        known, value = self.model[run_id], small
        asked = self.questions[-behind] if 0 < behind <= len(self.questions) else known.question or "none"
        signal = Answer(question_id=asked)
        entry = JournalEntry(
            index=max(0, len(known.journal) - 1), kind=EntryKind.INPUT, name="?", value=value
        )
        if self.is_gone(known):
            self.refused(run_id, signal, WorkflowExpiredError, entry)
        elif known.status in FINAL:
            self.refused(run_id, signal, WorkflowOverError, entry)
        elif known.status != "INPUT" or asked != known.question or self.now >= known.since + INPUT:
            self.refused(run_id, signal, QuestionError, entry)
        else:
            self.accepted(run_id, signal, entry)
            known.journal[-1] = ("input", value)
            known.status, known.since, known.question = "INPUT_OVER", self.now, None
            known.news = self.now
            known.events += 1

    def stop(self, run_id: str, _: int, __: int) -> None:
        known = self.model[run_id]
        if self.is_gone(known):
            self.refused(run_id, Stop(), WorkflowExpiredError)
        elif known.status in FINAL:
            self.refused(run_id, Stop(), WorkflowOverError)
        else:
            self.accepted(run_id, Stop())
            known.stopped = True
            self.ended(known, "FAILED", "stopped")

    @rule()
    def sweep(self) -> None:
        due = self.store.due(self.now)
        assert len(due) == len(set(due))
        self.forget_what_is_gone()
        assert set(due) == {known.id for known in self.model.values() if self.is_due(known)}
        for run_id in due:
            self.swept(run_id)

    def overdue(self, run_id: str, _: int, __: int) -> None:
        known = self.model[run_id]
        if known.vanished:
            self.refused(run_id, Overdue(), WorkflowExpiredError)
        elif known.status in FINAL:
            self.refused(run_id, Overdue(), WorkflowOverError)
        elif self.is_due(known):
            self.swept(run_id)
        else:
            self.refused(run_id, Overdue(), RunNotClaimableError)

    @rule(target=snapshots, run_id=runs)
    def look(self, run_id: str) -> WorkflowRun | None:
        run = self.store.load(run_id)
        return None if self.model[run_id].vanished else run

    @rule(seen=snapshots)
    def write_on_what_was_seen(self, seen: WorkflowRun | None) -> None:
        if seen is None:
            return
        known = self.model[seen.id]
        if not seen.status.final and not seen.is_gone(self.now) and seen.version != known.version:
            change = decide(seen, Stop(), now=self.now)
            assert not self.store.write(seen, change, now=self.now)

    def is_silent(self, known: Expected) -> bool:
        """Whether its data is kept no longer, if nobody works on it."""
        return self.data is not None and known.news + self.data <= self.now

    def is_gone(self, known: Expected) -> bool:
        return known.vanished or (known.status != "RUNNING" and self.is_silent(known))

    @invariant()
    def forget_what_is_gone(self) -> None:
        # Unswept data goes by the instants that come in, or by the server's clock: when is the store's own.
        for known in self.model.values():
            if self.store.load(known.id) is None:
                assert self.is_silent(known)
                known.vanished = True

    def is_due(self, known: Expected) -> bool:
        if known.vanished:
            return False
        run = self.store.load(known.id)
        assert run is not None
        # When a run is looked at that has a worker is the machine's own affair, within these bounds.
        if known.status == "RUNNING":
            assert run.deadline is not None
            assert run.deadline <= max(known.lease, self.now + LEASE)
            return run.deadline <= self.now
        if known.status in {"WAITING", "INPUT_OVER"}:
            assert run.deadline is not None
            assert run.deadline <= known.since + BUSY
            return run.deadline <= self.now
        deadline = known.deadline()
        if deadline is not None and self.data is not None:
            deadline = min(deadline, known.news + self.data)
        assert run.deadline == deadline
        return deadline is not None and deadline <= self.now

    def swept(self, run_id: str) -> None:
        known = self.model[run_id]
        change = apply_signal(self.store, run_id, Overdue(), now=self.now)
        known.version += 1
        if self.is_silent(known):
            assert change.run.reason is FailureReason.EXPIRED
            assert self.store.load(run_id) is None
            known.vanished = True
        elif known.status == "INPUT":
            self.ended(known, "FAILED", "input_timeout")
        elif known.status != "RUNNING" and known.since + BUSY <= self.now:
            self.ended(known, "FAILED", "busy")
        elif known.status != "RUNNING":
            assert change.orphaned
            assert change.run.deadline is not None
            assert self.now < change.run.deadline <= known.since + BUSY
        elif known.news + STALE <= self.now:
            self.ended(known, "FAILED", "stale")
        else:
            assert change.orphaned == (known.lease <= self.now)
            assert change.run.deadline is not None
            assert change.run.deadline > self.now

    def ticket(self, run_id: str, behind: int) -> tuple[str, int]:
        """What a worker got when it claimed the run; who is behind does not know that it is dead."""
        return run_id, self.model[run_id].token - behind

    def holds(self, ticket: tuple[str, int]) -> bool:
        known = self.model[ticket[0]]
        return known.status == "RUNNING" and known.token == ticket[1] and not known.vanished

    def works(self, ticket: tuple[str, int], signal: Signal, entry: JournalEntry | None = None) -> bool:
        if self.holds(ticket):
            self.accepted(ticket[0], signal, entry)
            return True
        known = self.model[ticket[0]]
        refused = WorkflowOverError if known.status in FINAL else LeaseLostError
        self.refused(ticket[0], signal, WorkflowExpiredError if self.is_gone(known) else refused, entry)
        return False

    def accepted(self, run_id: str, signal: Signal, entry: JournalEntry | None = None) -> WorkflowRun:
        run = apply_signal(self.store, run_id, signal, now=self.now, entry=entry).run
        self.model[run_id].version += 1
        return run

    def refused(
        self, run_id: str, signal: Signal, error: type[Exception], entry: JournalEntry | None = None
    ) -> None:
        with pytest.raises(error):
            apply_signal(self.store, run_id, signal, now=self.now, entry=entry)

    def renewed(self, known: Expected, *, news: bool = False) -> None:
        known.lease = self.now + LEASE
        if news:
            known.news = self.now

    def ended(self, known: Expected, status: str, reason: str | None) -> None:
        known.status, known.reason, known.question = status, reason, None
        known.news = self.now
        known.token += 1
        known.events += 1

    @invariant()
    def runs_are_as_expected(self) -> None:
        for known in self.model.values():
            run = self.store.load(known.id)
            if run is None:
                continue
            assert (run.status.value, run.version) == (known.status, known.version)
            assert run.lease.token == known.token
            assert (None if run.reason is None else run.reason.value) == known.reason
            assert (None if run.question is None else run.question.id) == known.question
            assert (run.deadline is None) == run.status.final
            assert run.last_event == known.events
            assert run.updated_at >= known.news
            assert not (known.stopped and run.status is WorkflowStatus.SUCCESS)

    @invariant()
    def versions_only_grow(self) -> None:
        for known in self.model.values():
            assert known.version >= self.seen.get(known.id, 0)
            self.seen[known.id] = known.version

    @invariant()
    def journals_are_as_expected(self) -> None:
        for known in self.model.values():
            journal = self.store.journal(known.id)
            if known.vanished:
                assert not journal
                continue
            assert [(found.kind.value, found.value) for found in journal] == known.journal

    def teardown(self) -> None:
        for known in self.model.values():
            events = self.store.events(known.id, limit=10_000).events
            if known.vanished:
                assert not events
                continue
            assert [event.id for event in events] == list(range(1, known.events + 1))
            passed = [event.data["status"] for event in events if event.kind in {"status", "question"}]
            assert passed[0] == "WAITING"
            assert set(pairwise(passed)) <= EDGES
            assert self.store.forget(known.id)
            with pytest.raises(WorkflowExpiredError):
                apply_signal(self.store, known.id, Stop(), now=self.now)
        assert self.store.due(self.now + 1e6) == []


@pytest.fixture(scope="module")
def redis_client() -> Iterator[Redis]:
    """A client of a server of our own."""
    server = acquire(RedisRequest())
    with Redis.from_url(server.url) as client:
        yield client
    server.close()


@pytest.fixture(params=["memory", "redis"])
def make_store(request: pytest.FixtureRequest) -> Callable[[], WorkflowStore]:
    """Makes an empty store."""
    if request.param == "memory":
        return MemoryStore

    client: Redis = request.getfixturevalue("redis_client")
    return lambda: RedisStore(Storage(client, f"{uuid4()}:"))


@pytest.mark.parametrize("data", [None, DATA])
def test_whatever_happens_in_whatever_order_runs_keep_their_promises(
    make_store: Callable[[], WorkflowStore], data: float | None
) -> None:
    class MachineOfThisStore(Machine):
        def __init__(self) -> None:
            super().__init__(make_store(), data)

    run_state_machine_as_test(
        MachineOfThisStore,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
