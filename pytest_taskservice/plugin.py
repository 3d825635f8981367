"""The pytest plugin: hooks only. Loading it imports nothing but pytest and our own light modules."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.unittest import UnitTestCase

from pytest_taskservice.cases import in_worlds
from pytest_taskservice.elsewhere import Elsewhere
from pytest_taskservice.errors import HarnessError
from pytest_taskservice.fixtures import (
    ADDRESSES,
    APP,
    HARNESS,
    WORLD,
    _taskservice_async,
    _taskservice_blocking,
    has_own_app,
    task_service,
    taskservice_app,
    taskservice_backend,
    taskservice_clock,
    taskservice_driver,
    taskservice_redis,
    taskservice_sim,
)
from pytest_taskservice.given_results import GivenResults
from pytest_taskservice.made_databases import MadeDatabases
from pytest_taskservice.options import add_options, read_options
from pytest_taskservice.outside import beside_section, outside_lines, outside_section, unnamed_section
from pytest_taskservice.played import Played
from pytest_taskservice.progress import Progress
from pytest_taskservice.session import HarnessSession
from pytest_taskservice.worlds import FIXTURE, is_simulated, missed_world, worlds_for

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_taskservice.drivers.base import WorldDriver

__all__ = [
    "_taskservice_async",
    "_taskservice_blocking",
    "task_service",
    "taskservice_app",
    "taskservice_backend",
    "taskservice_clock",
    "taskservice_driver",
    "taskservice_redis",
    "taskservice_sim",
]

_MARKER = (
    "taskservice(backend=NAMES, config={...}, clock='real', allow_sockets=[...]): narrow the worlds a test "
    "runs in, change the app's Celery settings for it, have it run in real time, or connect for real"
)
_OUTSIDE = "taskservice_outside"
_TOLD_OUTSIDE = pytest.StashKey[list[str]]()
_FINDINGS = pytest.StashKey[list[Any]]()
_SCENARIO_SUFFIX = ".scenario.yaml"
_COMPAT = "pytest_taskservice.celery_compat"
_CAPTURING = {"caplog", "capsys", "capsysbinary", "capfd", "capfdbinary"}
_TIME_FIXTURES = {"freezer", "time_machine"}
_WORLD_FIXTURES = {
    "task_service",
    "taskservice_app",
    FIXTURE,
    "taskservice_clock",
    "taskservice_driver",
    "taskservice_sim",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare flags and ini settings."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options once, and make the session's worlds known, unopened."""
    config.addinivalue_line("markers", _MARKER)
    if not _WORLD_FIXTURES.isdisjoint(config.getini("usefixtures")):
        # A taskservice_app of the user's own need not ask for the world itself.
        config.addinivalue_line("usefixtures", FIXTURE)
    worker_id = getattr(config, "workerinput", {}).get("workerid", "main")
    harness = HarnessSession(read_options(config), root=config.rootpath, worker_id=worker_id)
    config.stash[HARNESS] = harness
    config.add_cleanup(harness.close)
    config.pluginmanager.register(Played(config, harness.options), "taskservice-played")
    config.pluginmanager.register(Progress(config), "taskservice-progress")
    if not {"celery", "celery-sim"}.isdisjoint(harness.options.backends):
        for told in (Elsewhere(config), GivenResults(config)):
            config.pluginmanager.register(told, told.name)
    if config.pluginmanager.has_plugin("django"):
        config.pluginmanager.register(MadeDatabases(), "taskservice-databases")
    if "celery-sim" in harness.options.backends:
        from pytest_taskservice.seeds import Seeds

        config.pluginmanager.register(Seeds(harness.options), "taskservice-seeds")


