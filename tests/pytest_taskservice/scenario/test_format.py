"""The format beyond tasks and launches: what it makes of a file."""

from __future__ import annotations

import pytest

from pytest_taskservice.scenario import acts
from pytest_taskservice.scenario.acts import FaultCall
from pytest_taskservice.scenario.load import load
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
from tests.pytest_taskservice.scenario.everything import CLAIM, DOCUMENTS, GOOD, STEP, read, whole


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
  - {at: 5s, input: flow, value: {ok: true}, question: approve, as: answer}
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
    assert (answer.at, answer.value, answer.question, answer.name) == (5.0, {"ok": True}, "approve", "answer")
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
