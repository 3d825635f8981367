"""Stories with all that a scenario can say, played by the engine in the worlds without a second process."""

from __future__ import annotations

import pickle
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from pytest_taskservice.drivers.anyio import AnyIODriver
from pytest_taskservice.drivers.base import CapabilityError
from pytest_taskservice.drivers.celery_eager import CeleryEagerDriver
from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.drivers.zoned import zoned
from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.history import EventKind, EventLog
from pytest_taskservice.scenario.acts import (
    Advance,
    FaultCall,
    Heal,
    Inject,
    Input,
    Launch,
    Revoke,
    Start,
    Together,
    Wait,
)
from pytest_taskservice.scenario.model import (
    Canvas,
    Config,
    Entry,
    Nemesis,
    Workers,
    Workflow,
    WorkflowStep,
)
from pytest_taskservice.scenario.needs import needs
from pytest_taskservice.scenario.stage import stage_of
from tests.pytest_taskservice.scenario.stories import MARK, claim, play, story, task, tasks, told

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Scenario

DAY = 86_400.0
LATE = Config(celery={"task_acks_late": True, "broker_transport_options": {"visibility_timeout": 30}})


@pytest.fixture
def app() -> Celery:
    """An app that nobody has run."""
    return Celery("stories", broker="redis://nowhere.invalid", set_as_current=False)


@pytest.fixture
def sim() -> CelerySimDriver:
    """A simulation."""
    return CelerySimDriver(options=SimulatorOptions())


IN_PROCESS = ("celery-sim", "celery-eager", "anyio-asyncio", "anyio-trio")


def driver_of(world: str) -> Any:
    if world == "celery-sim":
        return CelerySimDriver(options=SimulatorOptions())
    if world == "celery-eager":
        return CeleryEagerDriver()
    return AnyIODriver(loop="trio" if world == "anyio-trio" else "asyncio")


def busy() -> Scenario:
    return story(
        workers=Workers(count=2, concurrency=1),
        tasks=tasks(task("hog", runs_for=60.0), task("quick", runs_for=1.0)),
        steps=(
            Launch(mark=MARK, task="hog", at=0.0, count=2, name="hogs"),
            Launch(mark=MARK, task="quick", at=1.0, name="quick"),
        ),
        expect=(
            claim("eventually", "quick", 200.0, status="SUCCESS"),
            claim("eventually", "hogs", 200.0, runs=2, status="SUCCESS"),
            claim("sometimes", "workers", all_occupied=True),
        ),
    )


def test_workers_have_names_slots_and_lives(sim: CelerySimDriver, app: Celery) -> None:
    verdict = play(busy(), sim, app)

    assert told(verdict) == []
    assert [(span.name, span.slots, span.ends) for span in verdict.workers] == [
        ("worker1@sim", 1, None),
        ("worker2@sim", 1, None),
    ]


def test_sometimes_is_told_and_breaks_no_play(sim: CelerySimDriver, app: Celery) -> None:
    verdicts = [play(busy(), sim, app, seed=seed) for seed in range(6)]

    assert {verdict.passed for verdict in verdicts} == {True}
    assert {verdict.sometimes["f.yaml:3:5"] for verdict in verdicts} == {True, False}


def test_one_seed_tells_one_story(sim: CelerySimDriver, app: Celery) -> None:
    first, again, other = (play(busy(), sim, app, seed=seed).digest for seed in (3, 3, 4))

    assert first == again != other


def test_a_killed_worker_hands_its_run_on(sim: CelerySimDriver, app: Celery) -> None:
    verdict = play(
        story(
            config=LATE,
            workers=Workers(count=2, concurrency=1),
            tasks=tasks(task("pack", runs_for=5.0), task("other", runs_for=5.0)),
            steps=(
                Inject(
                    mark=MARK,
                    fault=FaultCall(kind="kill", when="running", into=1.0, task="pack"),
                    name="crash",
                ),
                Launch(mark=MARK, task="other", name="other"),
                Launch(mark=MARK, task="pack", name="run"),
            ),
            expect=(
                claim("eventually", "run", 90.0, status="SUCCESS", deliveries=2, starts=2),
                claim("eventually", "other", 90.0, status="SUCCESS", starts=1),
                claim("eventually", "crash", 90.0, struck=1),
                claim("eventually", "workers", 90.0, alive=1),
                claim("at", "workers", 60.0, alive=2),
            ),
        ),
        sim,
        app,
    )

    assert told(verdict) == []
    assert [(tale.kind, tale.struck) for tale in verdict.faults["crash"]] == [("kill", 1)]


