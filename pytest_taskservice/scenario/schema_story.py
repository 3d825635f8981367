"""The JSON Schema of what happens in a scenario and what must come of it: steps, faults, expectations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.scenario.acts import FAULT_TARGETS
from pytest_taskservice.scenario.claims import BOUNDS, COUNTS, FLOW_EVENTS, MATCHERS, RUN_EVENTS
from pytest_taskservice.scenario.faults import FAULT_OPTIONS, KINDS, NEMESIS, POINTS
from pytest_taskservice.scenario.limits import BYTES, COUNTED, DRAWN, LAUNCHES, PRIORITY, STRIKES
from pytest_taskservice.scenario.model import (
    REASONS,
    STATUSES,
    WORKFLOW_REASONS,
    WORKFLOW_STATUSES,
    Property,
)
from pytest_taskservice.scenario.schema_parts import (
    Schema,
    any_step,
    anything,
    duration,
    either,
    flag,
    items,
    mapping,
    name,
    refer,
    text,
    whole,
    word,
)
from pytest_taskservice.scenario.steps import COMMANDS, STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["nemesis_schema", "story_definitions"]


def story_definitions() -> dict[str, Schema]:
    """Return the definitions that a story's steps, faults and expectations refer to."""
    options = {_option(key): schema for key, schema in _options().items()}
    matchers = {_matcher(key): schema for key, schema in _matchers().items()}
    return {
        "step": either("One step.", *_steps(STEPS), any_step(STEPS)),
        "command": either("One command of several.", *_steps(COMMANDS), any_step(COMMANDS)),
        "expect": _expect(),
        "fault_rules": {"allOf": _rules()},
        **options,
        **matchers,
    }


def _option(key: str) -> str:
    return f"fault_{key}"


def _matcher(key: str) -> str:
    return f"match_{key}"


def _options() -> dict[str, Schema]:
    return {
        "inject": word("What breaks.", tuple(KINDS)),
        "target": word("Whom it strikes.", FAULT_TARGETS),
        "worker": name("Which worker; without it, the seed draws one.", "worker1"),
        "when": word("At which point of a run's life it strikes.", POINTS),
        "into": duration("How far a body has run by then."),
        "task": name("Only runs of this task."),
        "queue": text("Only messages of this queue.", "mail"),
        "for": duration("How long it lasts; without it, until it is healed."),
        "by": duration("By how much it slows or delays."),
        "rate": whole("Bytes a second.", BYTES),
        "size": whole("Bytes of each slice.", BYTES),
        "restart": either(
            "How long after its end a process comes up again, or never.",
            {"const": "never"},
            duration("So much later."),
        ),
        "times": either("How often it strikes.", {"const": "always"}, whole("So often.", STRIKES)),
    }


def _option_refs() -> dict[str, Schema]:
    return {key: refer(_option(key)) for key in _options()}


def _rules() -> list[Schema]:
    """Return which options each kind of fault has, as conditions."""
    return [
        {
            "if": {"properties": {"inject": {"const": kind}}, "required": ["inject"]},
            "then": {
                "required": list(rule.needs),
                "properties": {option: False for option in FAULT_OPTIONS if option not in rule.options}
                | ({"target": {"enum": list(rule.targets)}} if rule.targets != FAULT_TARGETS else {})
                | ({"when": {"enum": list(rule.points)}} if rule.points != POINTS else {}),
                # Nobody knows when it begins.
                **({"dependentRequired": {"when": ["for"]}} if kind == "pause" else {}),
            },
        }
        for kind, rule in KINDS.items()
    ]


def nemesis_schema() -> Schema:
    """Return the schema of the faults that the seed draws."""
    keys = ("inject", *FAULT_OPTIONS)
    fault = mapping("A fault with its options.", keys, _option_refs(), needs=("inject",))
    fault = {**fault, "allOf": [refer("fault_rules")]}
    plain = word("A kind of fault.", tuple(kind for kind, rule in KINDS.items() if not rule.needs))
    parts = {
        "kinds": items(
            "What may break.", either("A fault, by its kind alone or with options.", plain, fault)
        ),
        "every": either(
            "How far apart: a time, or from and to.",
            duration("So far apart."),
            {"type": "array", "items": duration("From, to."), "minItems": 2, "maxItems": 2},
        ),
        "until": duration("When the last one may come; then all are healed."),
        "limit": whole("How many at most.", DRAWN),
    }
    return mapping("Faults that the seed draws.", NEMESIS, parts, needs=("kinds", "every", "until"))


