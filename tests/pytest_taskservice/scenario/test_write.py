"""A scenario that is written is the scenario that is read again."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pytest_taskservice.scenario import acts
from pytest_taskservice.scenario.acts import FaultCall, Mark
from pytest_taskservice.scenario.behaviour import Behaviour, Retry
from pytest_taskservice.scenario.load import load, load_text
from pytest_taskservice.scenario.model import (
    Canvas,
    Config,
    Entry,
    Expectation,
    Nemesis,
    Property,
    Scenario,
    Skip,
    Task,
    Workers,
    Workflow,
    WorkflowStep,
)
from pytest_taskservice.scenario.spell import spell, spell_duration
from pytest_taskservice.scenario.words import parse_duration
from pytest_taskservice.scenario.write import structured, write

HERE = Mark(path="here", line=1, column=1)
ROOT = Path(__file__).parents[3]
FILES = sorted([*ROOT.glob("scenarios/**/*.scenario.yaml"), *ROOT.glob("examples/**/*.scenario.yaml")])


def unmarked(value: Any) -> Any:
    """Return a value with every mark at the same place."""
    if isinstance(value, Mark):
        return HERE
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: unmarked(getattr(value, one.name)) for one in fields(value)})
    if isinstance(value, dict):
        return {key: unmarked(part) for key, part in value.items()}
    return type(value)(map(unmarked, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.partition(".")[0])
def test_every_file_of_ours_is_written_as_it_was_read(path: Path) -> None:
    for scenario in load(path):
        (again,) = load_text(write(scenario), "again")

        assert unmarked(again) == unmarked(scenario)


def test_what_a_world_sets_back_to_a_default_is_said() -> None:
    (scenario,) = load_text(
        dedent(
            """
            schema: 1
            name: slow
            tasks:
              work: {runs_for: 5s, returns: 3}
            steps:
              - {launch: work, as: run}
            expect:
              eventually:
                - {within: 9s, of: run, status: SUCCESS}
            overrides:
              anyio: {tasks: {work: {runs_for: 0s}}}
              celery: {skip: "it takes: too long"}
            """
        ),
        "slow",
    )

    (again,) = load_text(write(scenario), "again")

    assert unmarked(again) == unmarked(scenario)
    assert again.worlds["celery"] == Skip(reason="it takes: too long")


def test_a_world_that_a_row_makes_no_different_is_none() -> None:
    text = """
