"""Collecting scenario files: every document and row of parameters is a test in every chosen world."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.drivers.base import Capability, CapabilityError
from pytest_taskservice.drivers.celery_app import find_task
from pytest_taskservice.drivers.synthetic import SYNTHETIC, register
from pytest_taskservice.errors import HarnessError, ScenarioError, TaskImportError, UnknownNameError
from pytest_taskservice.fixtures import ENTER, HARNESS, WORLD, app_of, open_world
from pytest_taskservice.played import failure_report, keep
from pytest_taskservice.report.text import first_line, render_play
from pytest_taskservice.scenario.engine import REAL_TIME, Clock, run
from pytest_taskservice.scenario.horizon import real_length
from pytest_taskservice.scenario.load import load
from pytest_taskservice.scenario.model import Scenario, Skip
from pytest_taskservice.scenario.needs import needs
from pytest_taskservice.scenario.stage import stage_of
from pytest_taskservice.scenario.words import format_duration
from pytest_taskservice.worlds import FIXTURE, worlds_of

if TYPE_CHECKING:
    from os import PathLike

    from _pytest.nodes import Node

    from pytest_taskservice.drivers.base import WorldDriver
    from pytest_taskservice.scenario.acts import Mark

__all__ = ["ScenarioFile", "ScenarioItem"]

_FIXTURES: pytest.StashKey[Any] = pytest.StashKey()
_ARGUED = pytest.StashKey[frozenset[str]]()
_TAKES_ARGUMENTS = re.compile(r"(\w+)\([^,)=]*[,)]")
# So much of real time a world without a clock of its own may take for one story.
_PATIENCE = 30.0


class ScenarioFailedError(HarnessError, AssertionError):
    """A scenario did not go as it must; its arguments are the whole report and a line of it."""


class ScenarioFile(pytest.File):
    """One ``*.scenario.yaml``."""

    def collect(self) -> Iterator[ScenarioItem]:
        """Yield an item for each scenario and chosen world."""
        try:
            scenarios = load(self.path, shown=self.nodeid)
        except ScenarioError as error:
            raise self.CollectError(str(error)) from None
        options = self.config.stash[HARNESS].options
        for scenario in scenarios:
            for backend in options.backends:
                played = scenario.for_backend(backend)
                for world in worlds_of(backend, options, seeds=scenario.seeds):
                    case = "-".join(part for part in (scenario.case, world) if part)
                    yield ScenarioItem.from_parent(
                        self,
                        name=f"{scenario.name}[{case}]",
                        scenario=scenario if isinstance(played, Skip) else played,
                        backend=backend,
                        world=world,
                        skip=played.reason if isinstance(played, Skip) else None,
                    )


class ScenarioItem(pytest.Item):
    """One scenario in one world."""

    def __init__(
        self, *, scenario: Scenario, backend: str, world: str, skip: str | None, **node: Any
    ) -> None:
        super().__init__(**node)
        self._scenario = scenario
        self._backend = backend
        self.world = world
        self._skip = skip
        self._wrong: TaskImportError | UnknownNameError | None = None
        self._seed = 0
        # As doctest items do: an item without a function may use fixtures too.
        self._fixtureinfo = _fixtures(self)
        self.fixturenames = self._fixtureinfo.names_closure
        self.funcargs: dict[str, object] = {}
        self.stash[ENTER] = self._enter
        for tag in scenario.tags:
            self.config.addinivalue_line("markers", f"{tag}: a scenario's tag")
            self.add_marker(tag)

    def iter_markers_with_node(self, name: str | None = None) -> Iterator[tuple[Node, pytest.Mark]]:
        """Keep a tag from who asks by name for a mark with arguments: it has none."""
        told = super().iter_markers_with_node(name)
        if name is None or name not in self._scenario.tags or name not in _argued(self.config):
            return told
        return ((node, mark) for node, mark in told if node is not self or mark.args or mark.kwargs)

    def setup(self) -> None:
        """Enter the world as a test does, by its fixture: those of the user's that need it find it."""
        from _pytest.fixtures import TopRequest

        if self._skip:
            raise _skipped(self._skip)
        driver = self.config.stash[HARNESS].driver(self.world)
        for capability, why in needs(self._scenario):
            if reason := driver.cannot(capability):
                raise _skipped(f"{self._backend} cannot: {capability} ({why}; {reason})")
        length = real_length(self._scenario)
        if length > _PATIENCE and driver.cannot(Capability.CLOCK):
            raise _skipped(
                f"{self._backend} runs in real time; this story needs {format_duration(length)}, "
                f"the bound is {format_duration(_PATIENCE)}"
            )
        # It may be run again.
        self.funcargs, self._wrong = {}, None
        node: Any = self
        self._request = TopRequest(node, _ispytest=True)
        self._request._fillfixtures()  # noqa: SLF001 - as doctest items do

    def _enter(self, request: pytest.FixtureRequest) -> None:
        try:
            self._open(request)
        except CapabilityError as error:
            raise _skipped(str(error)) from None
        except (TaskImportError, UnknownNameError) as error:
            # The story cannot be played; that is told as its failure.
            self._wrong = error

    def _open(self, request: pytest.FixtureRequest) -> None:
        driver: Any = self.config.stash[HARNESS].driver(self.world)
        self._seed = getattr(driver, "seed", self.config.stash[HARNESS].options.seed)
        app = app_of(request)
        register(app)
        self.addfinalizer(lambda: app.tasks.pop(SYNTHETIC, None))
        # Told before the first step is done, and at the line that names it; a real worker imports the modules
        # of the tasks that are known when it starts.
        for task in self._scenario.tasks.values():
            if task.call is not None:
                find_task(app, task.call)
        driver.set_stage(stage_of(self._scenario, seed=self._seed))
        open_world(request, self.world, needs_app=True)

    def runtest(self) -> None:
        """Play the scenario."""
        if self._wrong is not None:
            text = f"{self._place_of(self._wrong)}: {self._wrong}"
            raise ScenarioFailedError(text, text)
        driver = self.stash[WORLD]
        verdict = run(self._scenario, driver, clock=_clock_of(driver), seed=self._seed)
        play = keep(self, verdict, backend=self._backend)
        if verdict.mismatches:
            raise ScenarioFailedError(render_play(play), first_line(verdict.mismatches[0]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the report, not a traceback of ours."""
        if isinstance(excinfo.value, ScenarioFailedError):
            text, message = excinfo.value.args
            mark = self._scenario.mark
            return failure_report(text, path=mark.path, line=mark.line, message=message)
        if isinstance(excinfo.value, HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[PathLike[str] | str, int | None, str]:
        """Return file, line (from 0) and title."""
        return self.path, self._scenario.mark.line - 1, self.name

    @property
    def scenario(self) -> Scenario:
        """The story, as this world plays it."""
        return self._scenario

    @contextmanager
    def telling(self, scenario: Scenario, *, world: str) -> Iterator[None]:
        """Tell another story for a while, in a world with a seed of its own."""
        before = self._scenario, self.world
        self._scenario, self.world = scenario, world
        try:
            yield
        finally:
            self._scenario, self.world = before

    def _place_of(self, error: TaskImportError | UnknownNameError) -> Mark:
        """Return where the file names the task that there is not."""
        named = error.task if isinstance(error, TaskImportError) else error.found
        marks = (task.mark for task in self._scenario.tasks.values() if task.call == named)
        return next(marks, self._scenario.mark)


def _fixtures(item: ScenarioItem) -> Any:
    """Return which fixtures an item uses: all of a file are below the same conftests."""
    file: Any = item.parent
    found = file.stash.get(_FIXTURES, None)
    if found is None:
        file.add_marker(pytest.mark.usefixtures(FIXTURE))
        manager = item.session._fixturemanager  # noqa: SLF001 - pytest has no public way
        found = file.stash[_FIXTURES] = manager.getfixtureinfo(node=item, func=None, cls=None)
    return found


def _argued(config: pytest.Config) -> frozenset[str]:
    """Return the marks of plugins that mean nothing without an argument, as pytest-timeout's."""
    if _ARGUED not in config.stash:
        found = (_TAKES_ARGUMENTS.match(line) for line in config.getini("markers"))
        config.stash[_ARGUED] = frozenset(match[1] for match in found if match)
    return config.stash[_ARGUED]


def _clock_of(driver: WorldDriver) -> Clock:
    """Return what paces the story: the world's own clock where it has one."""
    if driver.cannot(Capability.CLOCK):
        return REAL_TIME
    clock = driver.clock()
    return Clock(
        monotonic=clock.monotonic,
        wall=lambda: clock.now().timestamp(),
        # What is finer than its resolution would never pass.
        pause=lambda seconds: clock.advance(seconds=max(seconds, 1e-6)),
    )


def _skipped(reason: str) -> BaseException:
    # At the scenario's own line, where a reader looks for it.
    return pytest.skip.Exception(reason, _use_item_location=True)
