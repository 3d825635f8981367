"""The record of one test in a world, as JSON: enough to draw it, and to play it again.

The models here are the schema; ``run.schema.json`` beside this file is what they say, for everybody else.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_taskservice.report.files import record_path, replace_file
from pytest_taskservice.report.text import run_names
from pytest_taskservice.scenario.write import structured, write

if TYPE_CHECKING:
    from pytest_taskservice.drivers.base import WorldDriver
    from pytest_taskservice.history import EventLog
    from pytest_taskservice.report.play import Play

__all__ = ["RunRecord", "of_play", "of_test", "read", "save", "schema"]

_PACKAGES = ("taskservice", "celery", "kombu", "redis", "pytest", "anyio")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class EventRecord(_Model):
    """One thing that happened."""

    at: float = Field(description="Seconds since the story's start")
    kind: str = Field(description="A word of pytest_taskservice.history.EventKind")
    run: str = Field(default="", description="The run's id; empty where it happened to no run")
    name: str = Field(
        default="", description="What reports call the run: its captured name, or its task, numbered"
    )
    task: str = ""
    attempt: int = 1
    worker: str = Field(default="", description="Empty where it happened in the test's own process")
    detail: dict[str, Any] = {}


class OutcomeRecord(_Model):
    """How one captured run stood in the end."""

    run: str
    status: str
    result: Any = None
    error: str = Field(default="", description="The class name of its exception")
    message: str = ""
    reason: str = Field(default="", description="Of a workflow run that failed")
    attempts: int | None = None


class MismatchRecord(_Model):
    """One thing that was not as it must be."""

    path: str
    line: int
    column: int
    expected: str
    got: str
    run: str = ""
    at: float | None = Field(default=None, description="Seconds since the story's start")
    invariant: str = Field(
        default="", description="The rule that was broken, where no line of the file asks for it"
    )


class ScenarioRecord(_Model):
    """What was played, as this world plays it."""

    name: str
    case: str = Field(default="", description="The words of its row of parameters")
    path: str
    line: int
    text: str = Field(description="A scenario file that plays exactly this")
    document: dict[str, Any] = Field(description="The same as data: what a reader of that file sees")


class RunRecord(_Model):
    """One test in one world."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["scenario", "test"]
    id: str = Field(description="The test's id in pytest")
    recorded: str = Field(description="When this was written, ISO 8601")
    outcome: Literal["passed", "failed", "skipped"]
    message: str = Field(default="", description="The first line of the failure, or the reason of the skip")
    backend: str
    world: str = Field(description="The back end with its event loop or seed")
    seed: int | None = None
    digest: str = Field(default="", description="The same for every play with this seed")
    options: dict[str, Any] = {}
    replay: str = ""
    scenario: ScenarioRecord | None = None
    start: float = Field(description="The first instant in the world's clock, seconds since the Unix epoch")
    runs: dict[str, list[str]] = Field(default={}, description="Ids of runs by their captured name")
    events: list[EventRecord] = []
    outcomes: dict[str, list[OutcomeRecord]] = Field(default={}, description="By captured name, as in runs")
    mismatches: list[MismatchRecord] = []
    sometimes: dict[str, bool] = Field(
        default={}, description="By its place in the file, whether each `sometimes` held in this play"
    )
    versions: dict[str, str] = {}


def of_play(play: Play) -> dict[str, Any]:
    """Return what is recorded of a play, as long as its world is there."""
    scenario, verdict = play.scenario, play.verdict
    return {
        "kind": "scenario",
        "backend": play.backend,
        "world": play.world,
        "seed": play.seed,
        "digest": play.digest,
        "options": _plain(play.options),
        "replay": play.replay,
        "scenario": {
            "name": scenario.name,
            "case": scenario.case,
            "path": scenario.mark.path,
            "line": scenario.mark.line,
            "text": write(scenario),
            "document": _plain(structured(scenario)),
        },
        "start": verdict.start,
        "runs": {name: list(runs) for name, runs in verdict.runs.items()},
        "events": _events(verdict.log, verdict.start, run_names(verdict)),
        "outcomes": {
            name: [
                _outcome(run, outcome, verdict.log)
                for run, outcome in zip(verdict.runs.get(name, ()), outcomes, strict=False)
            ]
            for name, outcomes in verdict.outcomes.items()
        },
        "mismatches": [
            {
                "path": one.mark.path,
                "line": one.mark.line,
                "column": one.mark.column,
                "expected": one.expected,
                "got": one.got,
                "run": one.run,
                "at": one.at,
                "invariant": one.invariant,
            }
            for one in verdict.mismatches
        ],
        "sometimes": dict(verdict.sometimes),
        "path": play.record,
    }


def of_test(driver: WorldDriver, *, directory: Path, nodeid: str, world: str, replay: str) -> dict[str, Any]:
    """Return what is recorded of a plain test: its history, and whether it passed."""
    log = driver.log()
    start = min((event.at for event in log), default=0.0)
    story: Any = getattr(driver, "story", None)
    return {
        "kind": "test",
        "backend": driver.name,
        "world": world,
        "seed": None if story is None else story.seed,
        "digest": "" if story is None else story.digest,
        "replay": replay,
        "start": start if story is None else story.start,
        "events": _events(log, start if story is None else story.start, {}),
        "path": str(record_path(directory, nodeid)),
    }


def save(found: Mapping[str, Any], *, nodeid: str, outcome: str, message: str) -> None:
    """Write one record."""
    values = dict(found)
    path = Path(values.pop("path"))
    record = RunRecord(
        id=nodeid,
        recorded=datetime.now(tz=UTC).isoformat(timespec="milliseconds"),
        outcome=outcome,  # type: ignore[arg-type] # checked by the model
        message=message,
        versions=_versions(),
        **values,
    )
    told = _plain(record.model_dump(by_alias=True, exclude_defaults=False))
    replace_file(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> RunRecord:
    """Return a record; ValueError if that file is none."""
    return RunRecord.model_validate_json(path.read_bytes())


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**head, **RunRecord.model_json_schema(by_alias=True, mode="serialization")}


def _events(log: EventLog, start: float, names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "at": round(event.at - start, 6),
            "kind": str(event.kind),
            "run": event.run,
            "name": names.get(event.run, ""),
            "task": event.task,
            "attempt": event.attempt,
            "worker": event.worker,
            "detail": _plain(event.detail),
        }
        for event in log
    ]


def _outcome(run: str, outcome: Any, log: EventLog) -> dict[str, Any]:
    """Return how a run ended, whichever kind of run it was."""
    names = ("status", "result", "error", "message", "reason")
    found = {name: getattr(outcome, name) for name in names if hasattr(outcome, name)}
    if hasattr(outcome, "attempts"):
        # Not every result backend counts them; the history does.
        found["attempts"] = max([outcome.attempts, *(event.attempt for event in log.of(run))])
    return {"run": run, **_plain({"status": "", **found})}


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON says it; what JSON has no word for is told by its repr."""
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping():
            return {_text(str(key)): _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
    return _text(value if isinstance(value, str) else repr(value))


def _text(text: str) -> str:
    # A lone surrogate is nothing that a file could hold.
    return text.encode("utf-8", "backslashreplace").decode()


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