@pytest.mark.parametrize(("instant", "struck"), [(0.5, 0), (1.5, 1), (3.0, 2)])
def test_a_fault_is_known_to_have_struck_from_that_instant_on(
    instant: float, struck: int, sim: CelerySimDriver, app: Celery
) -> None:
    fault = FaultCall(kind="lose_child", when="started", times=2)
    steps = (
        Inject(mark=MARK, fault=fault, name="fault"),
        Launch(mark=MARK, at=1.0, task="pack"),
        Launch(mark=MARK, at=2.0, task="pack"),
    )
    said = tuple(claim(kind, "fault", instant, struck=struck) for kind in ("at", "eventually"))

    verdict = play(story(tasks=tasks(task("pack")), steps=steps, expect=said), sim, app)
    lie = play(
        story(tasks=tasks(task("pack")), steps=steps, expect=(claim("at", "fault", instant, struck=9),)),
        sim,
        app,
    )

    assert told(verdict) == []
    assert [mismatch.got for mismatch in lie.mismatches] == [f"struck {struck}"]


class LateNewsDriver(CelerySimDriver):
    """A world whose store knows of an end before its history is told of it, as a real one's does."""

    def log(self) -> EventLog:
        now = self.world.record.now()
        return EventLog(event for event in super().log() if event.kind != "changed" or event.at + 0.3 < now)


def test_the_end_of_a_workflow_may_be_told_later_than_it_is_known(app: Celery) -> None:
    steps = (WorkflowStep(kind="ask", text="approve"),)
    verdict = play(
        story(
            config=Config(input_timeout=1.0),
            workflows={"approval": Workflow(name="approval", mark=MARK, steps=steps)},
            steps=(Start(mark=MARK, workflow="approval", name="run"),),
            expect=(claim("eventually", "run", 9.0, status="FAILED", reason="input_timeout"),),
        ),
        LateNewsDriver(options=SimulatorOptions()),
        app,
    )

    assert told(verdict) == []


def test_a_fault_that_lies_in_wait_outlasts_the_steps(sim: CelerySimDriver, app: Celery) -> None:
    fault = FaultCall(kind="kill", when="running", into=1.0)
    verdict = play(
        story(
            config=LATE,
            workers=Workers(),
            tasks=tasks(task("pack", runs_for=5.0)),
            steps=(
                Inject(mark=MARK, fault=fault, name="crash"),
                Launch(mark=MARK, task="pack", name="run"),
            ),
            expect=(claim("eventually", "run", 90.0, status="SUCCESS", starts=2),),
        ),
        sim,
        app,
    )

    assert told(verdict) == []


def test_an_early_acknowledged_run_dies_with_its_worker(sim: CelerySimDriver, app: Celery) -> None:
    parts: dict[str, Any] = {
        "workers": Workers(count=1),
        "tasks": tasks(task("pack", runs_for=5.0)),
        "steps": (
            Launch(mark=MARK, task="pack", name="run"),
            Inject(mark=MARK, fault=FaultCall(kind="kill"), at=1.0),
        ),
        "expect": (claim("never", "run", status="SUCCESS"),),
    }

    assert told(play(story(**parts), sim, app)) == [
        "run: every accepted run reaches exactly one final state; got status STARTED at the end"
    ]
    assert told(play(story(**parts, unchecked=frozenset({"one_final_state"})), sim, app)) == []