def pytest_plugin_registered(manager: pytest.PytestPluginManager) -> None:
    """Whoever imports one of Celery's fixtures from us gets the others that it depends on."""
    if _COMPAT in sys.modules and not (manager.has_plugin(_COMPAT) or manager.is_blocked(_COMPAT)):
        manager.register(sys.modules[_COMPAT], _COMPAT)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Where the celery world is chosen, let it get ready while tests are collected."""
    harness = session.config.stash[HARNESS]
    if harness.options.explicit and "celery" in harness.options.backends and _runs_tests(session):
        _told(harness.warm)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name worlds, Redis and app, if the user chose any."""
    harness = config.stash[HARNESS]
    options = harness.options
    if not options.explicit:
        return []

    parts = [f"taskservice: world{'s' * (len(options.backends) > 1)} {', '.join(options.backends)}"]
    if "celery" in options.backends and not config.option.collectonly:
        parts.append(f"Redis: {_redis_of(harness)}")
    if options.app:
        parts.append(f"app {options.app}")
    lines = [" · ".join(parts)]
    if "celery-eager" in options.backends:
        lines.append(f"  celery-eager {harness.driver('celery-eager').describe()}")
    return lines


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Say which tests are in none of the chosen worlds."""
    return _outside(config, items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have xdist's controller say it: its workers, who collect, say nothing themselves."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_OUTSIDE] = _outside(session.config, session.items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what one of xdist's workers, each of which has collected all tests, has said of them."""
    told = getattr(node, "workeroutput", {}).get(_OUTSIDE)
    if told:
        node.config.stash[_TOLD_OUTSIDE] = told


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """A test that asks for one of our fixtures is in a world before its other fixtures are built."""
    pytest_plugin_registered(collector.config.pluginmanager)
    # By its type: a lazy object, Django's settings for one, is asked for its class where isinstance looks.
    if type(obj) is not FunctionType or not getattr(collector, "istestfunction", None):
        return
    if not collector.istestfunction(obj, name):  # type: ignore[attr-defined] # a Python collector
        return
    marks = (*getattr(obj, "pytestmark", ()), *collector.iter_markers("usefixtures"))
    if any(map(_marks_world, marks)) or _asks_for_world(obj) or _asks_by_others(collector, obj):
        pytest.mark.usefixtures(FIXTURE)(obj)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is in a world in every chosen one."""
    if FIXTURE not in metafunc.fixturenames:
        return
    for marker in metafunc.definition.iter_markers("parametrize"):
        if FIXTURE in str(marker.args[0] if marker.args else marker.kwargs.get("argnames")):
            return

    options = metafunc.config.stash[HARNESS].options
    is_async = "anyio_backend" in metafunc.fixturenames
    params: list[Any] = list(worlds_for(metafunc.definition, options, is_async=is_async))
    if not params:
        world, reason = missed_world(metafunc.definition, options)
        params = [pytest.param(world, marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize(FIXTURE, params, indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what a mark does to time happen in a test's world: it cannot follow what is older than it is."""
    for item in items:
        names = getattr(item, "fixturenames", [])
        if FIXTURE in names:
            world = names.index(FIXTURE)
            # pytest-freezer and time-machine put theirs before all others, once for each world.
            early = [name for name in dict.fromkeys(names[:world]) if name in _TIME_FIXTURES]
            names[: world + 1] = [name for name in names[: world + 1] if name not in early] + early


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Have the tests of a unittest.TestCase, which take no parameters, in every chosen world too."""
    report = yield
    if isinstance(collector, UnitTestCase) and report.passed:
        options = collector.config.stash[HARNESS].options
        report.result = [case for item in report.result for case in in_worlds(item, options)]
    return report


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect scenario files."""
    if not file_path.name.endswith(_SCENARIO_SUFFIX):
        return None
    from pytest_taskservice.scenario.collect import ScenarioFile

    return ScenarioFile.from_parent(parent, path=file_path)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have a test that is in no simulation find nothing that was kept for the next one."""
    if not is_simulated(item):
        item.config.stash[HARNESS].rest()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that asked its world for what it cannot show has proved nothing: skip it, saying so."""
    # A run before that nobody was told of may have left some.
    item.config.stash.get(_FINDINGS, []).clear()
    failure: BaseException | None = None
    result = None
    try:
        result = yield
    except BaseException as error:  # noqa: BLE001 - raised again below
        failure = error
    driver = item.stash.get(WORLD, None)
    if driver is not None and driver.refused:
        # Where a unittest.TestCase keeps its failures, which count for more than what is raised here.
        vars(item).pop("_excinfo", None)
        raise pytest.skip.Exception(str(driver.refused[0]), _use_item_location=True)
    if failure is not None:
        raise failure
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach to a failing test what its world knows."""
    report = yield
    driver = item.stash.get(WORLD, None)
    if report.failed and driver is not None and call.when == "call":
        # A scenario's own report has its history, and so has a simulation's.
        is_told = isinstance(item, pytest.Function) and driver.name != "celery-sim"
        report.sections += _world_sections(driver, history=is_told)
        if driver.name == "celery" and (deaf := _deaf_to_tasks(item)) and len(driver.log()):
            report.sections.append(("taskservice", deaf))
        if beside := beside_section():
            report.sections.append(("taskservice", beside))
        if unnamed := _unnamed_in(item):
            report.sections.append(("taskservice", unnamed))
        if call.excinfo is not None and (addresses := _addresses_in(item, call.excinfo.value)):
            report.sections.append(("taskservice", addresses))
        if driver.name.startswith("celery") and (app := _current_app_of(item)) is not None:
            report.sections.append(("taskservice current app", app))
    harness = item.config.stash[HARNESS]
    if report.failed and driver is None and call.excinfo is not None and not harness.theirs.knows_test():
        outside = outside_section(item, call.excinfo.value, harness.options)
        report.sections += [("taskservice", outside)] if outside else []
    if report.failed and (findings := item.config.stash.get(_FINDINGS, None)):
        report.sections += [("taskservice finding", repr(finding)) for finding in findings]
        findings.clear()
    return report


def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: object, right: object
) -> list[str] | None:
    """Keep what a hunt has found for the report: an assertion's own text has no room for a story."""
    if type(left).__name__ != "Finding" or type(left).__module__ != "pytest_taskservice.hunting.hunt":
        return None
    finding: Any = left
    config.stash.setdefault(_FINDINGS, []).append(finding)
    return [f"a finding {op} {right!r}", finding.title, "its story is told below"]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what the worker was, and what xdist's workers have found."""
    for line in config.stash.get(_TOLD_OUTSIDE, []):
        terminalreporter.write_line(line)
    harness = config.stash[HARNESS]
    driver = harness.opened().get("celery")
    if driver is None:
        return
    line = f"taskservice: celery worker: {driver.describe()}"
    if not harness.options.explicit:
        # There was no header to say it.
        line += f" · Redis: {_redis_of(harness)}"
    terminalreporter.write_line(line)


