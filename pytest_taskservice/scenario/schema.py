"""The JSON Schema of scenario files, made from the tables that their readers use.

A key that a reader knows and no description here explains is a ``KeyError``, so neither can be forgotten. The
published copy is ``scenario.schema.json``; ``python -m pytest_taskservice.scenario.schema`` prints it anew.
"""

from __future__ import annotations

import json
from pathlib import Path

from pytest_taskservice.scenario.config import BROKERS, CONFIG
from pytest_taskservice.scenario.limits import ATTEMPTS, FACTOR, PRIORITY, SEED, SEEDS, SLOTS
from pytest_taskservice.scenario.limits import WORKERS as WORKER_COUNT
from pytest_taskservice.scenario.load import BACKENDS, OVERRIDE, SCENARIO
from pytest_taskservice.scenario.model import INVARIANTS
from pytest_taskservice.scenario.schema_parts import (
    Schema,
    any_key,
    any_step,
    anything,
    duration,
    either,
    flag,
    items,
    mapping,
    name,
    named,
    number,
    partial,
    refer,
    text,
    whole,
    word,
)
from pytest_taskservice.scenario.schema_story import nemesis_schema, story_definitions
from pytest_taskservice.scenario.staging import BEAT, POOLS, WORKERS
from pytest_taskservice.scenario.tasks import CANVAS, RETRY, TASK
from pytest_taskservice.scenario.workflows import WORKFLOW_STEPS

__all__ = ["PUBLISHED", "scenario_schema", "schema_text"]

PUBLISHED = Path(__file__).with_name("scenario.schema.json")
"""The copy that editors read."""

_CALL = text("A function of your own app, as package.module.function.", "shop.tasks.charge")
_QUEUE = text("The queue that its messages go to.", "mail")


def schema_text() -> str:
    """Return the schema as the published copy has it."""
    return json.dumps(scenario_schema(), indent=2, ensure_ascii=False) + "\n"


def scenario_schema() -> Schema:
    """Return the schema of one document of a scenario file."""
    worlds = mapping("Changes for one world.", BACKENDS, dict.fromkeys(BACKENDS, refer("change")), least=0)
    whole_document = mapping(
        "One scenario: a story about tasks and workflows, told once and played in every world.",
        SCENARIO,
        {**_identity(), **_story(), "overrides": worlds},
        needs=("schema", "name", "steps", "expect"),
    )
    # Only below it a parameter may stand for a key.
    del whole_document["patternProperties"]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A scenario of taskservice",
        **whole_document,
        "definitions": _definitions(),
    }


def _identity() -> dict[str, Schema]:
    return {
        "schema": {"description": "The version of the format: 1, the only one.", "const": 1},
        "name": text("What the test is called; ${x} puts a parameter in.", "all workers are busy"),
        "description": text("What the story is about, for whoever reads the file."),
        "tags": items("Each becomes a pytest mark: pytest -m busy.", name("A mark.", "busy")),
        "backends": items(
            "The worlds that it is meant for; without it, all.", word("A world.", BACKENDS), unique=True
        ),
        "parameters": items(
            "Rows; each makes a test of its own, and ${x} is put in anywhere.",
            {"type": "object", "minProperties": 1, "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_-]*$"}},
        ),
    }


def _story() -> dict[str, Schema]:
    return {
        "seeds": either(
            "Where chance is drawn: so many seeds, from 0 on, or a list of them.",
            whole("So many, from 0 on.", SEEDS),
            items("These.", whole("A seed.", SEED), unique=True),
        ),
        "config": refer("config"),
        "workers": refer("workers"),
        "tasks": named("Tasks, by name.", refer("task")),
        "workflows": named("Workflows, by name.", refer("workflow")),
        "beat": named("What the beat launches, by name; the runs are captured under it.", refer("entry")),
        "steps": items("What happens, in order, each at an instant.", refer("step")),
        "faults": refer("nemesis"),
        "expect": refer("expect"),
        "invariants": mapping(
            "Invariants to switch off, as {name: off}.",
            INVARIANTS,
            {
                key: word(f"{sentence[0].upper()}{sentence[1:]}.", ("on", "off"))
                for key, sentence in INVARIANTS.items()
            },
        ),
        "finally": items("Steps that are played whatever happened; they have no at.", refer("step")),
    }


def _change() -> Schema:
    story = _story() | {
        "tasks": named("Tasks, by name.", refer("task_change")),
        "beat": named("Entries of the beat, by name.", refer("entry_change")),
        "faults": refer("nemesis_change"),
        "skip": text("Why this world is left out.", "eager mode ignores time limits"),
    }
    doc = "What is merged over the scenario for this world, or why it is skipped."
    return mapping(doc, OVERRIDE, story)


