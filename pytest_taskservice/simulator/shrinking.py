"""How little chance a failure needs: after how few draws the world may be calm, and it still happens.

Knows nothing of Celery or pytest. Whoever asks runs a simulation again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from traceback import walk_tb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_taskservice.simulator.story import Story

__all__ = ["NOT_REPLAYED", "Again", "Failure", "Shrunk", "failure_of", "shrink"]

NOT_REPLAYED = (
    "the same seed did not bring the same again: something is not drawn from it, or was left by the run "
    "before; see --taskservice-check-determinism"
)

Again = Callable[[int], "Story | None"]
"""Runs once more, calm after so many draws; returns what happened if the same failure came of it."""

_MOST_RUNS = 15
_SECONDS = 5.0
_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What two failures have in common if they are the same: the exception's type, and the line."""

    kind: str
    file: str
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shrunk:
    """The least chance that was found to bring a failure.

    The first ``draws`` of ``of`` draws do. ``story`` is what happens then, and ``runs`` how often that was
    tried; ``replayed`` says whether the same seed with all its draws brought the same story again.
    """

    story: Story
    draws: int
    of: int
    runs: int
    replayed: bool = True

    def __str__(self) -> str:
        if not self.replayed:
            return NOT_REPLAYED
        if not self.draws:
            return f"shrunk in {self.runs} runs: no chance is needed, all takes its shortest time"
        return (
            f"shrunk in {self.runs} runs: the first {self.draws} of {self.of} draws bring it; "
            "after them all takes its shortest time"
        )


def failure_of(error: BaseException, file: str) -> Failure:
    """Return what identifies ``error``; the line is the last one of ``file`` that it came through."""
    found = ("", 0)
    last = ("", 0)
    for frame, line in walk_tb(error.__traceback__):
        last = (frame.f_code.co_filename, line)
        if last[0] == file:
            found = last
    place, number = found if found[0] else last
    return Failure(kind=type(error).__qualname__, file=place, line=number)


def shrink(story: Story, again: Again, *, seconds: float = _SECONDS) -> Shrunk:
    """Return the least chance that brings the failure of ``story``, as far as few runs and seconds can tell.

    Bisection finds a bound below which it does not happen. Failures need not be monotonic, so a few smaller
    ones are tried after it.
    """
    search = _Search(again, until=time.monotonic() + seconds)
    whole = search.run(story.draws)
    if whole is None or whole.parts_from(story) is not None:
        return Shrunk(story=story, draws=story.draws, of=story.draws, runs=search.runs, replayed=False)

    best, fewest, without = story, story.draws, -1
    # Often no chance is needed at all.
    tried = 0
    while fewest - without > 1 and search.goes_on():
        found = search.run(tried)
        if found is None:
            without = tried
        else:
            best, fewest = found, tried
        tried = (fewest + without) // 2
    for step in range(1, _STEPS + 1):
        if (tried := without - step) < 0 or not search.goes_on():
            break
        if (found := search.run(tried)) is not None:
            best, fewest = found, tried
    return Shrunk(story=best, draws=fewest, of=story.draws, runs=search.runs)


class _Search:
    def __init__(self, again: Again, *, until: float) -> None:
        self.runs = 0
        self._again = again
        self._until = until

    def goes_on(self) -> bool:
        return self.runs < _MOST_RUNS and time.monotonic() < self._until

    def run(self, draws: int) -> Story | None:
        self.runs += 1
        return self._again(draws)
