"""What is smaller than a scenario: each way to take something away from it, or to shorten it. Pure.

What is left stands on its own: nothing speaks of what is no longer there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario import acts
from pytest_taskservice.scenario.behaviour import Behaviour
from pytest_taskservice.scenario.model import Config, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from pytest_taskservice.scenario.acts import Step
    from pytest_taskservice.scenario.model import Expectation

    Candidates: TypeAlias = Callable[[Scenario, frozenset[str]], Iterator[Scenario]]

__all__ = ["PASSES", "TIMES", "captured_by", "needed_by", "without_unused"]

# In an expectation they name what is no step of the story.
_OF_ITSELF = "workers"
# Shorter than that, a bound reads as if it were the reason.
_SHORTEST = 1.0
# Whoever reads a failure knows it by its text.
_KEPT = ("runs_for", "fails_with")


def needed_by(scenario: Scenario, claim: Expectation | None) -> frozenset[str]:
    """Return the captured names that ``claim`` is about, and those that they depend on."""
    if claim is None:
        return frozenset()

    names = {name.partition(".")[0] for name in (claim.of, *claim.targets)}
    for step in reversed(list(_flat(scenario.steps))):
        if captured_by(step) in names:
            names |= _names_in(step)
    return frozenset(names - {_OF_ITSELF, ""})


def captured_by(step: Step) -> str | None:
    """Return the name that a step captures something under."""
    return None if isinstance(step, acts.Revoke) else getattr(step, "name", None)


def without_unused(scenario: Scenario) -> Scenario:
    """Return the scenario without tasks, canvases and workflows that nobody asks for."""
    steps = (*_flat(scenario.steps), *_flat(scenario.cleanup))
    launched = {step.task for step in steps if isinstance(step, acts.Launch)}
    launched |= {entry.task for entry in scenario.beat.values()}
    canvases = {name: canvas for name, canvas in scenario.canvases.items() if name in launched}
    for canvas in canvases.values():
        launched |= {*canvas.members, *filter(None, [canvas.body])}
    started = {step.workflow for step in steps if isinstance(step, acts.Start)}
    return replace(
        scenario,
        tasks={name: task for name, task in scenario.tasks.items() if name in launched},
        canvases=canvases,
        workflows={name: flow for name, flow in scenario.workflows.items() if name in started},
    )


def _without_faults(scenario: Scenario, kept: frozenset[str]) -> Iterator[Scenario]:
    faults = [step for step in _flat(scenario.steps) if isinstance(step, acts.Inject)]
    dropped = {step.mark for step in faults if step.name is None or step.name not in kept}
    calm = _standing(scenario, dropped) if dropped else scenario
    if scenario.faults is not None:
        yield replace(calm, faults=None)
        yield replace(scenario, faults=None)
        if len(scenario.faults.kinds) > 1:
            for kind in scenario.faults.kinds:
                yield replace(scenario, faults=replace(scenario.faults, kinds=(kind,)))
    elif dropped:
        yield calm


def _without_steps(scenario: Scenario, kept: frozenset[str]) -> Iterator[Scenario]:
    if scenario.cleanup:
        yield replace(scenario, cleanup=())
    free = [step.mark for step in _flat(scenario.steps) if captured_by(step) not in kept]
    for chunk in _chunks(free):
        yield _standing(scenario, set(chunk))


def _without_claims(scenario: Scenario, kept: frozenset[str]) -> Iterator[Scenario]:
    del kept
    marks = [claim.mark for claim in scenario.expect]
    for chunk in _chunks(marks):
        yield replace(scenario, expect=tuple(claim for claim in scenario.expect if claim.mark not in chunk))


def _without_workers(scenario: Scenario, kept: frozenset[str]) -> Iterator[Scenario]:
    del kept
    workers = scenario.workers
    if workers is None:
        return
    yield replace(scenario, workers=None)
    for name, least in (("count", 1), ("concurrency", 1)):
        if getattr(workers, name) > least:
            yield replace(scenario, workers=_with(workers, name, least))
    if workers.queues:
        yield replace(scenario, workers=_with(workers, "queues", ()))


def _without_beat(scenario: Scenario, kept: frozenset[str]) -> Iterator[Scenario]:
    for name in scenario.beat:
        if name not in kept:
            left = {other: entry for other, entry in scenario.beat.items() if other != name}
            yield _without_names(replace(scenario, beat=left), {name})


def _without_settings(scenario: Scenario, kept: frozenset[str]) -> Iterator[Scenario]:
    del kept
    if scenario.config != Config():
        yield replace(scenario, config=Config())
    for field in fields(Config):
        usual = getattr(Config(), field.name)
        if getattr(scenario.config, field.name) != usual:
            yield replace(scenario, config=_with(scenario.config, field.name, usual))
    for name, task in scenario.tasks.items():
        for plain in _plainer(task.behaviour) if task.behaviour else ():
            yield replace(scenario, tasks={**scenario.tasks, name: replace(task, behaviour=plain)})


def _fewer(scenario: Scenario, kept: frozenset[str]) -> Iterator[Scenario]:
    del kept
    for number, step in enumerate(scenario.steps):
        count = getattr(step, "count", 1)
        for fewer in dict.fromkeys((1, count // 2, count - 1)):
            if 0 < fewer < count:
                yield _replaced(scenario, number, _with(step, "count", fewer))


def _shorter(scenario: Scenario, kept: frozenset[str]) -> Iterator[Scenario]:
    """Yield what takes less time; no bound is tightened alone, for any run would break it in the end."""
    del kept
    yield _halved(scenario)
    for name, task in scenario.tasks.items():
        behaviour = task.behaviour
        if behaviour is not None and behaviour.runs_for:
            for shorter in dict.fromkeys((0.0, _half(behaviour.runs_for))):
                short = replace(task, behaviour=replace(behaviour, runs_for=shorter))
                yield replace(scenario, tasks={**scenario.tasks, name: short})
    for number, step in enumerate(scenario.steps):
        if step.at:
            yield _replaced(scenario, number, _with(step, "at", None))
        elif step.after:
            yield _replaced(scenario, number, _with(step, "after", 0.0))
        if isinstance(step, acts.Wait | acts.Advance) and step.duration and step.duration > _SHORTEST:
            yield _replaced(scenario, number, _with(step, "duration", _half(step.duration)))


PASSES: tuple[Candidates, ...] = (
    _without_faults,
    _without_steps,
    _without_claims,
    _without_workers,
    _without_beat,
    _without_settings,
    _fewer,
)
"""Each yields what lacks something, the most promising first; given the names that must stay."""
TIMES: Candidates = _shorter
"""Yields what is shorter."""


def _plainer(behaviour: Behaviour) -> Iterator[Behaviour]:
    usual = Behaviour()
    for field in fields(Behaviour):
        if field.name not in _KEPT and getattr(behaviour, field.name) != getattr(usual, field.name):
            yield _with(behaviour, field.name, getattr(usual, field.name))


def _halved(scenario: Scenario) -> Scenario:
    """Return the story at twice its pace: every step, body and bound."""
    tasks = {
        name: replace(task, behaviour=_quicker(task.behaviour)) if task.behaviour else task
        for name, task in scenario.tasks.items()
    }
    flows = {
        name: replace(flow, steps=tuple(replace(one, seconds=_half(one.seconds)) for one in flow.steps))
        for name, flow in scenario.workflows.items()
    }
    config: Any = scenario.config
    for field in fields(Config):
        value = getattr(config, field.name)
        if isinstance(value, float):
            config = _with(config, field.name, _half(value))
    return replace(
        scenario,
        tasks=tasks,
        workflows=flows,
        config=config,
        steps=tuple(map(_quick, scenario.steps)),
        expect=tuple(
            claim if claim.instant is None else replace(claim, instant=_half(claim.instant))
            for claim in scenario.expect
        ),
    )


def _quicker(behaviour: Behaviour) -> Behaviour:
    retry = behaviour.retry
    slow = retry is not None and retry.delay > 0
    return replace(
        behaviour,
        runs_for=_half(behaviour.runs_for),
        retry=replace(retry, delay=_half(retry.delay)) if retry is not None and slow else retry,
    )


def _quick(step: Step) -> Step:
    found: Any = step
    for name in ("at", "after", "duration", "countdown", "expires", "within"):
        if value := getattr(found, name, None):
            found = _with(found, name, _half(value))
    if isinstance(found, acts.Together):
        inner: Any = tuple(map(_quick, found.steps))
        found = replace(found, steps=inner)
    return found  # type: ignore[no-any-return] # the kind of step that it was


def _half(seconds: float) -> float:
    """Return about half, down to a second; a round number is kept round, so that it can be read."""
    half = max(seconds / 2, min(seconds, _SHORTEST))
    return float(round(half)) if half > 10 else round(half, 3)


def _standing(scenario: Scenario, dropped: set[acts.Mark]) -> Scenario:
    """Return ``scenario`` without some steps, nor what speaks of the names they captured."""
    gone = {captured_by(step) for step in _flat(scenario.steps) if step.mark in dropped}
    steps = tuple(left for step in scenario.steps if (left := _less(step, dropped)) is not None)
    return _without_names(replace(scenario, steps=steps), {name for name in gone if name})


def _less(step: Step, dropped: set[acts.Mark]) -> Step | None:
    if step.mark in dropped:
        return None
    if not isinstance(step, acts.Together):
        return step
    inner = tuple(one for one in step.steps if one.mark not in dropped)
    return replace(step, steps=inner) if inner else None


def _without_names(scenario: Scenario, gone: set[str]) -> Scenario:
    """Return ``scenario`` without what depends on the names that are ``gone``, and so on."""
    if not gone:
        return scenario
    expect = tuple(
        claim
        for claim in scenario.expect
        if gone.isdisjoint(name.partition(".")[0] for name in (claim.of, *claim.targets))
    )
    all_steps = (*_flat(scenario.steps), *_flat(scenario.cleanup))
    broken = {step.mark for step in all_steps if _names_in(step) & gone and not _narrowed(step, gone)}
    steps = _narrow(scenario.steps, broken, gone)
    next_gone = {captured_by(step) for step in _flat(scenario.steps) if step.mark in broken} - {None}
    left = replace(scenario, expect=expect, steps=steps, cleanup=_narrow(scenario.cleanup, broken, gone))
    return _without_names(left, {str(name) for name in next_gone})


def _narrow(steps: tuple[Step, ...], broken: set[acts.Mark], gone: set[str]) -> tuple[Step, ...]:
    found = (_less(step, broken) for step in steps)
    return tuple(_narrowed(step, gone) or step for step in found if step is not None)


def _narrowed(step: Step, gone: set[str]) -> Step | None:
    """Return a step that is about several names without those that are ``gone``; ``None`` if none is left."""
    key = {acts.Wait: "runs", acts.Heal: "names"}.get(type(step))
    names = tuple(name for name in getattr(step, key) if name.partition(".")[0] not in gone) if key else ()
    return _with(step, str(key), names) if names else None


def _names_in(step: Step) -> set[str]:
    """Return the captured names that a step speaks of."""
    match step:
        case acts.Input() | acts.Continue() | acts.Stop() | acts.Follow():
            names: tuple[str, ...] = (step.run,)
        case acts.Disconnect() | acts.Reconnect():
            names = (step.client,)
        case acts.Wait():
            names = step.runs
        case acts.Revoke():
            names = (step.name,)
        case acts.Heal():
            names = step.names
        case _:
            names = ()
    return {name.partition(".")[0] for name in names}


def _flat(steps: tuple[Step, ...]) -> Iterator[Step]:
    for step in steps:
        yield step
        if isinstance(step, acts.Together):
            yield from step.steps


def _chunks(marks: Sequence[acts.Mark]) -> Iterator[Sequence[acts.Mark]]:
    """Yield all, then halves and quarters and so on, the last ones first."""
    size = len(marks)
    while size:
        for end in range(len(marks), 0, -size):
            yield marks[max(end - size, 0) : end]
        size //= 2


def _replaced(scenario: Scenario, number: int, step: Any) -> Scenario:
    return replace(scenario, steps=(*scenario.steps[:number], step, *scenario.steps[number + 1 :]))


def _with(value: Any, name: str, new: Any) -> Any:
    return replace(value, **{name: new})