def _steps(kinds: Mapping[str, tuple[str, ...]]) -> list[Schema]:
    found = []
    for kind, keys in kinds.items():
        parts = _step_parts(kind)
        needs = (kind, "as") if kind == "follow" else (kind,)
        schema = mapping(parts[kind].get("description", ""), keys, parts, needs=needs)
        found.append({**schema, "allOf": [refer("fault_rules")]} if kind == "inject" else schema)
    return found


def _step_parts(kind: str) -> dict[str, Schema]:
    run = "The workflow run, by its captured name."
    parts = {
        "at": duration("When, from the start of the story."),
        "after": duration("How long after the step before."),
        "as": name("Captures what comes of this step under a name.", "run"),
        "count": whole("How often.", LAUNCHES),
        "countdown": duration("How much later it may begin."),
        "expires": duration("After what time it is not begun any more."),
        "priority": whole("The priority of its message.", PRIORITY),
        "args": {"description": "Arguments, for a function of your own.", "type": "array"},
        "kwargs": {"description": "Named arguments, for a function of your own.", "type": "object"},
        "launch": name("Submits a task or a canvas."),
        "start": name("Starts a workflow."),
        "input": name(f"Answers what a workflow run asks. {run}"),
        "value": anything("The answer, true without it."),
        "question": text("The prompt of the question that it answers, if not the open one."),
        "continue": name(f"Sends one more message to take a workflow run up. {run}"),
        "stop": name(f"Ends a workflow run. {run}"),
        "follow": name(f"Reads a workflow run's events, as a client. {run}"),
        "disconnect": name("Cuts a client off, by its captured name."),
        "reconnect": name("Has a client read on after the last event that it saw."),
        "wait": either(
            "Waits: so long, or for runs to end.",
            duration("So long."),
            name("A captured name."),
            items("Captured names.", name("A captured name.")),
        ),
        "within": duration("How long it waits for runs at most: 10s without it."),
        "advance": duration("Lets the story's time pass."),
        "revoke": name("Withdraws runs, by their captured name."),
        "heal": either(
            "Ends faults, by their captured names; all ends every one.",
            name("A captured name, or all."),
            items("Captured names.", name("A captured name.")),
        ),
        "together": items("Commands that are given all at once.", refer("command"), least=2),
    }
    return {**parts, **_option_refs()} if kind == "inject" else parts


def _expect() -> Schema:
    properties = {
        Property.EVENTUALLY: "So within a bound, faults healed.",
        Property.AT: "So at an instant.",
        Property.ALWAYS: "So at every event.",
        Property.NEVER: "Not so at any event.",
        Property.SOMETIMES: "So at least once, over all seeds.",
        Property.ORDER: "The first event of each comes before that of the next.",
    }
    parts = {str(key): items(doc, _claim(key)) for key, doc in properties.items()}
    return mapping("What must come of it.", tuple(map(str, Property)), parts)


def _claim(kind: Property) -> Schema:
    if kind is Property.ORDER:
        parts = {
            "of": items("Two captured names or more.", name("A captured name."), least=2),
            "event": word("The event that is compared.", (*RUN_EVENTS, *FLOW_EVENTS)),
        }
        return mapping("An order.", tuple(parts), parts, needs=tuple(parts))

    bound = {BOUNDS[kind]: duration("From the start of the story.")} if kind in BOUNDS else {}
    of = name("What was captured, a beat entry, <name>.members of a canvas, or workers.")
    every = dict.fromkeys(key for keys in MATCHERS.values() for key in keys)
    parts = {**bound, "of": of, **{key: refer(_matcher(key)) for key in _matchers()}}
    schema = mapping("An expectation.", (*bound, "of", *every), parts, needs=(*bound, "of"))
    return {**schema, "minProperties": len(bound) + 2}


def _matchers() -> dict[str, Schema]:
    counts = {
        "attempts": "How often its body was begun, redeliveries apart.",
        "deliveries": "How often a worker received it.",
        "starts": "How often its body was begun.",
        "runs": "How many runs were captured.",
        "stored_keys": "How many keys are stored for a workflow run.",
        "struck": "How often a fault has struck.",
        "running": "How many bodies run.",
        "alive": "How many workers there are.",
    }
    return {
        "status": word("Where it stands.", tuple(dict.fromkeys((*STATUSES, *WORKFLOW_STATUSES)))),
        "result": anything("What it returned."),
        "error": text("What it raised: class, text, or both; of a command its code.", "workflow_expired"),
        "reason": word("Why it failed.", tuple(dict.fromkeys((*REASONS, *WORKFLOW_REASONS)))),
        "events": items("Events in this order; others may stand between.", name("An event.", "started")),
        "taken": flag("Whether the command was taken."),
        "all_occupied": flag("Whether no slot is free."),
        **{key: whole(doc, COUNTS.get(key, COUNTED)) for key, doc in counts.items()},
    }
