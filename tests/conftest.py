"""Which tests CI leaves out where.

Thorough ones say little about a Python version, and run on one. What is no internal one says little about a
minor of Celery, and runs with the newest only. A test that is marked as an internal one by hand is no
thorough one, wherever it stands. Lengthy ones are beyond the ten minutes of CI; ``scripts/test`` runs them.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Each starts, stops and kills workers of its own, or pytest in processes of its own.
FOLDERS = frozenset({"plugin"})
MODULES = frozenset(
    {
        "test_canary.py",
        "test_chaos.py",
        "test_dead_letters_worker.py",
        "test_load_command.py",
        "test_locustfile.py",
        "test_nothing_lost.py",
        "test_stopping.py",
        "test_stories.py",
        "test_traces.py",
        "test_workflow_workers.py",
    }
)
# CI has no time for them: what takes longest, and for most of it others play the same, shorter.
LENGTHY = frozenset(
    {
        "test_app.py",
        "test_canary.py",
        "test_celery_compat.py",
        "test_chaos.py",
        "test_clock.py",
        "test_collected.py",
        "test_dead_letters_worker.py",
        "test_exchanges.py",
        "test_explorations.py",
        "test_load_command.py",
        "test_machine.py",
        "test_outside.py",
        "test_redis.py",
        "test_redis_scheduler.py",
        "test_reports.py",
        "test_seeds.py",
        "test_sightings.py",
        "test_simulated.py",
        "test_slow_start.py",
        "test_stopping.py",
        "test_story_driver_celery.py",
        "test_story_faults_celery.py",
        "test_unshared.py",
        "test_worlds.py",
    }
)
# As long, but only where real workers play them.
LENGTHY_ON_WORKERS = frozenset({"test_workflow_control.py", "test_workflow_deadlines.py"})
# Of many runs at once; on other pools and brokers they cost as much, and have said nothing else so far.
LENGTHY_ON_OTHERS = frozenset(
    {
        "test_a_chord_and_a_chain_of_a_hundred",
        "test_a_group_of_a_thousand",
        "test_a_thousand_runs_complete_without_a_thread_each",
        "test_many_chords_at_once_do_not_starve_each_other",
        "test_two_hundred_runs_at_once_all_come_back",
        "test_two_thousand_calls_all_come_back",
        "test_what_is_as_deep_as_may_be_works",
    }
)
# More than half a minute each.
LONG = frozenset(
    {
        "test_chaos.py",
        "test_load_command.py",
        "test_nothing_lost.py",
        "test_recovery.py",
        "test_reports.py",
        "test_seeds.py",
        "test_stopping.py",
        "test_story_faults_celery.py",
        "test_worker.py",
    }
)
WORLDS = frozenset({"celery-rabbitmq", "celery-solo", "celery-threads"})
POOLS = frozenset({"celery-solo", "celery-threads"})
# Of what the service does before a message leaves and after it has come: which pool runs it hardly shows.
LENGTHY_ON_POOLS = frozenset(
    {
        "test_canvas.py",
        "test_dead_letters.py",
        "test_idempotency.py",
        "test_launch_many.py",
        "test_task_options.py",
    }
)

# Each plays what reaches into Celery or kombu by private places, or what they were seen to do differently.
INTERNALS = frozenset(
    {
        "test_acknowledging.py",
        "test_blocking.py",
        "test_cancel.py",
        "test_canvas.py",
        "test_canvas_celery.py",
        "test_canvas_of_celery.py",
        "test_carried.py",
        "test_celery_backend.py",
        "test_driver.py",
        "test_faults.py",
        "test_faults_broker.py",
        "test_faults_told.py",
        "test_heartbeat.py",
        "test_launch_many.py",
        "test_launch_many_celery.py",
        "test_launch_one_celery.py",
        "test_no_trace.py",
        "test_own_app.py",
        "test_packed_results.py",
        "test_packs_celery.py",
        "test_redis_scheduler.py",
        "test_schedules.py",
        "test_scripts.py",
        "test_storing.py",
        "test_shortcuts.py",
        "test_standstill.py",
        "test_task_backend.py",
    }
)
_PLAYED = re.compile(r"(tests/contract)/.*\[(?:.*-)?(celery(?:-(?:threads|solo|rabbitmq|sim|eager))?)\b.*]")

# Where Redis is fakeredis these run Lua scripts of others than Celery and redis-py. There is no wheel of lupa
# for Python 3.15 so far.
NO_LUPA = importlib.util.find_spec("lupa") is None
LUA_IN_SIMULATOR = frozenset({"test_dead_letters.py", "test_idempotency.py", "test_the_back_end_is_healthy"})
LUA = frozenset(
    {
        "test_commands_pipelines_and_scripts_work",
        "test_scripts_run",
        "test_the_script_of_stored_results_does_what_its_text_says",
    }
)

# Of what is Celery's in the simulator, these play all that reaches into it; the others say it once more.
SIMULATED = frozenset({"test_driver.py", "test_task_backend.py"})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them, and begin with what takes long: four processes share them by group, and end together."""
    for item in items:
        given = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        if _is_lengthy(item, given):
            item.add_marker("lengthy")
        if NO_LUPA and _runs_lua(item, given):
            item.add_marker(pytest.mark.skip("lupa is not installed, and runs Lua where Redis is fakeredis"))
        ours = item.path.name in MODULES or item.path.parent.name in FOLDERS
        by_hand = item.get_closest_marker("internals") is not None
        if not by_hand and (ours or given.get("world") in WORLDS):
            item.add_marker("thorough")
        # The client's loop is not Celery's, nor is a run in process.
        elsewhere = given.get("anyio_backend") == "trio" or given.get("world") == "anyio"
        again = given.get("world") == "celery-sim" and item.path.name not in SIMULATED
        if not by_hand and item.path.name in INTERNALS and not elsewhere and not again:
            item.add_marker("internals")
    items.sort(key=_rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Share tests by module; of the contracts, all that one world plays, for whose workers it is the same."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped] # xdist has no types

    class ByWorld(LoadScopeScheduling):  # type: ignore[misc] # as above
        def _split_scope(self, nodeid: str) -> str:
            # Workers cost also while nothing runs: so each of these is there once, in one process.
            shared = _PLAYED.match(nodeid)
            return f"{shared[1]}:{shared[2]}" if shared else nodeid.partition("::")[0]

    return ByWorld(config, log)


def _rank(item: pytest.Item) -> int:
    if item.path.name in LONG:
        return 0
    return 1 if item.path.parent.name == "contract" else 2 + (item.path.parent.name not in FOLDERS)


def _is_lengthy(item: pytest.Item, given: Mapping[str, object]) -> bool:
    module, function, world = item.path.name, item.name.partition("[")[0], given.get("world")
    return (
        module in LENGTHY
        or (module in LENGTHY_ON_WORKERS and given.get("story_world") == "celery")
        or (module in LENGTHY_ON_POOLS and world in POOLS)
        or (function in LENGTHY_ON_OTHERS and world in WORLDS)
    )


def _runs_lua(item: pytest.Item, given: Mapping[str, object]) -> bool:
    names = {item.path.name, item.name.partition("[")[0]}
    simulated = given.get("world") == "celery-sim" and not LUA_IN_SIMULATOR.isdisjoint(names)
    return simulated or not LUA.isdisjoint(names) or "fake" in given.values()


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have what tests start keep its temporary files in one place: a worker that is killed leaves one."""
    tmp_path_factory.getbasetemp()  # which is to stay where people look for it
    with (
        tempfile.TemporaryDirectory(prefix="ts-", ignore_cleanup_errors=True) as place,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", place)
        patch.setattr(tempfile, "tempdir", place)
        yield


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Pytester, whose fresh processes leave out plugins of others that take seconds to load."""
    others = (
        "anyio",
        "asyncio",
        "freezer",
        "hypothesispytest",
        "locust",
        "schemathesis",
        "time_machine",
        "valkey",
    )
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in others))
    return pytester
