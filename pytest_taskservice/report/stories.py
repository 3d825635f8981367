"""What all plays of a session say together: which worlds agree, and what held sometimes.

Fed with the reports of single plays, in the process that the user started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_taskservice.report.parting import parting

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Judged", "Stories", "pseudo_id"]

_SECTION = "taskservice worlds"


def pseudo_id(path: str, title: str, world: str) -> str:
    """Return the test id of what all seeds of a scenario in one world must show."""
    name, _, case = title.partition("[")
    inside = "-".join(part for part in (case.removesuffix("]"), world) if part)
    # The word stands where pytest takes it for a part of the name.
    return f"{path}::{name} sometimes[{inside}]"


@dataclass(kw_only=True)
class _InWorld:
    """One scenario in one world, over all its seeds."""

    world: str
    line: int
    whole: int
    passed: int = 0
    failed: list[Any] = field(default_factory=list)
    """The seeds that failed."""
    courses: dict[bool, tuple[Any, Any]] = field(default_factory=dict)
    """The first seed, and what happened with it, of those that passed and of those that failed."""
    looked_for: dict[str, str] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    reports: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def played(self) -> int:
        return self.passed + len(self.failed)

    def __str__(self) -> str:
        if self.played == 1:
            return f"{self.world:<14} {'passed' if self.passed else 'failed'}"
        if not self.failed:
            return f"{self.world:<14} passed with all {self.played} seeds"
        return (
            f"{self.world:<14} failed with {len(self.failed)} of {self.played} seeds, first {self.failed[0]}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What all plays of a scenario in one world showed; ``text`` is empty if it is as it should be."""

    node: str
    line: int
    world: str
    place: str = ""
    text: str = ""
    message: str = ""


class Stories:
    """All scenarios of a session, and what is known of them."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, _InWorld]] = {}
        self._unjudged = 0

    def hear(self, report: Any) -> None:
        """Take in one report that has a play."""
        told = report.taskservice_play
        path, title, world = told["story"]
        worlds = self._found.setdefault((path, title), {})
        here = worlds.setdefault(world, _InWorld(world=world, line=told["line"], whole=told["of"]))
        if told["passed"]:
            here.passed += 1
        else:
            here.failed.append(told["seed"])
            here.reports.append((report, told["seed"]))
        if "course" in told:
            here.courses.setdefault(told["passed"], (told["seed"], told["course"]))
        here.looked_for.update(told.get("asked", {}))
        for mark, held in told["sometimes"].items():
            here.held[mark] = here.held.get(mark, 0) + bool(held)

    def judge(self) -> Iterator[Judged]:
        """Yield for each scenario and world of which all seeds were played whether `sometimes` held."""
        for (path, title), worlds in self._found.items():
            for here in worlds.values():
                missing = [mark for mark, times in here.held.items() if not times]
                if here.held and here.played >= here.whole:
                    yield _judged(path, title, here, missing)
                self._unjudged += bool(missing) and here.played < here.whole

    def compare(self) -> None:
        """Add to each failure how its scenario went in the other worlds, and with the other seeds."""
        for worlds in self._found.values():
            plays = sum(here.played for here in worlds.values())
            for here in worlds.values() if plays > 1 else ():
                for report, seed in here.reports:
                    text = "\n".join(_compared(here, seed, worlds))
                    report.sections.append((_SECTION, text))

    def notes(self) -> Iterator[str]:
        """Yield what has to be said once."""
        if self._unjudged:
            many = self._unjudged != 1
            yield (
                f"taskservice: sometimes was not judged in {self._unjudged} scenario{'s' * many}: "
                f"not all of {'their' if many else 'its'} seeds were played"
            )


def _judged(path: str, title: str, here: _InWorld, missing: list[str]) -> Judged:
    node = pseudo_id(path, title, here.world)
    if not missing:
        return Judged(node=node, line=here.line, world=here.world)
    plays = f"{here.played} play{'s' * (here.played != 1)}"
    lines = [f"what should hold sometimes held in none of {plays} in {here.world}", ""]
    for mark in missing:
        lines += [
            f"  {mark}",
            f"    expected  {here.looked_for.get(mark, 'sometimes')}",
            "    got       never",
        ]
    lines += ["", "  a story that never gets there proves nothing: give it more seeds, or tell another one"]
    return Judged(
        node=node,
        line=here.line,
        world=here.world,
        place=missing[0],
        text="\n".join(lines),
        message=f"{here.looked_for.get(missing[0], 'sometimes')}; got never, in {plays}",
    )


def _compared(here: _InWorld, seed: Any, worlds: dict[str, _InWorld]) -> Iterator[str]:
    yield from map(str, worlds.values())
    if False not in here.courses:
        return
    failed_with, course = here.courses[False]
    others = [here, *(other for other in worlds.values() if other is not here)]
    for other in others:
        if True not in other.courses:
            continue
        passed_with, theirs = other.courses[True]
        where = f"seed {passed_with}" if other is here else other.world
        mine = "here" if failed_with == seed else f"seed {failed_with}"
        event = parting(course, theirs)
        how = "went alike, at other instants" if event is None else f"part at: {event}"
        yield f"{mine} and {where}, which passed, {how}"
        break