def _outside(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    # Celery's fixtures in our worlds: its start_worker, which no fixture shows, is served too.
    served = config.pluginmanager.has_plugin(_COMPAT)
    # An ini file's worlds are for other runs too.
    chosen = config.getoption("taskservice_backend") is not None and not served
    return outside_lines(items) if chosen else []


def _world_sections(driver: WorldDriver, *, history: bool) -> list[tuple[str, str]]:
    from pytest_taskservice.report.history import render_history

    try:
        texts = {"history": render_history(driver.log()) if history else "", **driver.report()}
    except Exception as error:  # noqa: BLE001 - must not hide the test's own failure
        texts = {"world": f"could not be asked: {type(error).__name__}: {error}"}
    return [(f"taskservice {title}", text) for title, text in texts.items() if text]


def _unnamed_in(item: pytest.Item) -> str | None:
    """Say which app is in no world, if the test had one of ours for want of a name."""
    made = item.config.stash[HARNESS].made_app()
    return None if made is None or item.stash.get(APP, None) is not made else unnamed_section(made)


def _deaf_to_tasks(item: pytest.Item) -> str | None:
    """Say so if the test listens to what another process says."""
    asked = [name for name in getattr(item, "fixturenames", ()) if name in _CAPTURING]
    if not asked:
        return None
    return (
        f"{', '.join(asked)}: what tasks log and print is in the worker, another process, and in its log "
        "above; the worlds celery-sim and celery-eager show it here"
    )


def _addresses_in(item: pytest.Item, error: BaseException) -> str | None:
    """Say so if the test fails over the address of a server that its app has in this world alone."""
    driver, app = item.stash.get(WORLD, None), getattr(item, "funcargs", {}).get("taskservice_app")
    if driver is None or app is None or driver.name == "celery-sim" or not isinstance(error, AssertionError):
        return None
    text = str(error)
    found = [name for name in ADDRESSES if str(app.conf.get(name) or None) in text]
    if not found:
        return None
    return (
        f"{' and '.join(found)}: this world's own for the length of a test, whatever the settings say; "
        "celery-sim leaves those of the settings"
    )


def _current_app_of(item: pytest.Item) -> str | None:
    """Say so if the test made another app than its own the current one: shared tasks go there."""
    ours = getattr(item, "funcargs", {}).get("taskservice_app")
    if ours is None:
        return None
    from celery import _state

    current: Any = _state.get_current_app()
    if current is ours:
        return None
    return (
        f"shared tasks and AsyncResult(id) go to {current!r}, which the test or a fixture of it made "
        f"current, and not to the app in this world, {ours!r}: where the test means those, have the fixture "
        "taskservice_app (or celery_app) return the current one"
    )


def _runs_tests(session: pytest.Session) -> bool:
    """Say whether this process runs tests itself: not when only collecting, nor over xdist's workers."""
    config = session.config
    controls = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    return not controls and not config.option.collectonly


def _told(action: Callable[[], Any]) -> Any:
    """Do something that the user may have asked for in vain, and tell that as a usage error."""
    try:
        return action()
    except HarnessError as error:
        message = str(error)
    raise pytest.UsageError(f"taskservice: {message}")


def _redis_of(harness: HarnessSession) -> str:
    """Return who gives the session its Redis; a process that runs no tests does not keep it."""
    server = _told(harness.redis)
    if not harness.opened():
        harness.close()
    return f"{server.provider} {server.version}"


def _asks_for_world(function: Any) -> bool:
    names = inspect.signature(function).parameters
    return not _WORLD_FIXTURES.isdisjoint(names)


def _asks_by_others(collector: Any, function: Any) -> bool:
    """Return whether another fixture of the test's asks for a ``taskservice_app`` of the user's own.

    Only ours asks for the world itself.
    """
    if not has_own_app(collector):
        return False
    manager = collector.session._fixturemanager  # noqa: SLF001 - pytest has no public way to ask
    names = manager.getfixtureinfo(collector, function, getattr(collector, "cls", None)).names_closure
    return not _WORLD_FIXTURES.isdisjoint(names)


def _marks_world(mark: pytest.Mark) -> bool:
    return mark.name == "taskservice" or (
        mark.name == "usefixtures" and not _WORLD_FIXTURES.isdisjoint(map(str, mark.args))
    )
