"""Scenarios to scenario files: the text that ``load`` reads to an equal scenario, marks apart.

Only what differs from the defaults is written. How YAML is spelled is in ``spell``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import acts
from pytest_taskservice.scenario.config import DURATIONS
from pytest_taskservice.scenario.model import Config, Property, Scenario, Skip, Task, Workers
from pytest_taskservice.scenario.spell import spell, spell_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_taskservice.scenario.behaviour import Behaviour
    from pytest_taskservice.scenario.model import Canvas, Entry, Expectation, Nemesis, Workflow, WorkflowStep

__all__ = ["structured", "write"]

_Data = dict[str, Any]
_INSTANTS = {Property.EVENTUALLY: "within", Property.AT: "time"}
_OF_ONE: tuple[tuple[type[acts.Step], str, str], ...] = (
    (acts.Continue, "continue", "run"),
    (acts.Stop, "stop", "run"),
    (acts.Follow, "follow", "run"),
    (acts.Disconnect, "disconnect", "client"),
    (acts.Reconnect, "reconnect", "client"),
)
_USUAL: _Data = {
    **dict.fromkeys(("worker", "when", "task", "queue"), ""),
    "target": "worker",
    "into": "0s",
    "by": "0s",
    "rate": 0,
    "size": 0,
    "restart": "1s",
    "times": 1,
}
"""What a fault is without a word about it."""
_PLAIN_SETTINGS = ("start", "broker")


def write(scenario: Scenario, *, comments: Sequence[str] = ()) -> str:
    """Return a scenario file of one document, with ``comments`` as lines at its top."""
    # A line of its own each: what is quoted there may have several.
    lines = [line for comment in comments for line in (comment.splitlines() or [""])]
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return (head + "\n" if head else "") + spell(structured(scenario))


def structured(scenario: Scenario) -> _Data:
    """Return the document as plain data, in the order of a file's keys."""
    # The words of a case have no parameters left to come from, so each becomes one.
    words = {f"case_{number}": word for number, word in enumerate(scenario.case.split("-"), start=1)}
    head: _Data = {
        "schema": 1,
        "name": scenario.name,
        "description": scenario.description or None,
        "tags": list(scenario.tags) or None,
        "backends": list(scenario.backends) or None,
        "parameters": [words] if scenario.case else None,
        "seeds": list(scenario.seeds) or None,
    }
    worlds = {backend: _world(scenario, world) for backend, world in scenario.worlds.items()}
    # A row of parameters may have said what is so anyway.
    worlds = {backend: change for backend, change in worlds.items() if change}
    story = _Writer(whole=False).story(scenario)
    cleanup = story.pop("finally")
    return _said({**head, **story, "overrides": worlds or None, "finally": cleanup})


def _world(base: Scenario, world: Scenario | Skip) -> _Data:
    """Return what has to be merged over ``base`` to make it ``world``."""
    if isinstance(world, Skip):
        return {"skip": world.reason}

    # What a world sets back to a default must be said, for it is merged over something else.
    writer = _Writer(whole=True)
    mine, theirs = _said(writer.story(base)), _said(writer.story(world))
    return {key: value for key, value in theirs.items() if mine.get(key) != value}


