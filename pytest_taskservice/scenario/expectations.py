"""What a scenario expects, against what happened. Pure: the log and the outcomes say it all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.scenario.model import Expectation, Property
from pytest_taskservice.scenario.record import Ending, Mismatch, Record, labels
from pytest_taskservice.scenario.subjects import (
    COUNTS,
    Moment,
    Subject,
    reason_of,
    runs_of,
    shown,
    subjects,
)
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Ending", "Mismatch", "Record", "check", "check_sometimes", "labels", "reason_of"]

# What a float of seconds since the epoch may be off.
_ROUNDING = 1e-6


def check(expect: Iterable[Expectation], record: Record) -> list[Mismatch]:
    """Return every expectation that did not hold, once for each thing that broke it.

    What has to hold ``sometimes`` is for :func:`check_sometimes`: one play alone cannot break it.
    """
    found: list[Mismatch] = []
    for claim in expect:
        if claim.property is Property.ORDER:
            found += _judge_order(claim, record)
        elif claim.property is not Property.SOMETIMES:
            found += _judge_claim(claim, record)
    return found


def check_sometimes(expect: Iterable[Expectation], record: Record) -> dict[str, bool]:
    """Return for each place of a ``sometimes`` in the file whether it was so at any moment of this play."""
    return {
        str(claim.mark): any(
            _meets(claim.wanted, moment) for subject in _counted(claim, record) for moment in subject.moments
        )
        for claim in expect
        if claim.property is Property.SOMETIMES
    }


def _judge_claim(claim: Expectation, record: Record) -> list[Mismatch]:
    found = subjects(claim.of, record)
    if not found and set(claim.wanted) != {"runs"}:
        got = "it was never launched: the story ended before"
        return [Mismatch(mark=claim.mark, expected=_sentence(claim), got=got, run=claim.of)]
    judged = (_judge(claim, subject, record.start) for subject in _counted(claim, record))
    return [mismatch for mismatch in judged if mismatch]


def _counted(claim: Expectation, record: Record) -> list[Subject]:
    """Return what ``claim`` is about; how many runs there are is a subject of its own."""
    if "runs" not in claim.wanted:
        return subjects(claim.of, record)

    begins = sorted(_begin(run, record) for run in runs_of(claim.of, record))
    moments = [_count(record.start, 0), *(_count(at, number) for number, at in enumerate(begins, start=1))]
    own = Subject(label=claim.of, moments=tuple(moments))
    rest = set(claim.wanted) - {"runs"}
    return [own, *subjects(claim.of, record)] if rest else [own]


def _begin(run: str, record: Record) -> float:
    return next((event.at for event in record.log.of(run)), record.start)


def _count(at: float, number: int) -> Moment:
    return Moment(
        at=at,
        matches=lambda key, wanted: key != "runs" or number == wanted,
        says=lambda wanted: [f"runs {number}"],
    )


def _judge(claim: Expectation, subject: Subject, start: float) -> Mismatch | None:
    """Return how ``subject`` breaks ``claim``; ``None`` if it does not."""
    history = subject.moments
    if not history:
        return _mismatch(claim, subject, None, start, note=subject.absent)

    by = start + (claim.instant or 0.0) + _ROUNDING
    match claim.property:
        case Property.EVENTUALLY:
            return _judge_eventually(claim, subject, by, start)
        case Property.AT:
            past = [moment for moment in history if moment.at <= by]
            if not past:
                return _mismatch(claim, subject, None, start, note=subject.early)
            holds = _meets(claim.wanted, past[-1])
            return None if holds else _mismatch(claim, subject, past[-1], start)
        case Property.ALWAYS:
            broken = [moment for moment in history if not _meets(claim.wanted, moment)]
        case _:
            broken = [moment for moment in history if _meets(claim.wanted, moment)]
    return _mismatch(claim, subject, broken[0], start) if broken else None


def _judge_eventually(claim: Expectation, subject: Subject, by: float, start: float) -> Mismatch | None:
    history = subject.moments
    # How many there were is known only when no more can come.
    grown = {key: value for key, value in claim.wanted.items() if key in (*COUNTS, "runs")}
    reached = {key: value for key, value in claim.wanted.items() if key not in grown}
    past = [moment for moment in history if moment.at <= by]
    if grown and past and not _meets(grown, past[-1]):
        return _mismatch(claim, subject, past[-1], start)

    met = next((moment for moment in history if _meets(reached, moment)), None)
    if met is None:
        return _mismatch(claim, subject, history[-1], start)
    return None if met.at <= by else _mismatch(claim, subject, met, start, note="too late")


def _meets(wanted: Mapping[str, Any], moment: Moment) -> bool:
    # Of one run, how many there are is not asked.
    return all(moment.matches(key, value) for key, value in wanted.items())


def _judge_order(claim: Expectation, record: Record) -> list[Mismatch]:
    """Return where the first ``event`` of a target does not come before that of the next one."""
    word = str(claim.wanted["event"])
    order = list(record.log)
    places: list[int | None] = []
    for name in claim.targets:
        runs = set(runs_of(name, record))
        places.append(
            next(
                (place for place, event in enumerate(order) if event.run in runs and event.kind == word),
                None,
            )
        )
    expected = f"{word} in the order {', '.join(claim.targets)}"
    for number, (name, place) in enumerate(zip(claim.targets, places, strict=True)):
        if place is None:
            return [Mismatch(mark=claim.mark, expected=expected, got=f"was never {word}", run=name)]

        earlier = places[number - 1] if number else None
        if earlier is not None and place < earlier:
            got = f"{word} before {claim.targets[number - 1]}"
            at = max(order[place].at - record.start, 0.0)
            return [Mismatch(mark=claim.mark, expected=expected, got=got, run=name, at=at)]
    return []


def _mismatch(
    claim: Expectation, subject: Subject, moment: Moment | None, start: float, *, note: str = ""
) -> Mismatch:
    facts = moment.says(claim.wanted) if moment else []
    return Mismatch(
        mark=claim.mark,
        expected=_sentence(claim),
        got=", ".join([*facts, *([note] if note else [])]),
        run=subject.label,
        at=max(moment.at - start, 0.0) if moment else None,
    )


def _sentence(claim: Expectation) -> str:
    when = {Property.EVENTUALLY: "within {}:", Property.AT: "at {}:"}.get(claim.property, str(claim.property))
    wanted = ", ".join(f"{key} {shown(key, value)}" for key, value in claim.wanted.items())
    return f"{when.format(format_duration(claim.instant or 0.0))} {wanted}"