def test_what_is_refused_is_captured_or_told(sim: CelerySimDriver, app: Celery) -> None:
    steps = (
        Inject(mark=MARK, fault=FaultCall(kind="down"), name="outage"),
        Launch(mark=MARK, task="pack", name="lost"),
        Heal(mark=MARK, names=("outage",)),
        Launch(mark=MARK, task="pack", name="run", after=10.0),
    )
    arrives = claim("eventually", "run", 60.0, status="SUCCESS")
    parts: dict[str, Any] = {"workers": Workers(), "tasks": tasks(task("pack")), "steps": steps}

    expected = play(
        story(**parts, expect=(arrives, claim("eventually", "lost", 9.0, error="OperationalError"))), sim, app
    )
    surprise = play(story(**parts, expect=(arrives,)), sim, app)

    assert told(expected) == []
    assert [found.partition("; got refused, ")[0] for found in told(surprise)] == ["lost: taken"]


def test_the_nemesis_is_drawn_by_the_seed_and_healed(sim: CelerySimDriver, app: Celery) -> None:
    scenario = story(
        config=LATE,
        workers=Workers(count=2),
        tasks=tasks(task("pack", runs_for=2.0)),
        steps=tuple(
            Launch(mark=MARK, task="pack", at=float(second), name=f"r{second}") for second in range(9)
        ),
        faults=Nemesis(
            mark=MARK,
            kinds=(FaultCall(kind="kill"), FaultCall(kind="pause"), FaultCall(kind="latency")),
            every=(1.0, 4.0),
            until=20.0,
            limit=5,
        ),
        expect=tuple(claim("eventually", f"r{second}", 300.0, status="SUCCESS") for second in range(9)),
        unchecked=frozenset({"final_is_final"}),
    )

    verdicts = [play(scenario, sim, app, seed=seed) for seed in (1, 1, 2)]

    assert [told(verdict) for verdict in verdicts] == [[], [], []]
    assert verdicts[0].digest == verdicts[1].digest != verdicts[2].digest
    faults = [[event for event in verdict.log if event.kind is EventKind.FAULT] for verdict in verdicts]
    assert min(map(len, faults)) >= 3
    assert max(event.at - verdicts[0].start for event in faults[0]) < 20


@pytest.mark.parametrize("world", IN_PROCESS)
def test_canvases_are_played(world: str, app: Celery) -> None:
    canvases = {
        name: Canvas(name=name, mark=MARK, kind=kind, members=members, body=body)
        for name, kind, members, body in (
            ("line", "chain", ("a", "b"), None),
            ("side", "group", ("a", "b"), None),
            ("both", "chord", ("a", "a"), "b"),
            ("torn", "chain", ("bad", "b"), None),
            ("cut", "chord", ("a", "bad"), "b"),
        )
    }
    verdict = play(
        story(
            tasks=tasks(task("a", returns=1), task("b", returns=2), task("bad", fails_with="ValueError: no")),
            canvases=canvases,
            steps=tuple(Launch(mark=MARK, task=name, name=name) for name in canvases),
            expect=(
                claim("eventually", "line", 9.0, status="SUCCESS", result=2),
                claim("eventually", "line.members", 9.0, status="SUCCESS", result=1, runs=1),
                claim("eventually", "side", 9.0, status="SUCCESS", runs=2),
                claim("eventually", "both", 9.0, status="SUCCESS", result=2),
                claim("eventually", "both.members", 9.0, result=1, runs=2),
                claim("eventually", "torn.members", 9.0, error="ValueError: no"),
                claim("never", "torn", status="SUCCESS"),
                claim("never", "cut", status="SUCCESS"),
            ),
        ),
        driver_of(world),
        app,
    )

    assert told(verdict) == []


