"""The format beyond tasks and launches: what it makes of a file, and what it says of a wrong one."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario import acts
from pytest_taskservice.scenario.acts import FaultCall
from pytest_taskservice.scenario.load import load, load_text
from pytest_taskservice.scenario.model import (
    Canvas,
    Config,
    Entry,
    Nemesis,
    Property,
    Skip,
    Workers,
    WorkflowStep,
)

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Scenario

DOCUMENTS = Path(__file__).parent / "documents"

GOOD = """\
schema: 1
name: everything
seeds: 3
config: {busy_after: 10s, data_ttl: 1h}
workers: {count: 2, concurrency: 1}
tasks:
  a: {runs_for: 1s, queue: slow}
  b: {fails_with: "ValueError: no", retry: {max_attempts: 2}}
  c: {call: shop.tasks.charge}
  line: {chain: [a, a]}
  all: {chord: [a, c], body: a}
workflows:
  quick: [{run: 1s}]
  approval: [{run: 2s}, {ask: approve, timeout: 1h}, {emit: {percent: 50}, as: progress}]
  refund: {call: shop.flows.refund}
beat:
  nightly: {launch: a, cron: "0 2 * * *", timezone: Europe/Berlin}
  often: {launch: a, every: 5m}
steps:
  - {at: 0s, launch: a, as: run}
  - {launch: line, as: both}
  - {start: approval, as: flow}
  - {start: quick, as: short}
  - {follow: flow, as: ann}
  - {inject: pause, for: 3s, as: nap}
  - {at: 5s, input: flow, as: answer}
expect:
  eventually:
    - {within: 1m, of: run, status: SUCCESS}
finally:
  - {stop: flow}
