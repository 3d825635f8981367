"""The smallest story that still breaks the same rule, as far as few plays and seconds can tell.

Knows nothing of worlds or pytest. Whoever asks plays a scenario again and hands its verdict back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.load import load_text
from pytest_taskservice.scenario.smaller import PASSES, TIMES, needed_by, without_unused
from pytest_taskservice.scenario.write import write
from pytest_taskservice.simulator.shrinking import NOT_REPLAYED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.engine import Verdict
    from pytest_taskservice.scenario.expectations import Mismatch
    from pytest_taskservice.scenario.model import Scenario

__all__ = ["Again", "Broken", "Most", "ShrunkStory", "broken_by", "shrink_story"]

Again: TypeAlias = "Callable[[Scenario, int], Verdict | None]"
"""Plays a scenario with a seed; returns ``None`` if it could not be played to its end."""

_DIGITS = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Most:
    """What a search may cost: so many plays, and so many real seconds."""

    plays: int = 60
    seconds: float = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """What two failures have in common if they are the same: the line that asked, or the invariant."""

    place: str
    invariant: str = ""

    @classmethod
    def by(cls, mismatch: Mismatch) -> Broken:
        """Return which rule a mismatch breaks."""
        place = "" if mismatch.invariant else str(mismatch.mark)
        return cls(place=place, invariant=mismatch.invariant)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShrunkStory:
    """The smallest story that was found. ``mismatch`` is how it fails, after so many ``plays``.

    ``replayed`` says whether the same seed brought the same failure again at all.
    """

    scenario: Scenario
    seed: int
    mismatch: Mismatch
    plays: int
    steps: int
    """How many steps there were at first."""
    replayed: bool = True

    def __str__(self) -> str:
        if not self.replayed:
            return NOT_REPLAYED
        left = len(self.scenario.steps)
        return f"shrunk in {self.plays} plays to {left} of {self.steps} step{'s' * (self.steps > 1)}"


def broken_by(verdict: Verdict | None, broken: Broken) -> Mismatch | None:
    """Return the mismatch of ``verdict`` that breaks the same rule."""
    found = verdict.mismatches if verdict is not None else ()
    return next((mismatch for mismatch in found if Broken.by(mismatch) == broken), None)


def shrink_story(
    scenario: Scenario, mismatch: Mismatch, again: Again, *, seed: int, most: Most | None = None
) -> ShrunkStory:
    """Return the smallest story that breaks what ``mismatch`` says is broken."""
    search = _Search(Broken.by(mismatch), again, most or Most())
    bare = _alone(scenario)
    first = search.play(bare, seed)
    if first is None:
        return ShrunkStory(
            scenario=bare,
            seed=seed,
            mismatch=mismatch,
            plays=search.plays,
            steps=len(scenario.steps),
            replayed=False,
        )
    best = search.least(bare, first, seed)
    if seed and search.goes_on() and (found := search.play(best, 0)) is not None:
        search.mismatch, seed = found, 0
    return ShrunkStory(
        scenario=replace(best, seeds=(seed,) if seed else ()),
        seed=seed,
        mismatch=search.mismatch or first,
        plays=search.plays,
        steps=len(scenario.steps),
    )


class _Search:
    """The plays of one search, and what they cost."""

    def __init__(self, broken: Broken, again: Again, most: Most) -> None:
        self.plays = 0
        self.mismatch: Mismatch | None = None
        self._broken = broken
        self._again = again
        self._most = most.plays
        self._until = time.monotonic() + most.seconds

    def goes_on(self) -> bool:
        """Tell whether one more play is allowed."""
        return self.plays < self._most and time.monotonic() < self._until

    def play(self, scenario: Scenario, seed: int) -> Mismatch | None:
        """Return how ``scenario`` breaks the same rule; ``None`` if it does not."""
        self.plays += 1
        return broken_by(self._again(scenario, seed), self._broken)

    def _asks(self, candidate: Scenario) -> bool:
        """Tell whether the broken rule is still one of the candidate's."""
        places = {str(claim.mark) for claim in candidate.expect}
        places |= {str(step.mark) for step in candidate.steps}
        return bool(self._broken.invariant) or self._broken.place in places

    def least(self, best: Scenario, first: Mismatch, seed: int) -> Scenario:
        """Return what is left when nothing more can be taken away."""
        self.mismatch = first
        claim = next((one for one in best.expect if str(one.mark) == self._broken.place), None)
        kept = needed_by(best, claim)
        tried: set[str] = set()
        for candidates in (*PASSES, TIMES):
            smaller: Scenario | None = best
            while smaller is not None and self.goes_on():
                best = smaller
                smaller = self._next(candidates(best, kept), seed, tried, strictly=candidates is TIMES)
            best = smaller or best
        return best

    def _next(
        self, candidates: Iterator[Scenario], seed: int, tried: set[str], *, strictly: bool
    ) -> Scenario | None:
        """Return the first of ``candidates`` that breaks the rule; ``strictly`` if it is in the same way."""
        for candidate in map(without_unused, candidates):
            text = _text_of(candidate)
            # Whatever cannot be read again is nobody's story.
            if text is None or text in tried or not self._asks(candidate):
                continue
            tried.add(text)
            if not self.goes_on():
                return None
            found = self.play(candidate, seed)
            if found is not None and not (strictly and _way(found) != _way(self.mismatch)):
                self.mismatch = found
                return candidate
        return None


def _alone(scenario: Scenario) -> Scenario:
    """Return what is played in the simulator, without what only tells it from others."""
    bare = replace(scenario, case="", tags=(), description="", worlds={}, seeds=(), backends=("celery-sim",))
    return without_unused(bare)


def _text_of(scenario: Scenario) -> str | None:
    text = write(scenario)
    try:
        load_text(text, "shrunk")
    except ScenarioError:
        return None
    return text


def _way(mismatch: Mismatch | None) -> str:
    """Return what was found, whatever its numbers."""
    return _DIGITS.sub("#", mismatch.got) if mismatch is not None else ""
