"""What the format says of an expectation that the story cannot meet."""

from __future__ import annotations

import pytest

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.load import load_text
from tests.pytest_taskservice.scenario.everything import CLAIM, STEP, read, wrong

WRONG = {
    "a status of a task for a workflow": (
        CLAIM,
        "within: 1m, of: flow, status: STARTED",
        "29:38: unknown status 'STARTED' of 'flow', a workflow run; did you mean 'RUNNING'? allowed: WAITING",
    ),
    "a status of a workflow for a task": (
        CLAIM,
        "within: 1m, of: run, status: RUNNING",
        "29:37: unknown status 'RUNNING' of 'run', a task run; did you mean 'STARTED'? allowed: PENDING",
    ),
    "a reason of a task for a workflow": (
        CLAIM,
        "within: 1m, of: flow, reason: worker_lost",
        "29:38: unknown reason 'worker_lost' of 'flow', a workflow run; ",
    ),
    "keys of a task run": (
        CLAIM,
        "within: 1m, of: run, stored_keys: 0",
        "29:29: found stored_keys of 'run', a task run; stored_keys is of a workflow run; allowed: status",
    ),
    "deliveries of a client": (
        CLAIM,
        "within: 1m, of: ann, deliveries: 1",
        "29:29: found deliveries of 'ann', a client; deliveries is of a task run; allowed",
    ),
    "an error code that nobody knows": (
        CLAIM,
        "within: 1m, of: answer, error: workflow_expire",
        "29:39: unknown error 'workflow_expire' of 'answer', a command; did",
    ),
    "an error of what was taken": (
        CLAIM,
        "within: 1m, of: answer, taken: true, error: workflow_over",
        "29:52: found error beside taken: true; a command",
    ),
    "a result of a failed workflow": (
        CLAIM,
        "within: 1m, of: flow, status: FAILED, result: 1",
        "29:54: found result beside status FAILED; a FAILED run has none",
    ),
    "an instant before the step": (
        CLAIM,
        "within: 1s, of: answer, taken: true",
        "29:16: found within: 1s, earlier than the step at 5s; no run could",
    ),
    "SUCCESS before the work is done": (
        CLAIM,
        "within: 500ms, of: short, status: SUCCESS",
        "29:16: found within: 500ms for SUCCESS, but the run takes until 1s",
    ),
    "SUCCESS before the answer": (
        CLAIM,
        "within: 4s, of: flow, status: SUCCESS",
        "29:16: found within: 4s for SUCCESS, but the run takes until 5s at",
    ),
    "SUCCESS of a chain before its end": (
        CLAIM,
        "within: 1s, of: both, status: SUCCESS",
        "29:16: found within: 1s for SUCCESS, but the run takes until 2s",
    ),
    "SUCCESS without an answer": (
        f"{STEP}\nexpect:\n  eventually:\n    - {{{CLAIM}}}",
        "expect:\n  eventually:\n    - {within: 1m, of: flow, status: SUCCESS}",
        "28:38: found SUCCESS, but 'approval' asks once and 'flow' is answered never; no run could meet it",
    ),
    "INPUT where nothing is asked": (
        CLAIM,
        "within: 1m, of: short, status: INPUT",
        "29:39: found INPUT, but 'quick' asks nothing; no run could meet it",
    ),
    "INPUT before the work is done": (
        CLAIM,
        "within: 1s, of: flow, status: INPUT",
        "29:16: found within: 1s for INPUT, but 'approval' works until 2s before",
    ),
    "a timeout of no question": (
        CLAIM,
        "within: 1m, of: short, reason: input_timeout",
        "29:39: found input_timeout, but 'quick' asks nothing; no",
    ),
    "stopped by nobody": (
        CLAIM,
        "within: 1m, of: short, reason: stopped",
        "29:39: found stopped, but nothing stops 'short'",
    ),
    "an error of what raises nothing": (
        CLAIM,
        "within: 1m, of: short, reason: error",
        "29:39: found error, but 'quick' does not fail",
    ),
    "an event of another workflow": (
        CLAIM,
        "within: 1m, of: short, events: [progress]",
        "29:40: unknown event 'progress'; allowed: WAITING, RUNNING",
    ),
    "more runs than launched": (
        CLAIM,
        "within: 1m, of: run, runs: 2",
        "29:35: found 2 runs; 'run' has 1 at most",
    ),
    "more slots than there are": (
        CLAIM,
        "within: 1m, of: workers, running: 3",
        "29:42: found 3 running, but the story has 2 slots",
    ),
    "a finished run that never began": (
        CLAIM,
        "within: 1m, of: run, status: SUCCESS, starts: 0",
        "29:54: found 0 starts beside status SUCCESS; a run that was",
    ),
    "always of a command": (
        "eventually:\n    - {within: 1m, of: run, status: SUCCESS}",
        "always:\n    - {of: answer, taken: true}",
        "29:12: found always of 'answer', a command; it has one end: say eventually, at or never",
    ),
    "always full": (
        "eventually:\n    - {within: 1m, of: run, status: SUCCESS}",
        "always:\n    - {of: workers, all_occupied: true}",
        "29:35: found all_occupied in always; there is none at first",
    ),
    "an order of one": (
        "eventually:\n    - {within: 1m, of: run, status: SUCCESS}",
        "order:\n    - {of: [run], event: started}",
        "29:12: found one name in order; it takes two to have one",
    ),
    "an order of a client": (
        "eventually:\n    - {within: 1m, of: run, status: SUCCESS}",
        "order:\n    - {of: [run, ann], event: started}",
        "29:18: found 'ann', a client; of names a task run, member of a canvas, beat entry or workflow run",
    ),
    "an order without an event": (
        "eventually:\n    - {within: 1m, of: run, status: SUCCESS}",
        "order:\n    - {of: [run, both]}",
        "29:7: event is missing in an item of order; allowed: of, event",
    ),
    "a bound of sometimes": (
        "eventually:\n    - {within: 1m",
        "sometimes:\n    - {within: 1m",
        "29:8: unknown key 'within' in an item of sometimes of",
    ),
    "nothing sometimes": (
        "eventually:\n    - {within: 1m, of: run, status: SUCCESS}",
        "sometimes: []",
        "28:14: found an empty list; sometimes has",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_at_its_place(old: str, new: str, message: str) -> None:
    assert wrong(old, new).startswith(message)


QUIET = """\
schema: 1
name: nothing breaks
workers: {count: 1, queues: [fast]}
tasks:
  a: {runs_for: 1s}
  b: {queue: slow}
steps:
  - {launch: a, as: run}
  - {launch: b, as: late}
expect:
  eventually:
    - {within: 1m, of: OF}
"""


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("run, status: REVOKED", "12:37: found REVOKED, but nothing revokes 'run', nor does it expire"),
        ("run, status: RETRY", "12:37: found RETRY, but 'a' has no retry"),
        ("run, reason: worker_lost", "12:37: found worker_lost, but nothing in this story breaks a worker"),
        ("late, status: SUCCESS", "12:38: found SUCCESS, but no worker consumes the queue 'slow' of 'b'"),
    ],
)
def test_where_a_task_never_comes_to_is_not_expected(claim: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        read(QUIET.replace("OF", claim))

    assert str(caught.value) == f"f.yaml:{message}"


def test_what_faults_may_bring_is_not_refused() -> None:
    text = QUIET.replace("OF", "run, reason: worker_lost")

    assert read(f"{text}faults: {{kinds: [kill], every: 1s, until: 5s}}\n").faults


def test_how_a_task_ends_is_for_the_story_to_show() -> None:
    assert read(QUIET.replace("OF", "run, status: FAILURE")).expect


@pytest.mark.parametrize("canvas", ["{group: [a, a]}", "{chain: [a]}"])
def test_members_that_are_none_are_refused(canvas: str) -> None:
    story = f"""\
schema: 1
name: all of them
tasks: {{a: {{}}, line: {canvas}}}
steps: [{{launch: line, as: run}}]
expect: {{never: [{{of: run.members, status: FAILURE}}]}}
"""

    with pytest.raises(
        ScenarioError, match=r"^f:5:23: found 'run.members', but 'run' itself is every run of"
    ):
        load_text(story, "f")