@pytest.mark.parametrize("world", [world for world in IN_PROCESS if world != "celery-eager"])
def test_beat_fires_by_the_clock_of_its_zone(world: str, app: Celery) -> None:
    """The night of 29 March 2026 has no 02:30 in Berlin, and the nights after it come an hour earlier."""
    own = str(app.timezone)

    verdict = play(
        story(
            config=Config(start="2026-03-27T00:00:00+01:00"),
            tasks=tasks(task("report", runs_for=1.0)),
            beat={
                "nightly": Entry(
                    name="nightly", mark=MARK, task="report", cron="30 2 * * *", timezone="Europe/Berlin"
                )
            },
            steps=(Advance(mark=MARK, duration=5 * DAY),),
            expect=(
                claim("at", "nightly", 5 * DAY, runs=5),
                claim("eventually", "nightly", 5 * DAY, status="SUCCESS"),
            ),
        ),
        driver_of(world),
        app,
    )

    first = [verdict.log.of(run)[0] for run in verdict.runs["nightly"]]
    sent = [event.at - verdict.start for event in first]
    assert told(verdict) == []
    assert {(event.task, event.detail["entry"]) for event in first} == {("report", "nightly")}
    assert [round(at / 3600, 1) for at in sent] == [2.5, 26.5, 50.5, 73.5, 97.5]
    assert str(app.timezone) == own == "UTC"


@pytest.mark.parametrize("world", [world for world in IN_PROCESS if world != "celery-eager"])
def test_each_entry_of_a_beat_has_a_zone_of_its_own(world: str, app: Celery) -> None:
    zones = {"west": "America/New_York", "east": "Asia/Tokyo", "here": "UTC"}
    entries = {
        name: Entry(name=name, mark=MARK, task="report", cron="0 6 * * *", timezone=zone)
        for name, zone in zones.items()
    }

    verdict = play(
        story(
            config=Config(start="2026-01-15T00:00:00+00:00"),
            tasks=tasks(task("report")),
            beat=entries,
            steps=(Advance(mark=MARK, duration=2 * DAY),),
            expect=tuple(claim("at", name, 2 * DAY, runs=2) for name in zones),
        ),
        driver_of(world),
        app,
    )

    sent = {
        name: [round((verdict.log.of(run)[0].at - verdict.start) / 3600, 1) for run in verdict.runs[name]]
        for name in zones
    }
    assert told(verdict) == []
    assert sent == {"west": [11.0, 35.0], "east": [21.0, 45.0], "here": [6.0, 30.0]}


def test_a_zoned_crontab_keeps_its_zone_in_the_file_of_a_beat() -> None:
    schedule = zoned("30 2 * * 1-5", "Europe/Berlin")

    again = pickle.loads(pickle.dumps(schedule))

    assert (again, str(again.tz)) == (schedule, "Europe/Berlin")
    assert again != zoned("30 2 * * 1-5", "Asia/Tokyo")


@pytest.mark.parametrize("world", [world for world in IN_PROCESS if world != "celery-eager"])
def test_who_loses_a_race_is_not_at_fault(world: str, app: Celery) -> None:
    answers = tuple(Input(mark=MARK, run="flow", value=value, name=value) for value in ("yes", "no"))
    steps = (WorkflowStep(kind="ask", text="approve"),)
    parts: dict[str, Any] = {
        "workflows": {"approval": Workflow(name="approval", mark=MARK, steps=steps)},
        "steps": (
            Start(mark=MARK, workflow="approval", name="flow"),
            Together(mark=MARK, at=1.0, steps=answers),
        ),
    }
    ends = claim("eventually", "flow", 9.0, status="SUCCESS")
    both = tuple(claim("eventually", name, 9.0, taken=True) for name in ("yes", "no"))

    verdict = play(story(**parts, expect=(ends,)), driver_of(world), app)
    strict = play(story(**parts, expect=(ends, *both)), driver_of(world), app)

    assert told(verdict) == []
    errors = [verdict.commands[name][0].error for name in ("yes", "no")]
    assert sorted(map(bool, errors)) == [False, True]
    assert len(told(strict)) == 1


@pytest.mark.parametrize("world", [world for world in IN_PROCESS if world != "celery-eager"])
def test_what_is_done_together_is_done(world: str, app: Celery) -> None:
    verdict = play(
        story(
            tasks=tasks(task("pack", runs_for=1.0)),
            steps=(
                Launch(mark=MARK, task="pack", name="first", countdown=30.0),
                Together(
                    mark=MARK,
                    steps=(
                        Launch(mark=MARK, task="pack", name="second"),
                        Revoke(mark=MARK, name="first"),
                        Launch(mark=MARK, task="pack", name="third"),
                    ),
                ),
                Wait(mark=MARK, runs=("second", "third"), within=9.0),
            ),
            expect=(
                claim("eventually", "first", 60.0, status="REVOKED"),
                claim("eventually", "second", 9.0, status="SUCCESS"),
                claim("eventually", "third", 9.0, status="SUCCESS"),
            ),
        ),
        driver_of(world),
        app,
    )

    assert told(verdict) == []


