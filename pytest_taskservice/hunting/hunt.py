"""Hunting: one check in a fresh simulation for each of many seeds, until one brings a failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.drivers.base import CapabilityError
from pytest_taskservice.errors import HarnessError
from pytest_taskservice.hunting.processes import lowest_failing
from pytest_taskservice.simulator.celery.shortcuts import kept_shortcuts
from pytest_taskservice.simulator.shrinking import Shrunk, failure_of, shrink
from pytest_taskservice.simulator.telling import tell

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.history import EventLog
    from pytest_taskservice.simulator.story import Story

__all__ = ["Finding", "Seeded", "hunt"]

# What ends a check but is no failure of it: Ctrl-C, a skip, the end of everything.
_NO_FAILURE = (KeyboardInterrupt, SystemExit, GeneratorExit, CapabilityError)
_PYTESTS_FAILURE = "Failed"


class Seeded(Protocol):
    """What opens simulations: one after the other, each from a seed."""

    seed: int
    calm_after: int | None

    @property
    def story(self) -> Story:
        """What has happened in the current simulation, or in the last one."""

    def begin(self, app: Celery | None, settings: Mapping[str, Any]) -> None:
        """Open one over ``app``."""

    def reset(self) -> None:
        """Close it."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Finding:
    """A failure of a check, and the seed that brings it. Its ``repr`` is the story, on many lines.

    ``story`` is all that happened with that seed, and ``shrunk`` what happens with as little chance as it
    needs.
    """

    seed: int
    error: BaseException
    story: Story
    shrunk: Shrunk

    @property
    def digest(self) -> str:
        """What this seed gives every time."""
        return self.story.digest

    @property
    def history(self) -> EventLog:
        """What happened to runs, with this seed."""
        return self.story.log()

    @property
    def title(self) -> str:
        """The seed and the error, on one line."""
        told = str(self.error).strip().splitlines()
        if not told and (frames := extract_tb(self.error.__traceback__)):
            # A plain assertion says nothing but its line.
            told = [frames[-1].line or ""]
        return f"seed {self.seed}: {type(self.error).__name__}" + (f": {told[0]}" if told else "")

    def __repr__(self) -> str:
        lines = [self.title, "", *(f"  {line}".rstrip() for line in tell(self.shrunk.story))]
        lines += ["", f"  {self.shrunk}", f"  replay:  find(check, start_at={self.seed}, seeds=1)"]
        return "\n".join(lines)


class _Hunt:
    """One check over one app."""

    def __init__(
        self, driver: Seeded, app: Celery, settings: Mapping[str, Any], check: Callable[[], Any], file: str
    ) -> None:
        self._driver = driver
        self._app = app
        self._settings = settings
        self._check = check
        self.file = file

    def run(self, seed: int, *, calm_after: int | None = None) -> tuple[BaseException | None, Story]:
        driver = self._driver
        driver.seed, driver.calm_after = seed, calm_after
        driver.begin(self._app, self._settings)
        error: BaseException | None = None
        try:
            self._check()
        except _NO_FAILURE:
            raise
        except BaseException as found:
            # pytest.fail() raises what is no Exception; so does pytest.skip(), which is no failure.
            if not isinstance(found, Exception) and type(found).__name__ != _PYTESTS_FAILURE:
                raise
            error = found
        finally:
            driver.reset()
        return error, driver.story


def hunt(  # noqa: PLR0913 - what to run, where, and how often
    driver: Seeded,
    check: Callable[[], Any],
    *,
    app: Celery,
    settings: Mapping[str, Any],
    file: str,
    seeds: int,
    start_at: int,
    processes: int,
) -> Finding | None:
    """Run ``check`` with each of ``seeds`` seeds from ``start_at`` on; return the first failure.

    ``file`` is where the check is written: two failures are the same if they come from the same line of it.
    """
    if seeds < 1 or start_at < 0:
        raise ValueError(f"need at least one seed, from 0 on; got seeds={seeds}, start_at={start_at}")
    if processes < 1:
        raise ValueError(f"need at least one process; got processes={processes}")

    hunt = _Hunt(driver, app, settings, check, file)
    # The first one here: what it has imported and made, children have from their start.
    wanted = range(start_at, start_at + (seeds if processes == 1 else 1))
    with kept_shortcuts():
        found = _first(hunt, wanted)
        if found is None and (rest := range(wanted.stop, start_at + seeds)):
            found = _first_of_all(hunt, rest, min(processes, len(rest)))
    return found


def _first(hunt: _Hunt, seeds: Sequence[int]) -> Finding | None:
    for seed in seeds:
        error, story = hunt.run(seed)
        if error is not None:
            return Finding(seed=seed, error=error, story=story, shrunk=_shrunk(hunt, story, error))
    return None


def _first_of_all(hunt: _Hunt, seeds: Sequence[int], processes: int) -> Finding | None:
    def play(seed: int) -> None:
        error, _ = hunt.run(seed)
        if error is not None:
            raise error

    failing = lowest_failing(play, seeds, processes)
    if failing is None:
        return None
    found = _first(hunt, [failing.seed])
    if found is None:
        raise HarnessError(
            f"seed {failing.seed} failed in a process of its own and passes in this one: the check, or what "
            f"it calls, keeps something from seed to seed. There it ended with\n{failing.told}"
        )
    return found


def _shrunk(hunt: _Hunt, story: Story, error: BaseException) -> Shrunk:
    failure = failure_of(error, hunt.file)

    def again(draws: int) -> Story | None:
        found, told = hunt.run(story.seed, calm_after=draws)
        return told if found is not None and failure_of(found, hunt.file) == failure else None

    return shrink(story, again)