"""

STEP = "  - {at: 5s, input: flow, as: answer}"
CLAIM = "within: 1m, of: run, status: SUCCESS"


def read(text: str) -> Scenario:
    (scenario,) = load_text(dedent(text), "f.yaml")
    return scenario


def whole(old: str = "", new: str = "") -> Scenario:
    assert old in GOOD
    return read(GOOD.replace(old, new, 1))


def wrong(old: str, new: str) -> str:
    assert old in GOOD
    with pytest.raises(ScenarioError) as caught:
        load_text(GOOD.replace(old, new, 1), "f.yaml")
    return str(caught.value).removeprefix("f.yaml:")


def test_the_documents_of_the_format_load() -> None:
    found = load(DOCUMENTS / "begin.yaml")

    assert [scenario.title for scenario in found] == [
        "task hits its soft time limit[soft-false-7s]",
        "task hits its hard time limit[hard-true-10s]",
        "all workers busy",
        "input after the workflow's data expired[input]",
        "stop after the workflow's data expired[stop]",
    ]
    assert found[0].for_backend("celery-eager") == Skip(reason="eager mode ignores time limits")
    assert found[2].seeds == tuple(range(20))
    assert found[2].workers == Workers(count=2, concurrency=1)
    assert isinstance(found[3].steps[1], acts.Input)
    assert isinstance(found[4].steps[1], acts.Stop)
    assert [claim.wanted for claim in found[4].expect] == [
        {"status": "INPUT"},
        {"error": "workflow_expired"},
        {"stored_keys": 0},
    ]


def test_canvases_are_made_of_tasks() -> None:
    scenario = whole()
    line, both = scenario.canvases["line"], scenario.canvases["all"]

    assert (line.kind, line.members, line.body) == ("chain", ("a", "a"), None)
    assert both == Canvas(name="all", mark=both.mark, kind="chord", members=("a", "c"), body="a")
    assert set(scenario.tasks) == {"a", "b", "c"}


def test_workflows_have_steps_or_are_called() -> None:
    flows = whole().workflows

    assert flows["approval"].steps == (
        WorkflowStep(kind="run", seconds=2.0),
        WorkflowStep(kind="ask", text="approve", seconds=3600.0),
        WorkflowStep(kind="emit", text="progress", value={"percent": 50}),
    )
    assert (flows["refund"].steps, flows["refund"].call) == ((), "shop.flows.refund")


def test_a_workflow_ends_by_a_value_or_a_failure() -> None:
    text = "[{run: 0s}, {return: [1, null]}]"

    assert whole("[{run: 1s}]", text).workflows["quick"].steps[1] == WorkflowStep(
        kind="return", value=[1, None]
    )
    assert whole("[{run: 1s}]", "[{fail: why}]").workflows["quick"].steps == (
        WorkflowStep(kind="fail", text="why"),
    )


def test_the_beat_has_entries() -> None:
    beat = whole().beat

    assert beat["nightly"] == Entry(
        name="nightly", mark=beat["nightly"].mark, task="a", cron="0 2 * * *", timezone="Europe/Berlin"
    )
    assert (beat["often"].every, beat["often"].cron, beat["often"].timezone) == (300.0, None, "UTC")


def test_config_holds_settings_of_celery_too() -> None:
    scenario = whole(
        "config: {busy_after: 10s, data_ttl: 1h}",
        "config: {input_timeout: 1s, stale_after: 2s, start: '2026-03-27T00:00:00+01:00', broker: amqp, "
        "celery: {task_acks_late: true, visibility_timeout: 30s, result_expires: 1.5m, "
        "worker_prefetch_multiplier: 1}}",
    )

    assert scenario.config == Config(
        input_timeout=1.0,
        stale_after=2.0,
        start="2026-03-27T00:00:00+01:00",
        broker="amqp",
        celery={
            "task_acks_late": True,
            "result_expires": 90,
            "worker_prefetch_multiplier": 1,
            "broker_transport_options": {"visibility_timeout": 30},
        },
    )


def test_every_step_is_read() -> None:
    scenario = whole(
        "  - {at: 5s, input: flow, as: answer}",
        """\
  - {at: 5s, input: flow, value: {ok: true}, question: q1, as: answer}
  - {continue: flow, as: again}
  - {disconnect: ann}
  - {reconnect: ann}
  - {advance: 1h}
  - {launch: c, priority: 3, args: [1], as: called}
  - {start: refund, count: 2, args: [7], kwargs: {x: y}}
  - {wait: [run, flow, both.members], within: 1m}
  - together: [{input: flow, value: 1}, {stop: flow, as: stopped}, {revoke: both.members}]
  - {heal: nap}
  - {heal: all}""",
    )
    steps = scenario.steps[6:]

    answer, again, off, on, hour, called, flows, wait, race, heal, heal_all = steps
    assert isinstance(answer, acts.Input)
    assert (answer.at, answer.value, answer.question, answer.name) == (5.0, {"ok": True}, "q1", "answer")
    assert again == acts.Continue(mark=again.mark, run="flow", name="again")
    assert off == acts.Disconnect(mark=off.mark, client="ann")
    assert on == acts.Reconnect(mark=on.mark, client="ann")
    assert hour == acts.Advance(mark=hour.mark, duration=3600.0)
    assert called == acts.Launch(mark=called.mark, task="c", priority=3, args=(1,), name="called")
    assert flows == acts.Start(mark=flows.mark, workflow="refund", count=2, args=(7,), kwargs={"x": "y"})
    assert wait == acts.Wait(mark=wait.mark, runs=("run", "flow", "both.members"), within=60.0)
    assert isinstance(race, acts.Together)
    assert [type(step) for step in race.steps] == [acts.Input, acts.Stop, acts.Revoke]
    assert (heal, heal_all) == (
        acts.Heal(mark=heal.mark, names=("nap",)),
        acts.Heal(mark=heal_all.mark, names=()),
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill, worker: worker2, restart: never", FaultCall(kind="kill", worker="worker2", restart=None)),
        (
            "kill, when: running, into: 1s, task: a, times: always, restart: 2s",
            FaultCall(kind="kill", when="running", into=1.0, task="a", times=None, restart=2.0),
        ),
        ("term, target: beat", FaultCall(kind="term", target="beat")),
        (
            "pause, when: stored, task: a, for: 2s, times: 2",
            FaultCall(kind="pause", when="stored", task="a", lasts=2.0, times=2),
        ),
        ("restart, when: received", FaultCall(kind="restart", when="received")),
        ("restart, target: redis, restart: 0s", FaultCall(kind="restart", target="redis", restart=0.0)),
        ("lose_child, when: started, times: 2", FaultCall(kind="lose_child", when="started", times=2)),
        ("slow, by: 2s, for: 1m", FaultCall(kind="slow", by=2.0, lasts=60.0)),
        ("latency, target: redis, by: 200ms", FaultCall(kind="latency", target="redis", by=0.2)),
        ("bandwidth, rate: 1000", FaultCall(kind="bandwidth", rate=1000)),
        ("slicer, size: 10, by: 5ms", FaultCall(kind="slicer", size=10, by=0.005)),
        ("duplicate, task: a, queue: slow", FaultCall(kind="duplicate", task="a", queue="slow")),
        ("drop_ack, for: 1m, times: 3", FaultCall(kind="drop_ack", lasts=60.0, times=3)),
    ],
)
def test_faults_have_the_options_of_their_kind(text: str, fault: FaultCall) -> None:
    step = whole("inject: pause, for: 3s", f"inject: {text}").steps[5]

    assert isinstance(step, acts.Inject)
    assert (step.fault, step.name) == (fault, "nap")


def test_a_nemesis_draws_from_kinds() -> None:
    text = "faults: {kinds: [kill, {inject: pause, for: 3s}], every: [1s, 10s], until: 60s, limit: 8}\n"
    faults = read(GOOD + text).faults

    assert faults is not None
    assert faults == Nemesis(
        mark=faults.mark,
        kinds=(FaultCall(kind="kill"), FaultCall(kind="pause", lasts=3.0)),
        every=(1.0, 10.0),
        until=60.0,
        limit=8,
    )


def test_seeds_are_so_many_or_these() -> None:
    assert whole().seeds == (0, 1, 2)
    assert whole("seeds: 3", "seeds: [3, 7]").seeds == (3, 7)
    assert whole("seeds: 3\n", "").seeds == ()


def test_invariants_are_switched_off_by_name() -> None:
    scenario = read(GOOD + "invariants: {final_is_final: off, slots: false, timers: on}\n")

    assert scenario.unchecked == frozenset({"final_is_final", "slots"})


def test_expectations_are_of_every_kind_of_target() -> None:
    (counted,) = whole(CLAIM, "within: 1m, of: run, deliveries: 2, starts: 0, runs: 1").expect
    assert counted.wanted == {"deliveries": 2, "starts": 0, "runs": 1}

    more = """\