def test_a_setting_holds_for_tasks_that_copied_the_one_before(sim: CelerySimDriver, app: Celery) -> None:
    @app.task(name="late")
    def late() -> None: ...

    sim.set_stage(stage_of(story(config=LATE)))
    sim.begin(app, {})
    during = late.acks_late
    sim.reset()

    assert (during, late.acks_late) == (True, False)


def test_a_step_that_nobody_can_do_is_told_with_its_line(sim: CelerySimDriver, app: Celery) -> None:
    scenario = story(
        workers=Workers(),
        tasks=tasks(task("gone", call="os.system")),
        steps=(Launch(mark=MARK, task="gone", name="run", args=("exit 1",)),),
        expect=(claim("never", "run", status="SUCCESS"),),
    )

    with pytest.raises(ScenarioError, match=r"^f\.yaml:3:5: unknown task 'os\.system'"):
        play(scenario, sim, app)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (FaultCall(kind="reset_peer", target="beat"), "the simulated beat has no connection of its own"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_what_the_simulator_cannot_break_is_refused(
    fault: FaultCall, why: str, sim: CelerySimDriver, app: Celery
) -> None:
    scenario = story(workers=Workers(), tasks=tasks(task("a")), steps=(Inject(mark=MARK, fault=fault),))

    with pytest.raises(CapabilityError, match=rf"f\.yaml:3:5: celery-sim cannot: .*{why}"):
        play(scenario, sim, app)
    assert len(sim.refused) == 1


def test_what_a_nemesis_cannot_break_is_refused_at_its_place(sim: CelerySimDriver, app: Celery) -> None:
    kinds = (FaultCall(kind="reset_peer", target="beat"),)
    nemesis = Nemesis(mark=MARK, kinds=kinds, every=(1.0, 1.0), until=9.0)

    with pytest.raises(CapabilityError, match=r"f\.yaml:3:5: celery-sim cannot: .*no connection of its own"):
        play(story(workers=Workers(), faults=nemesis), sim, app)


@pytest.mark.parametrize(
    "fault",
    [
        FaultCall(kind="pause", target="redis", lasts=30.0),
        FaultCall(kind="timeout", target="redis", lasts=30.0),
        FaultCall(kind="timeout", lasts=30.0),
    ],
    ids=["pause", "timeout", "timeout of workers"],
)
def test_a_silent_redis_is_waited_for(fault: FaultCall, sim: CelerySimDriver, app: Celery) -> None:
    verdict = play(
        story(
            workers=Workers(count=1, concurrency=2),
            tasks=tasks(task("long", runs_for=20.0), task("a")),
            steps=(
                Launch(mark=MARK, task="long", name="before"),
                Inject(mark=MARK, fault=fault, at=10.0, name="fault"),
                # Sent during the silence: the sender waits, too, and so does what follows.
                Launch(mark=MARK, task="a", name="during", at=15.0),
                Launch(mark=MARK, task="a", name="behind", at=16.0),
            ),
            expect=(
                claim("eventually", "during", 41.0, status="SUCCESS", starts=1, deliveries=1),
                claim("eventually", "behind", 41.0, status="SUCCESS", starts=1),
                claim("eventually", "before", 41.0, status="SUCCESS", starts=1, deliveries=1),
                claim("at", "fault", 11.0, struck=1),
            ),
        ),
        sim,
        app,
    )

    assert told(verdict) == []
    (during,) = verdict.runs["during"]
    assert round(verdict.log.of(during)[0].at - verdict.start) == 40


def test_each_connection_may_be_cut_at_once(sim: CelerySimDriver, app: Celery) -> None:
    fault = FaultCall(kind="reset_peer", target="redis")
    verdict = play(
        story(
            config=LATE,
            workers=Workers(count=2, concurrency=1),
            tasks=tasks(task("a", runs_for=10.0)),
            steps=(
                Launch(mark=MARK, task="a", count=2, name="runs"),
                Inject(mark=MARK, fault=fault, at=5.0, name="fault"),
                Launch(mark=MARK, task="a", name="behind", at=5.0),
            ),
            expect=(
                claim("eventually", "fault", 6.0, struck=1),
                claim("eventually", "behind", 60.0, status="SUCCESS"),
            ),
            unchecked=frozenset({"final_is_final"}),
        ),
        sim,
        app,
    )

    assert told(verdict) == []


@pytest.mark.parametrize("target", ["worker", "redis", "beat"])
def test_each_target_is_struck(target: str, sim: CelerySimDriver, app: Celery) -> None:
    verdict = play(
        story(
            workers=Workers(),
            tasks=tasks(task("a")),
            beat={"often": Entry(name="often", mark=MARK, task="a", every=10.0)},
            steps=(
                Inject(mark=MARK, fault=FaultCall(kind="kill", target=target), at=35.0, name="crash"),
                Advance(mark=MARK, duration=60.0),
            ),
            expect=(
                claim("eventually", "crash", 99.0, struck=1),
                claim("eventually", "often", 95.0, runs=9, status="SUCCESS"),
            ),
        ),
        sim,
        app,
    )

    assert told(verdict) == []


RUN = Launch(mark=MARK, task="a", name="run")


@pytest.mark.parametrize(
    ("parts", "needed"),
    [
        ({"workers": Workers(count=2)}, ("workers of one's own", "workers asks for 2 of 2 slots")),
        (
            {"beat": {"often": Entry(name="often", mark=MARK, task="a", every=1.0)}},
            ("beat", "beat launches 'a' in line 3"),
        ),
        (
            {"steps": (Together(mark=MARK, steps=(RUN, RUN)),)},
            ("races", "the step in line 3 does 2 things at once"),
        ),
        (
            {"steps": (Inject(mark=MARK, fault=FaultCall(kind="kill")),)},
            ("faults of processes", "the step in line 3 injects kill"),
        ),
        (
            {"steps": (Inject(mark=MARK, fault=FaultCall(kind="latency", by=1.0)),)},
            ("faults of connections", "the step in line 3 injects latency"),
        ),
        (
            {"steps": (Inject(mark=MARK, fault=FaultCall(kind="kill", when="stored")),)},
            ("faults at a point of a run", "the step in line 3 strikes a run when it is stored"),
        ),
        (
            {
                "faults": Nemesis(
                    mark=MARK, kinds=(FaultCall(kind="drop_ack"),), every=(1.0, 2.0), until=9.0
                )
            },
            ("faults of deliveries", "faults in line 3 injects drop_ack"),
        ),
        ({"config": Config(start="2026-01-01T00:00:00Z")}, ("virtual time", "config has the story begin *")),
        (
            {"config": Config(celery={"task_acks_late": True})},
            ("settings of Celery", "config sets Celery's task_acks_late"),
        ),
        ({"config": Config(broker="amqp")}, ("a broker like RabbitMQ", "config wants a broker of amqp")),
        (
            {"canvases": {"line": Canvas(name="line", mark=MARK, kind="chain", members=("a", "a"))},
             "steps": (Launch(mark=MARK, task="line"),)},
            ("canvases", "the step in line 3 launches the chain 'line'"),
        ),
        (
            {"expect": (claim("eventually", "workers", 5.0, alive=1),)},
            ("workers of one's own", "the expectation in line 3 is about workers"),
        ),
        (
            {"expect": (claim("eventually", "run", 5.0, deliveries=1),)},
            ("celery messages", "the expectation in line 3 counts deliveries"),
        ),
    ],
)  # fmt: skip
def test_a_world_needs_what_a_story_says(parts: dict[str, Any], needed: tuple[str, str]) -> None:
    scenario = story(**{"tasks": tasks(task("a")), "steps": (RUN,), **parts})

    found = [(str(capability), why) for capability, why in needs(scenario)]

    assert any(capability == needed[0] and fnmatch(why, needed[1]) for capability, why in found)
