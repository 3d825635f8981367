"""What expectations can be about: everything captured, and the workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_taskservice.scenario.acts import (
    Continue,
    Follow,
    Inject,
    Input,
    Launch,
    Revoke,
    Start,
    Step,
    Stop,
)
from pytest_taskservice.scenario.captured import Cast, Kind
from pytest_taskservice.scenario.story import commands_of, moments, run_length

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Canvas, Task, Workflow

__all__ = ["Target", "targets"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One of them.

    ``begins`` is when it is captured at the earliest, ``over`` when its run is. ``task``, ``canvas`` and
    ``workflow`` say what it runs. ``answers``, ``stops`` and ``revokes`` are the instants of the steps that
    do so to it, and ``breaks`` says whether the story breaks anything.
    """

    name: str
    kind: Kind
    begins: float = 0.0
    over: float = 0.0
    count: int | None = None
    expires: bool = False
    task: Task | None = None
    canvas: Canvas | None = None
    workflow: Workflow | None = None
    answers: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    revokes: list[float] = field(default_factory=list)
    breaks: bool = False

    def __str__(self) -> str:
        return self.name if self.kind is Kind.WORKERS else f"{self.name!r}, a {self.kind}"


def targets(steps: tuple[Step, ...], cast: Cast, *, breaks: bool) -> dict[str, Target]:
    """Return what a story's expectations can name, by name; ``breaks`` says that the seed draws faults."""
    breaks = breaks or any(isinstance(step, Inject) for step in steps)
    found = {
        name: Target(name=name, kind=Kind.ENTRY, task=cast.tasks[entry.task], breaks=breaks)
        for name, entry in cast.beat.items()
    }
    for moment in moments(steps, cast.tasks, cast.config, **cast.parts):
        for command in commands_of(moment.step):
            _note(command, moment.begins, found)
            for target in _captured(command, moment.begins, cast, found, breaks=breaks):
                found[target.name] = target
    found["workers"] = Target(name="workers", kind=Kind.WORKERS, breaks=breaks)
    return found


def _note(step: Step, at: float, found: dict[str, Target]) -> None:
    """Note what ``step`` does to those captured before."""
    match step:
        case Input(run=run):
            found[run].answers.append(at)
        case Stop(run=run):
            found[run].stops.append(at)
        case Revoke(name=name):
            found[name].revokes.append(at)


def _captured(step: Step, at: float, cast: Cast, found: dict[str, Target], *, breaks: bool) -> list[Target]:
    match step:
        case Launch(name=str(name)):
            return _launched(step, name, at, cast, breaks=breaks)
        case Start(name=str(name)):
            over = at + run_length(step, cast.tasks, cast.config, **cast.parts)
            workflow = cast.workflows[step.workflow]
            start = Target(
                name=name,
                kind=Kind.WORKFLOW,
                begins=at,
                over=over,
                count=step.count,
                workflow=workflow,
                breaks=breaks,
            )
            return [start]
        case Input(name=str(name)) | Continue(name=str(name)) | Stop(name=str(name)):
            return [Target(name=name, kind=Kind.COMMAND, begins=at)]
        case Follow(name=name):
            return [Target(name=name, kind=Kind.CLIENT, begins=at, workflow=found[step.run].workflow)]
        case Inject(name=str(name)):
            return [Target(name=name, kind=Kind.FAULT, begins=at)]
    return []


def _launched(step: Launch, name: str, at: float, cast: Cast, *, breaks: bool) -> list[Target]:
    over = at + run_length(step, cast.tasks, cast.config, **cast.parts)
    canvas = cast.canvases.get(step.task)
    if canvas is None:
        run = Target(
            name=name,
            kind=Kind.RUN,
            begins=at,
            over=over,
            count=step.count,
            expires=step.expires is not None,
            task=cast.tasks[step.task],
            breaks=breaks,
        )
        return [run]

    ends = len(canvas.members) if canvas.kind == "group" else 1
    others = {"chain": len(canvas.members) - 1, "group": 0, "chord": len(canvas.members)}[canvas.kind]
    whole = Target(
        name=name, kind=Kind.RUN, begins=at, over=over, count=step.count * ends, canvas=canvas, breaks=breaks
    )
    members = Target(
        name=f"{name}.members",
        kind=Kind.MEMBERS,
        begins=at,
        over=at,
        count=step.count * others,
        canvas=canvas,
        breaks=breaks,
    )
    return [whole, members]