expect:
  at:
    - {time: 1m, of: answer, taken: true}
    - {time: 1m, of: nap, struck: 1}
  always:
    - {of: workers, alive: 2}
  never:
    - {of: flow, status: FAILED, reason: stopped}
    - {of: both.members, status: REVOKED}
  sometimes:
    - {of: workers, all_occupied: true, running: 2}
    - {of: ann, events: [INPUT, asked, progress, SUCCESS]}
  order:
    - {of: [run, nightly, both.members], event: started}
  eventually:
"""
    found = whole("expect:\n  eventually:\n", more).expect

    assert [(claim.property, claim.of) for claim in found] == [
        (Property.AT, "answer"),
        (Property.AT, "nap"),
        (Property.ALWAYS, "workers"),
        (Property.NEVER, "flow"),
        (Property.NEVER, "both.members"),
        (Property.SOMETIMES, "workers"),
        (Property.SOMETIMES, "ann"),
        (Property.ORDER, "run"),
        (Property.EVENTUALLY, "run"),
    ]
    assert found[7].targets == ("run", "nightly", "both.members")
    assert found[7].wanted == {"event": "started"}


def test_a_client_may_come_back_at_the_end() -> None:
    scenario = read(
        GOOD.replace(STEP, f"{STEP}\n  - {{disconnect: ann}}").replace("{stop: flow}", "{reconnect: ann}")
    )

    assert isinstance(scenario.cleanup[0], acts.Reconnect)


def test_a_world_may_change_every_part() -> None:
    text = """\
overrides:
  celery-sim:
    seeds: [1]
    config: {broker: amqp}
    workers: {count: 3}
    workflows: {quick: [{run: 5s}]}
    beat: {often: {every: 1m}}
    faults: {kinds: [kill], every: 1s, until: 5s}
    invariants: {slots: off}
"""
    there = read(GOOD + text).for_backend("celery-sim")

    assert not isinstance(there, Skip)
    assert (there.seeds, there.config.broker, there.config.busy_after) == ((1,), "amqp", 10.0)
    assert there.workers == Workers(count=3, concurrency=1)
    assert there.workflows["quick"].steps[0].seconds == 5.0
    assert there.beat["often"].every == 60.0
    assert there.faults is not None
    assert there.unchecked == frozenset({"slots"})


WRONG = {
    "input into a task run": (
        "input: flow",
        "input: run",
        "26:21: found 'run', a task run; input names a workflow run; allowed: flow, short",
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
