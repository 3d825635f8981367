"""A simulation leaves the process as it found it, however it ended."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import weakref
from importlib import import_module
from types import BuiltinFunctionType, FunctionType
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TimeoutError as NotInTimeError
from redis.connection import AbstractConnection

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions

app = Celery("traceless", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")

_STATE = ("requests", "reserved_requests", "active_requests", "revoked", "total_count", "all_total_count")
_MODULES = (
    "asyncio",
    "celery",
    "kombu",
    "billiard",
    "redis",
    "taskservice",
    "anyio",
    "socket",
    "threading",
    "time",
)


@app.task(bind=True, max_retries=1)
def work(self: Any, ends: str) -> str:
    time.sleep(60)
    if ends == "retries":
        raise self.retry(countdown=3600)
    if ends == "fails":
        raise ValueError(ends)
    return asyncio.run(asyncio.sleep(1, ends))


def snapshot() -> dict[str, Any]:
    state: Any = import_module("celery.worker.state")
    kombu: Any = import_module("kombu.transport")
    current: Any = import_module("celery._state")
    found: dict[str, Any] = {
        "clocks": (time.time, time.sleep, time.monotonic, time.perf_counter, uuid.uuid4),
        "drawn": random.getstate(),
        "collector": gc.get_threshold(),
        "signal": signal.getsignal(signal.SIGURG),
        "app": (current._tls.current_app, current.default_app, current.task_join_will_block()),
        "aliases": dict(kombu.TRANSPORT_ALIASES),
        "worker": {name: repr(getattr(state, name)) for name in _STATE if name != "all_total_count"},
        "settings": dict(app.conf.changes or {}),
        "connections": (AbstractConnection.connect, socket.socket.connect, socket.create_connection),
        "threads": {thread.name for thread in threading.enumerate()},
        "loop": asyncio._get_running_loop(),
    }
    return found | {f"{module}.{name}": value for module, name, value in globals_of(_MODULES)}


def globals_of(roots: tuple[str, ...]) -> list[tuple[str, str, Any]]:
    """Return functions and classes, with their own functions, that modules hold."""
    held = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in roots or not hasattr(module, "__dict__"):
            continue
        for key, value in list(vars(module).items()):
            # By its own type: Celery's proxies make an app when they are asked what they are.
            if issubclass(type(value), (FunctionType, BuiltinFunctionType, type)):
                held.append((name, key, value))
            if issubclass(type(value), type) and value.__module__ == name:
                held += [(name, f"{key}.{own}", vars(value)[own]) for own in vars(value) if own[:2] != "__"]
    return held


def played(ends: str) -> None:
    driver = CelerySimDriver(options=SimulatorOptions())
    driver.begin(app, {}, loops=True)
    try:
        run = work.delay(ends)
        if ends == "is left running":
            time.sleep(30)
            return
        run.get(timeout=30 if ends == "runs on" else 7200, propagate=False)
    except NotInTimeError:
        assert ends == "runs on"
    finally:
        driver.close()


@pytest.mark.parametrize("ends", ["well", "fails", "retries", "runs on", "is left running"])
def test_everything_is_as_it_was(ends: str) -> None:
    played("well")  # What is imported and made once is there now.
    before = snapshot()

    played(ends)

    after = snapshot()
    # One of an earlier test may have come to its end meanwhile.
    assert after.pop("threads") <= before.pop("threads")
    assert [name for name, value in before.items() if not same(value, after.get(name))] == []


def same(left: Any, right: Any) -> bool:
    return left is right or bool(left == right)


def test_real_time_passes_afterwards() -> None:
    played("well")
    then = time.monotonic()

    time.sleep(0.01)

    assert 0.01 <= time.monotonic() - then < 60
    assert abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 60


def test_a_result_that_outlives_its_simulation_asks_no_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    # Such an option takes a client of redis-py, with connections that could be made anew.
    url = "redis://127.0.0.1:9?decode_responses=true"
    other = Celery("outlived", broker="redis://nowhere.invalid", backend=url, set_as_current=False)

    @other.task(shared=False)
    def answer() -> int:
        return 42

    driver = CelerySimDriver(options=SimulatorOptions())
    driver.begin(other, {})
    result = answer.delay()
    assert result.get() == 42
    pending = answer.apply_async(countdown=60)
    assert not pending.ready()
    driver.reset()

    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    del result, pending
    gc.collect()

    assert asked == []


_IMPORTED_MEANWHILE = """
import time

from pytest_taskservice.simulator.loops.world import open_stage

with open_stage():
    import celery.app.trace as trace
    import pytest_taskservice.simulator.celery.seams

from celery import Celery

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions

app = Celery("late", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")


@app.task
def nap():
    time.sleep(60)
    return "rested"


driver = CelerySimDriver(options=SimulatorOptions())
driver.begin(app, {})
assert nap.delay().get() == "rested"
[ended] = [event for event in driver.log() if event.kind == "succeeded"]
assert 60 < ended.detail["runtime"] < 61, ended
driver.reset()
assert time.monotonic in trace.build_tracer.__defaults__
"""


def test_celery_may_be_imported_first_while_time_is_virtual() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED_MEANWHILE], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr


def test_nothing_of_a_simulation_outlives_it() -> None:
    driver = CelerySimDriver(options=SimulatorOptions())
    driver.begin(app, {})
    try:
        work.delay("well").get(timeout=7200)
        kept = [weakref.ref(each) for each in (app.amqp, driver.world, driver.world.simulation)]
    finally:
        driver.close()

    del driver
    gc.collect()

    assert [each() for each in kept] == [None, None, None]