schema: 1
name: slow
parameters: [{time: 5s}, {time: 1s}]
tasks: {work: {runs_for: 5s}}
steps: [{launch: work, as: run}]
expect: {eventually: [{within: 9s, of: run, status: SUCCESS}]}
overrides: {anyio: {tasks: {work: {runs_for: "${time}"}}}}
"""

    same, other = load_text(text, "slow")
    (same_again,), (other_again,) = load_text(write(same), "again"), load_text(write(other), "again")

    assert (list(same_again.worlds), list(other_again.worlds)) == ([], ["anyio"])
    assert unmarked(same_again.for_backend("anyio")).tasks == unmarked(same.for_backend("anyio")).tasks


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -3, 2.5, 1e-07, "", " padded ", "5", "1e3", "true", "Off", "null", "~", "a: b", "a #b",
        "- x", "${x}", "$${x}", 'say "hi"', "back\\slash", "naïve ☂", "{a}", "[b]", "a, b", "*a", "&a", "!a",
        "%", "@", "`", "1:00:10", ".5", "+1", "0x1f", "2026-01-01", [], {}, [[1], {"a b": [None]}],
        {"true": 1, "": 2},
    ],
    ids=repr,
)  # fmt: skip
def test_any_value_is_read_as_it_was_written(value: Any) -> None:
    behaviour = Behaviour(returns=value)
    scenario = Scenario(
        mark=HERE,
        name="values",
        backends=("celery-sim",),
        tasks={"give": Task(name="give", mark=HERE, behaviour=behaviour)},
        steps=(acts.Launch(mark=HERE, task="give", name="run"),),
        expect=(Expectation(mark=HERE, property=Property.NEVER, of="run", wanted={"status": "FAILURE"}),),
    )

    (again,) = load_text(write(scenario), "again")

    assert again.tasks["give"].behaviour == behaviour


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 0.1234567, 1.0, 61.5, 3600.0, 90_061.25, 604_800.0])
def test_a_duration_is_read_to_the_same_number(seconds: float) -> None:
    assert parse_duration(spell_duration(seconds)) == seconds


def test_comments_stand_at_the_top_a_line_each() -> None:
    text = write(load(FILES[0])[0], comments=["where it came from", "two\nlines", ""])

    assert text.splitlines()[:5] == ["# where it came from", "# two", "# lines", "#", ""]


def test_every_word_of_the_format_is_spelled() -> None:
    kill = FaultCall(kind="kill", when="running", into=1.0, restart=None, times=None)
    slow = FaultCall(kind="latency", target="redis", by=2.0, lasts=5.0)
    scenario = Scenario(
        mark=HERE,
        name="all words",
        seeds=(3, 7),
        config=Config(data_ttl=3600.0, start="2026-03-27T00:00:00+01:00", celery={"task_acks_late": True}),
        workers=Workers(count=2, concurrency=1, queues=("a", "b")),
        tasks={
            "work": Task(
                name="work",
                mark=HERE,
                behaviour=Behaviour(runs_for=1.0, fails_times=1, retry=Retry(max_attempts=2)),
            )
        },
        canvases={
            "both": Canvas(name="both", mark=HERE, kind="chord", members=("work", "work"), body="work")
        },
        workflows={
            "approval": Workflow(
                name="approval",
                mark=HERE,
                steps=(
                    WorkflowStep(kind="run", seconds=1.0),
                    WorkflowStep(kind="ask", text="approve", seconds=3600.0),
                    WorkflowStep(kind="emit", value={"percent": 50}, text="progress"),
                    WorkflowStep(kind="fail", text="why: because"),
                ),
            )
        },
        beat={
            "nightly": Entry(
                name="nightly", mark=HERE, task="work", cron="0 2 * * *", timezone="Europe/Berlin"
            )
        },
        steps=(
            acts.Start(mark=HERE, workflow="approval", at=0.0, name="run"),
            acts.Together(
                mark=HERE,
                after=1.0,
                steps=(
                    acts.Input(mark=HERE, run="run", value="no", name="late"),
                    acts.Stop(mark=HERE, run="run"),
                ),
            ),
            acts.Follow(mark=HERE, run="run", name="client"),
            acts.Disconnect(mark=HERE, client="client"),
            acts.Advance(mark=HERE, duration=4200.0),
            acts.Inject(mark=HERE, fault=kill, name="crash"),
            acts.Heal(mark=HERE, names=("crash",)),
            acts.Heal(mark=HERE),
        ),
        faults=Nemesis(mark=HERE, kinds=(FaultCall(kind="kill"), slow), every=(1.0, 9.0), until=60.0),
        expect=(
            Expectation(
                mark=HERE, property=Property.EVENTUALLY, of="run", instant=75.0, wanted={"stored_keys": 0}
            ),
            Expectation(mark=HERE, property=Property.SOMETIMES, of="workers", wanted={"all_occupied": True}),
            Expectation(
                mark=HERE, property=Property.ORDER, of="", targets=("a", "b"), wanted={"event": "started"}
            ),
        ),
        unchecked=frozenset({"final_is_final"}),
    )

    assert spell(structured(scenario)) == dedent(
        """\
        schema: 1
        name: all words
        seeds: [3, 7]
        config: {data_ttl: 1h, start: "2026-03-27T00:00:00+01:00", celery: {task_acks_late: true}}
        workers: {count: 2, concurrency: 1, queues: [a, b]}
        tasks:
          work: {runs_for: 1s, fails_times: 1, retry: {max_attempts: 2}}
          both: {chord: [work, work], body: work}
        workflows:
          approval:
            - {run: 1s}
            - {ask: approve, timeout: 1h}
            - {emit: {percent: 50}, as: progress}
            - {fail: "why: because"}
        beat:
          nightly: {launch: work, cron: "0 2 * * *", timezone: Europe/Berlin}
        steps:
          - {at: 0s, start: approval, as: run}
          - {after: 1s, together: [{input: run, value: "no", as: late}, {stop: run}]}
          - {follow: run, as: client}
          - {disconnect: client}
          - {advance: 1h10m}
          - {inject: kill, when: running, into: 1s, restart: never, times: always, as: crash}
          - {heal: crash}
          - {heal: all}
        faults: {kinds: [kill, {inject: latency, target: redis, for: 5s, by: 2s}], every: [1s, 9s], until: 1m}
        expect:
          eventually:
            - {within: 1m15s, of: run, stored_keys: 0}
          sometimes:
            - {of: workers, all_occupied: true}
          order:
            - {of: [a, b], event: started}
        invariants: {final_is_final: off}
        """
    )
