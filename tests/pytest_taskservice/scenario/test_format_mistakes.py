"""What the format says of a wrong file, beyond tasks and launches."""

from __future__ import annotations

import pytest

from tests.pytest_taskservice.scenario.everything import STEP, wrong

WRONG = {
    "input into a task run": (
        "input: flow",
        "input: run",
        "26:21: found 'run', a task run; input names a workflow run; allowed: flow, short",
    ),
    "a question that nobody asks": (
        "input: flow",
        "input: flow, question: aprove",
        "26:37: unknown question 'aprove' of 'approval'; did you mean 'approve'? allowed: approve",
    ),
    "a revoke of a workflow run": (
        STEP,
        "  - {revoke: flow}",
        "26:14: found 'flow', a workflow run; revoke names a task run, member of a canvas or beat entry",
    ),
    "a heal of what is no fault": (
        STEP,
        "  - {heal: run}",
        "26:12: found 'run', a task run; heal names a fault; allowed: nap",
    ),
    "a follow of a task run": (
        "follow: flow",
        "follow: run",
        "24:14: found 'run', a task run; follow names a workflow run",
    ),
    "a client that nobody is": (
        STEP,
        "  - {disconnect: anna}",
        "26:18: unknown client 'anna' (captured by no as: before this); did you mean",
    ),
    "a reconnect of who never left": (
        STEP,
        "  - {reconnect: ann}",
        "26:17: found reconnect of 'ann', which is connected by then",
    ),
    "a follow without a name": (
        "{follow: flow, as: ann}",
        "{follow: flow}",
        "24:5: as is missing in a follow step: the name of",
    ),
    "members of what is no canvas": (
        STEP,
        "  - {wait: run.members}",
        "26:12: unknown run 'run.members' (only what launches a canvas has members)",
    ),
    "a name of two kinds": (
        "as: nap",
        "as: run",
        "25:34: found the name 'run' again; names are unique, and this one is a task run's from line 20",
    ),
    "the name of a beat entry": (
        "as: short",
        "as: often",
        "23:24: found the name 'often' again; names are unique, and this one is a beat entry's",
    ),
    "a reserved name": (
        "as: short",
        "as: workers",
        "23:24: found the name 'workers', which is what all workers are called in expect",
    ),
    "a name that races": (
        STEP,
        "  - together: [{start: quick, as: r}, {stop: r}]",
        "26:46: unknown workflow run 'r' (captured by",
    ),
    "a race of one": (
        STEP,
        "  - together: [{stop: flow}]",
        "26:15: found one command in together; it takes two",
    ),
    "a race of no commands": (
        STEP,
        "  - together: [{stop: flow}, {wait: 1s}]",
        "26:31: unknown key 'wait' in a command in together; ",
    ),
    "an instant within a race": (
        STEP,
        "  - together: [{stop: flow}, {stop: flow, at: 1s}]",
        "26:43: unknown key 'at' in a stop step; ",
    ),
    "a canvas of an unknown task": ("[a, a]", "[a, d]", "10:21: unknown task 'd'; "),
    "a canvas of itself": (
        "[a, a]",
        "[a, line]",
        "10:21: found 'line' within itself; a canvas is made of other tasks",
    ),
    "a canvas of canvases": (
        "[a, a]",
        "[a, all]",
        "10:21: found 'all', a canvas; a canvas is made of tasks, not of",
    ),
    "a chord without a body": (
        ", body: a}",
        "}",
        "11:8: body is missing in task 'all': the task that runs when",
    ),
    "a chain with a body": (
        "chain: [a, a]",
        "chain: [a], body: a",
        "10:22: unknown key 'body' in task 'line', a chain; allowed",
    ),
    "a canvas of two kinds": (
        "chain: [a, a]",
        "chain: [a], group: [a]",
        "10:9: found chain and group in task 'line'",
    ),
    "arguments for a canvas of synthetic tasks": (
        "launch: line, as",
        "launch: line, args: [1], as",
        "21:20: found args for 'a', a synthetic task; only one with call",
    ),
    "a workflow with the name of a task": (
        "  quick: [",
        "  a: [",
        "13:3: found the workflow 'a', but a task has this name",
    ),
    "a workflow step of two kinds": (
        "[{run: 1s}]",
        "[{run: 1s, ask: x}]",
        "13:11: found run and ask in one step; a step of workflow 'quick' does one of",
    ),
    "a workflow step behind the end": (
        "[{run: 1s}]",
        "[{fail: x}, {run: 1s}]",
        "13:22: found a step behind fail, which ends",
    ),
    "an event that the service tells": (
        "as: progress",
        "as: asked",
        "14:80: found 'asked', which only the service itself tells; take another word",
    ),
    "an emit of no mapping": (
        "emit: {percent: 50}",
        "emit: 50",
        "14:61: found 50; emit is a mapping of keys to values",
    ),
    "an empty workflow": (
        "[{run: 1s}]",
        "[]",
        "13:10: found an empty list; workflow 'quick' has at least one item",
    ),
    "an entry with both": (
        "every: 5m",
        "every: 5m, cron: '* * * * *'",
        "18:10: found every and cron in beat entry 'often'",
    ),
    "an entry with neither": (
        ", every: 5m",
        "",
        "18:10: found neither every nor cron in beat entry 'often'; an entry has one",
    ),
    "an entry without a task": (
        "launch: a, every: 5m",
        "every: 5m",
        "18:10: launch is missing in beat entry 'often'",
    ),
    "an entry of a canvas": (
        "launch: a, every",
        "launch: line, every",
        "18:19: found 'line', a canvas; the beat launches tasks",
    ),
    "a bad cron": (
        '"0 2 * * *"',
        '"0 25 * * *"',
        "17:30: cron '0 25 * * *': hour '25': need 0 to 23, got '25'; cron is five fields",
    ),
    "a cron that never fires": ('"0 2 * * *"', '"0 2 30 2 *"', "17:30: cron '0 2 30 2 *' never fires: "),
    "an unknown time zone": (
        "Europe/Berlin",
        "Europe/Berlim",
        "17:53: unknown time zone 'Europe/Berlim'; timezone is a name such as Europe/Berlin; did you mean",
    ),
    "a folder of time zones": ("Europe/Berlin", "Europe", "17:53: unknown time zone 'Europe'; "),
    "a time zone of an interval": (
        "every: 5m",
        "every: 5m, timezone: UTC",
        "18:33: found timezone beside every; only cron",
    ),
    "no workers": (
        "{count: 2, concurrency: 1}",
        "{}",
        "5:10: found an empty mapping; allowed: count, concurrency",
    ),
    "too many workers": ("count: 2", "count: 21", "5:18: found 21; count is a whole number from 1 to 20"),
    "a solo pool of two": (
        "concurrency: 1",
        "concurrency: 2, pool: solo",
        "5:34: found 2 slots; a solo pool has one",
    ),
    "no seed": ("seeds: 3", "seeds: 0", "3:8: found 0; seeds is a whole number from 1 to 100000"),
    "a seed twice": ("seeds: 3", "seeds: [1, 1]", "3:12: found 1 again in seeds"),
    "a negative seed": (
        "seeds: 3",
        "seeds: [-1]",
        "3:9: found -1; seeds is a whole number from 0 to 4294967295",
    ),
    "an unknown invariant": (
        "seeds: 3",
        "invariants: {final_is_finel: off}",
        "3:14: unknown invariant 'final_is_finel'; did you mean 'final_is_final'?",
    ),
    "an invariant with a wrong word": (
        "seeds: 3",
        "invariants: {slots: none}",
        "3:21: unknown slots 'none'; ",
    ),
    "a start without an offset": (
        "busy_after: 10s",
        "start: '2026-03-27T00:00:00'",
        "4:17: found '2026-03-27T00:00:00' without an offset; start is",
    ),
    "a start that is none": (
        "busy_after: 10s",
        "start: monday",
        "4:17: found 'monday', which is no instant; start is",
    ),
    "a start long ago": (
        "busy_after: 10s",
        "start: '0001-01-01T00:00:00+00:00'",
        "4:17: found the year 1; start is between",
    ),
    "an unknown broker": (
        "busy_after: 10s",
        "broker: rabbitmq",
        "4:18: unknown broker 'rabbitmq'; did you mean 'amqp'?",
    ),
    "an unknown setting of Celery": (
        "busy_after: 10s",
        "celery: {task_ack_late: true}",
        "4:19: unknown setting of Celery 'task_ack_late'; did you mean 'task_acks_late'?",
    ),
    "a setting of the world": (
        "busy_after: 10s",
        "celery: {broker_url: 'redis://x'}",
        "4:19: found 'broker_url' in celery; the world itself sets it",
    ),
    "a setting that names code": (
        "busy_after: 10s",
        "celery: {task_cls: 'os:system'}",
        "4:19: found 'task_cls' in celery; the world itself sets it",
    ),
    "a setting with a key of its own": (
        "busy_after: 10s",
        "celery: {task_time_limit: 5s}",
        "4:19: found 'task_time_limit' in celery; config has a key",
    ),
    "a setting of a wrong type": (
        "busy_after: 10s",
        "celery: {task_acks_late: 1}",
        "4:35: found 1; task_acks_late is true or false",
    ),
    "an unknown fault": (
        "inject: pause",
        "inject: pouse",
        "25:14: unknown fault 'pouse'; did you mean 'pause'? allowed: kill",
    ),
    "an option that means nothing": (
        "pause, for: 3s",
        "pause, rate: 3",
        "25:21: found 'rate', which means nothing for pause; allowed: target, worker, when, into, task, ",
    ),
    "a fault without its measure": (
        "pause, for: 3s",
        "latency",
        "25:5: by is missing in latency; say by how much time",
    ),
    "a worker of Redis": (
        "pause, for: 3s",
        "pause, target: redis, worker: worker1",
        "25:36: found 'worker' for target redis; only workers have any",
    ),
    "a target that cannot be": (
        "pause, for: 3s",
        "slow, by: 1s, target: redis",
        "25:36: unknown target 'redis'; allowed: worker",
    ),
    "a worker too many": (
        "pause, for: 3s",
        "pause, worker: worker3",
        "25:29: unknown worker 'worker3'; did you mean",
    ),
    "how far without where": (
        "pause, for: 3s",
        "kill, into: 1s",
        "25:20: found into, how far a body has run; it needs when",
    ),
    "how often without where": (
        "pause, for: 3s",
        "kill, times: 2",
        "25:20: found 'times' without when: kill strikes at once",
    ),
    "a restart that never comes": (
        "pause, for: 3s",
        "restart, restart: never",
        "25:32: found never; what is restarted comes up",
    ),
    "a child lost before it works": (
        "pause, for: 3s",
        "lose_child, when: received",
        "25:32: unknown point 'received'; ",
    ),
    "a pause at a point without an end": (
        "pause, for: 3s",
        "pause, when: started",
        "25:5: for is missing in pause with when; say how long it lasts, for nobody knows when it begins",
    ),
    "no seldom": ("pause, for: 3s", "drop_ack, times: often", "25:31: unknown number of times 'often'; "),
    "a nemesis without an end": (
        "seeds: 3",
        "faults: {kinds: [kill], every: 1s}",
        "3:9: until is missing in faults; allowed: kinds, every, until, limit",
    ),
    "a nemesis of too many": (
        "seeds: 3",
        "faults: {kinds: [kill], every: 1ms, until: 1h}",
        "3:32: found room for more than 10000 faults; set a limit",
    ),
    "a nemesis that ends first": (
        "seeds: 3",
        "faults: {kinds: [kill], every: 5s, until: 1s}",
        "3:43: found until before the first fault; none would",
    ),
    "a range that ends first": (
        "seeds: 3",
        "faults: {kinds: [kill], every: [5s, 1s], until: 1h}",
        "3:32: found a range that ends before it begins",
    ),
    "a kind without its measure": (
        "seeds: 3",
        "faults: {kinds: [latency], every: 5s, until: 1h}",
        "3:18: found latency without by; write {inject: latency, by: ...}",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_at_its_place(old: str, new: str, message: str) -> None:
    assert wrong(old, new).startswith(message)