def _definitions() -> dict[str, Schema]:
    task, entry, nemesis = _task(), _entry(), nemesis_schema()
    return {
        "change": _change(),
        "config": _config(),
        "workers": _workers(),
        "task": task,
        "task_change": partial(_task("retry_change")),
        "retry": _retry(),
        "retry_change": partial(_retry()),
        "workflow": _workflow(),
        "entry": entry,
        "entry_change": partial(entry),
        "nemesis": nemesis,
        "nemesis_change": partial(nemesis),
        **story_definitions(),
    }


def _config() -> Schema:
    parts = {
        "task_soft_time_limit": duration("When a body is asked to end."),
        "task_time_limit": duration("When a body is ended."),
        "busy_after": duration("How long a workflow run is offered to workers, thrice, before it is busy."),
        "input_timeout": duration("How long a question waits for its answer."),
        "stale_after": duration("How long a running workflow may tell nothing."),
        "data_ttl": duration("How long the data of a workflow run is kept after its last news."),
        "start": text(
            "The first instant of the story where time is virtual, with its offset from UTC.",
            "2026-03-27T00:00:00+01:00",
        ),
        "broker": word("Whose way with messages is simulated.", BROKERS),
        "celery": {
            "description": "Settings of Celery by their names, and visibility_timeout; times may bear units.",
            "type": "object",
            "examples": [{"task_acks_late": True, "visibility_timeout": "30s"}],
        },
    }
    return mapping("Settings of the story.", CONFIG, parts, least=0)


def _workers() -> Schema:
    parts = {
        "count": whole("How many workers: worker1, worker2 ...", WORKER_COUNT),
        "concurrency": whole("Slots of each.", SLOTS),
        "pool": word("Their pool.", POOLS),
        "queues": items("The queues that they consume; without it, all.", _QUEUE, unique=True),
    }
    return mapping("The workers of the story.", WORKERS, parts)


def _task(retry: str = "retry") -> Schema:
    exception = text("What it raises: a text, or a built-in exception with one.", "ValueError: declined")
    parts = {
        "runs_for": duration("How long its body takes."),
        "returns": anything("What it returns: any JSON value."),
        "fails_with": exception,
        "fails_times": whole("Only so many attempts fail.", ATTEMPTS),
        "ignores_soft_limit": flag("Goes on when it is asked to end."),
        "retry": refer(retry),
        "queue": _QUEUE,
        "priority": whole("The priority of its messages.", PRIORITY),
        "call": _CALL,
    }
    member = name("A task of this file.")
    canvases = {
        "chain": items("One after the other.", member),
        "group": items("All at once.", member),
        "chord": items("All at once, and then the body.", member),
        "body": name("The task that ends a chord."),
    }
    return either(
        "What a task does; or call, a task of your own app; or a canvas of other tasks.",
        mapping("A task.", TASK, parts, least=0),
        *(mapping(f"A {kind}.", keys, canvases, needs=keys) for kind, keys in CANVAS.items()),
    )


def _retry() -> Schema:
    parts = {
        "max_attempts": whole("How often it runs at most.", ATTEMPTS),
        "delay": duration("The wait after the first failure."),
        "factor": number("By how much each wait is longer than the one before.", FACTOR),
        "max_delay": duration("The longest wait."),
    }
    return mapping("How often it is tried again, and how far apart.", RETRY, parts)


def _workflow() -> Schema:
    parts = {
        "run": duration("Works for so long."),
        "ask": text("Asks its user something and leaves; goes on with the answer.", "approve"),
        "timeout": duration("How long this question waits for its answer."),
        "emit": {"description": "Tells its clients something: a mapping.", "type": "object"},
        "as": name("The kind of that event, emit without it.", "progress"),
        "fail": text("Raises this.", "declined"),
        "return": anything("Ends with this value; without it, the last answer is the result."),
    }
    steps = [mapping(f"{kind}.", keys, parts, needs=(kind,)) for kind, keys in WORKFLOW_STEPS.items()]
    return either(
        "What a workflow does, step by step; or call, a workflow of your own app.",
        items("Its steps.", either("A step of a workflow.", *steps, any_step(WORKFLOW_STEPS))),
        mapping("A workflow of your own app.", ("call",), {"call": _CALL}, needs=("call",)),
    )


def _entry() -> Schema:
    parts = {
        "launch": name("The task that it launches."),
        "every": duration("How far apart."),
        "cron": text("Five fields: minute, hour, day of month, month, day of week.", "0 2 * * *"),
        "timezone": text("The time zone of cron; UTC without it.", "Europe/Berlin"),
    }
    entry = mapping("An entry of the beat.", BEAT, parts, needs=("launch",))
    return {**entry, "oneOf": [{"required": ["every"]}, {"required": ["cron"]}, any_key()]}


if __name__ == "__main__":
    print(schema_text(), end="")