class _Writer:
    """Writes parts of a story; ``whole`` says the values that are defaults, too."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def story(self, scenario: Scenario) -> _Data:
        """Return all that ``overrides`` may change; ``None`` for what is not there."""
        tasks = {name: self._task(task) for name, task in scenario.tasks.items()}
        canvases = {name: _canvas(canvas) for name, canvas in scenario.canvases.items()}
        flows = {name: _workflow(flow) for name, flow in scenario.workflows.items()}
        beat = {name: _entry(entry) for name, entry in scenario.beat.items()}
        return {
            "config": self._config(scenario.config) or None,
            "workers": None if scenario.workers is None else self._workers(scenario.workers),
            "tasks": {**tasks, **canvases} or None,
            "workflows": flows or None,
            "beat": beat or None,
            "steps": [self._step(step) for step in scenario.steps],
            "faults": None if scenario.faults is None else self._nemesis(scenario.faults),
            "expect": _claims(scenario.expect),
            "invariants": dict.fromkeys(sorted(scenario.unchecked), "off") or None,
            "finally": [self._step(step) for step in scenario.cleanup] or None,
        }

    def _but(self, said: _Data, **defaults: Any) -> _Data:
        """Return ``said`` without what a reader takes for granted."""
        if self._whole:
            return said
        return {key: value for key, value in said.items() if value != defaults.get(key, said)}

    def _config(self, config: Config) -> _Data:
        durations = {name: _duration(getattr(config, name)) for name in DURATIONS}
        texts = {name: getattr(config, name, "") or None for name in _PLAIN_SETTINGS}
        return _said({**durations, **texts, "celery": dict(config.celery) or None})

    def _workers(self, workers: Workers) -> _Data:
        said = {"count": workers.count, "concurrency": workers.concurrency}
        rest = _said({"pool": workers.pool, "queues": list(workers.queues) or None})
        # An empty mapping would be none: one that says its defaults still is one.
        return {**self._but(said, count=1, concurrency=2), **rest} or {"count": 1}

    def _task(self, task: Task) -> _Data:
        said = {"call": task.call} if task.behaviour is None else self._behaviour(task.behaviour)
        return {**said, **_said({"queue": task.queue, "priority": task.priority})}

    def _behaviour(self, behaviour: Behaviour) -> _Data:
        retry = behaviour.retry
        said: _Data = {"runs_for": _duration(behaviour.runs_for)}
        said = self._but(said, runs_for="0s")
        if self._whole or behaviour.returns is not None:
            said["returns"] = behaviour.returns
        said |= _said({"fails_with": behaviour.fails_with, "fails_times": behaviour.fails_times})
        said |= self._but({"ignores_soft_limit": behaviour.ignores_soft_limit}, ignores_soft_limit=False)
        if retry is not None:
            rest = {
                "delay": _duration(retry.delay),
                "factor": int(retry.factor) if retry.factor.is_integer() else retry.factor,
                "max_delay": _duration(retry.max_delay),
            }
            kept = self._but(rest, delay="0s", factor=1, max_delay="1h")
            said["retry"] = {"max_attempts": retry.max_attempts, **kept}
        return said

    def _step(self, step: acts.Step) -> _Data:
        when = {"at": _duration(step.at)} if step.at is not None else {"after": _duration(step.after)}
        said = self._deed(step)
        # Beside an empty instant a wait reads better alone.
        return said if when == {"after": "0s"} else {**when, **said}

    def _deed(self, step: acts.Step) -> _Data:
        match step:
            case acts.Launch():
                return self._launch(step)
            case acts.Start():
                return self._counted(step, {"start": step.workflow})
            case acts.Input():
                said: _Data = {"input": step.run}
                if step.value is not True:
                    said["value"] = step.value
                return said | _said({"question": step.question, "as": step.name})
            case acts.Inject():
                return self._fault(step.fault) | _said({"as": step.name})
            case acts.Together():
                return {"together": [self._step(one) for one in step.steps]}
        return _short(step)

    def _launch(self, step: acts.Launch) -> _Data:
        said = {
            "countdown": _duration(step.countdown),
            "expires": _duration(step.expires),
            "priority": step.priority,
        }
        return self._counted(step, {"launch": step.task, **_said(said)})

    def _counted(self, step: acts.Launch | acts.Start, said: _Data) -> _Data:
        arguments = {"args": list(step.args) or None, "kwargs": dict(step.kwargs) or None}
        count = {} if step.count == 1 else {"count": step.count}
        return {**said, **count, **_said({**arguments, "as": step.name})}

    def _fault(self, fault: acts.FaultCall) -> _Data:
        said = {
            "inject": fault.kind,
            "target": fault.target,
            "worker": fault.worker,
            "when": fault.when,
            "into": _duration(fault.into),
            "task": fault.task,
            "queue": fault.queue,
            "for": _duration(fault.lasts),
            "by": _duration(fault.by),
            "rate": fault.rate,
            "size": fault.size,
            "restart": _duration(fault.restart) or "never",
            "times": fault.times or "always",
        }
        return _said({key: value for key, value in said.items() if value != _USUAL.get(key, object)})

    def _nemesis(self, nemesis: Nemesis) -> _Data:
        kinds = [self._fault(fault) for fault in nemesis.kinds]
        return _said(
            {
                "kinds": [kind["inject"] if len(kind) == 1 else kind for kind in kinds],
                "every": [_duration(bound) for bound in nemesis.every],
                "until": _duration(nemesis.until),
                "limit": nemesis.limit,
            }
        )


def _short(step: acts.Step) -> _Data:
    match step:
        case acts.Wait():
            return _wait(step)
        case acts.Advance():
            return {"advance": _duration(step.duration)}
        case acts.Heal():
            return {"heal": _one_or_all(step.names) if step.names else "all"}
        case acts.Revoke():
            return {"revoke": step.name}
    for kind, word, subject in _OF_ONE:
        if isinstance(step, kind):
            return {word: getattr(step, subject)} | _said({"as": getattr(step, "name", None)})
    raise TypeError(f"no step: {step!r}")


def _wait(step: acts.Wait) -> _Data:
    if step.duration is not None:
        return {"wait": _duration(step.duration)}

    within = {} if step.within == 10 else {"within": _duration(step.within)}
    return {"wait": _one_or_all(step.runs), **within}


def _one_or_all(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


def _canvas(canvas: Canvas) -> _Data:
    return {canvas.kind: list(canvas.members)} | _said({"body": canvas.body})


def _workflow(workflow: Workflow) -> _Data | list[_Data]:
    if workflow.call is not None:
        return {"call": workflow.call}
    return [_flow_step(step) for step in workflow.steps]


def _flow_step(step: WorkflowStep) -> _Data:
    match step.kind:
        case "run":
            return {"run": _duration(step.seconds)}
        case "ask":
            return {"ask": step.text} | ({"timeout": _duration(step.seconds)} if step.seconds else {})
        case "emit":
            return {"emit": step.value} | ({"as": step.text} if step.text not in ("", "emit") else {})
        case "fail":
            return {"fail": step.text}
    return {"return": step.value}


def _entry(entry: Entry) -> _Data:
    timezone = None if entry.timezone == "UTC" else entry.timezone
    when = {"every": _duration(entry.every), "cron": entry.cron, "timezone": timezone}
    return {"launch": entry.task, **_said(when)}


def _claims(expect: tuple[Expectation, ...]) -> _Data:
    found: dict[str, list[_Data]] = {}
    for claim in expect:
        instant = {_INSTANTS[claim.property]: _duration(claim.instant)} if claim.property in _INSTANTS else {}
        of = list(claim.targets) if claim.property is Property.ORDER else claim.of
        wanted = {
            key: list(value) if isinstance(value, tuple) else value for key, value in claim.wanted.items()
        }
        found.setdefault(str(claim.property), []).append({**instant, "of": of, **wanted})
    return dict(found)


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else spell_duration(seconds)


def _said(values: Mapping[str, Any]) -> _Data:
    return {key: value for key, value in values.items() if value is not None}
