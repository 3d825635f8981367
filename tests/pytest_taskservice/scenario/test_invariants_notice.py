"""A world that is broken in one way is found out: by a line of a story, or by what holds in all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.task import Task as CeleryTask
from celery.worker.request import Request
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.asynchronous.timer import Timer

from pytest_taskservice.drivers import workflow_direct, workflow_sim, workflow_story
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.load import load_text
from pytest_taskservice.scenario.model import INVARIANTS, Scenario
from pytest_taskservice.simulator.celery.pool import SimulatedPool
from pytest_taskservice.simulator.celery.record import Record
from taskservice.workflow.events import next_events as told
from tests.pytest_taskservice.scenario.test_library import first_seed, played, stories

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.scenario.engine import Verdict

Patch = pytest.MonkeyPatch
QUEUED = """\
schema: 1
name: two runs and one slot
config: {celery: {task_acks_late: false}}
workers: {count: 1, concurrency: 1}
tasks: {hog: {runs_for: 5s}}
steps: [{launch: hog, count: 2, as: hogs}]
expect: {eventually: [{within: 20s, of: hogs, status: SUCCESS}]}
"""
STORIES: dict[str, Scenario] = {
    story.title: story for story in (*load_text(QUEUED, "a.yaml"), *(case.values[0] for case in stories()))
}
NAMES = {sentence: name for name, sentence in INVARIANTS.items()}


def expiry_is_ignored(patch: Patch) -> None:
    patch.setattr(Request, "maybe_expire", lambda self: False)


def retries_do_not_wait(patch: Patch) -> None:
    whole: Any = CeleryTask.retry

    def retry(self: Any, **options: Any) -> Any:
        return whole(self, **{**options, "countdown": 0.0})

    patch.setattr(CeleryTask, "retry", retry)


def timers_are_early(patch: Patch) -> None:
    whole = Timer.call_at
    patch.setattr(Timer, "call_at", lambda self, eta, *args, **named: whole(self, eta - 1, *args, **named))


def a_worker_has_no_bound(patch: Patch) -> None:
    def acquire(self: Any, callback: Callable[..., Any], *args: Any, **named: Any) -> bool:
        callback(*args, **named)
        return True

    patch.setattr(LaxBoundedSemaphore, "acquire", acquire)
    patch.setattr(SimulatedPool, "take_pid", lambda self, job: id(job))


def a_run_is_lost(patch: Patch) -> None:
    """A process takes a body and does nothing."""
    patch.setattr("pytest_taskservice.simulator.celery.pool.Job.run", lambda self: None)


def an_end_is_told_twice(patch: Patch) -> None:
    def succeeded(self: Record, request: Any, worker: str, result: str, runtime: float) -> None:
        whole(self, request, worker, result, runtime)
        self.note(EventKind.FAILED, run=request["id"], task=request["task"], worker=worker)

    whole = Record.succeeded
    patch.setattr(Record, "succeeded", succeeded)


def nobody_tells_of_sending(patch: Patch) -> None:
    patch.setattr(Record, "sent", lambda self, *args, **named: None)


def results_are_stored_wrongly(patch: Patch) -> None:
    found = workflow_story.outcome_of
    patch.setattr(workflow_direct, "outcome_of", lambda run: replace(found(run), status="FAILED"))


def stops_are_not_heard(patch: Patch) -> None:
    patch.setattr(workflow_direct, "apply_signal", lambda *args, **named: None)


def an_event_is_dropped(patch: Patch) -> None:
    whole = workflow_sim._tell

    def tell(world: Any, workflows: Any, run: Any, event: Any) -> None:
        if event.id != 3:
            whole(world, workflows, run, event)

    patch.setattr(workflow_sim, "_tell", tell)


def an_end_is_told_of_a_workflow_twice(patch: Patch) -> None:
    whole = workflow_sim._tell

    def tell(world: Any, workflows: Any, run: Any, event: Any) -> None:
        whole(world, workflows, run, event)
        if event.kind == "status" and event.data["status"] == "SUCCESS":
            whole(world, workflows, run, event)

    patch.setattr(workflow_sim, "_tell", tell)


def no_run_is_said_to_go_on(patch: Patch) -> None:
    whole = workflow_sim._tell

    def tell(world: Any, workflows: Any, run: Any, event: Any) -> None:
        if event.kind == "status" and event.data["status"] == "INPUT_OVER":
            event = replace(event, data={**event.data, "status": "SUCCESS"})
        whole(world, workflows, run, event)

    patch.setattr(workflow_sim, "_tell", tell)


def a_client_misses_one(patch: Patch) -> None:
    def next_events(*args: Any, **named: Any) -> Any:
        return [event for event in told(*args, **named) if event.id != 3]

    patch.setattr(workflow_direct, "next_events", next_events)


def deadlines(change: Callable[[str, float], float]) -> Callable[[Patch], None]:
    def mutate(patch: Patch) -> None:
        whole: Any = workflow_story._limits
        patch.setattr(
            workflow_story,
            "_limits",
            lambda config: {name: change(name, seconds) for name, seconds in whole(config).items()},
        )

    return mutate


BROKEN: list[tuple[Callable[[Patch], None], str, set[str]]] = [
    (expiry_is_ignored, "a run expires before anybody has time for it", {"late eventually", "late never"}),
    (retries_do_not_wait, "each wait is twice as long as the one before", {"timers", "payment at"}),
    (timers_are_early, "a countdown begins no sooner and not much later", {"timers", "run at"}),
    (a_worker_has_no_bound, "two runs and one slot", {"slots"}),
    (a_run_is_lost, "a slot is free in time", {"one_final_state"}),
    (an_end_is_told_twice, "a run returns its result[number-42]", {"one_final_state", "final_is_final"}),
    (nobody_tells_of_sending, "a run returns its result[number-42]", {"nothing_unsent"}),
    (results_are_stored_wrongly, "a user answers", {"one_truth"}),
    (
        stops_are_not_heard,
        "stopped while it waits for its user[waits_for_its_user-1s]",
        {"run eventually"},
    ),
    (an_event_is_dropped, "a client is cut off and comes back", {"one_truth"}),
    (an_end_is_told_of_a_workflow_twice, "a user answers", {"final_is_final"}),
    (no_run_is_said_to_go_on, "a user answers", {"state_machine"}),
    (a_client_misses_one, "a client is cut off and comes back", {"client_stream"}),
    (deadlines(lambda name, seconds: seconds - 1), "all workers busy", {"timers"}),
    (deadlines(lambda name, seconds: seconds - 7200), "a day of silence", {"timers", "run at"}),
    (
        deadlines(lambda name, seconds: seconds * 100),
        "input after the workflow's data expired[input]",
        {"late eventually", "run eventually"},
    ),
]


@pytest.mark.parametrize(("mutate", "title", "named"), BROKEN)
def test_what_is_broken_is_named(
    mutate: Callable[[Patch], None], title: str, named: set[str], monkeypatch: Patch
) -> None:
    scenario = STORIES[title]
    assert played(scenario, seed=first_seed(scenario)).mismatches == ()
    mutate(monkeypatch)

    verdict = played(scenario, seed=first_seed(scenario))

    assert named_in(verdict, scenario) >= named


# A kill between storing and acknowledging: few seeds bring it about, or only real processes.
NOT_HERE = {"everything is restarted", "workers are killed again and again"}


@pytest.mark.parametrize(
    "title", [title for title, story in STORIES.items() if story.unchecked and title not in NOT_HERE]
)
def test_what_a_story_switches_off_would_be_broken(title: str) -> None:
    scenario = STORIES[title]
    left = set(scenario.unchecked)
    for seed in scenario.seeds or range(25):
        if left:
            left -= named_in(played(replace(scenario, unchecked=frozenset()), seed), scenario)

    assert left == set()


def named_in(verdict: Verdict, scenario: Scenario) -> set[str]:
    """The invariants, and of each line that is not met whom it is about and its property."""
    lines = {claim.mark: f"{claim.of} {claim.property}" for claim in scenario.expect}
    return {NAMES.get(found.invariant, "") or lines[found.mark] for found in verdict.mismatches}
