"""Workers under test: for each world of Celery's its settings, its app and one real worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from taskservice import Settings, create_app, read_heartbeats

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

HERE = Path(__file__).parent
START_SECONDS = 20
AMQP_URL = os.environ.get("TASKSERVICE_TEST_AMQP_URL", "")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a world's worker is; ``broker`` is a URL, empty for the session's Redis."""

    pool: str = "prefork"
    slots: int = 2
    broker: str = ""


CLUSTERS = {
    "celery": Cluster(),
    "celery-threads": Cluster(pool="threads"),
    "celery-solo": Cluster(pool="solo", slots=1),
    "celery-rabbitmq": Cluster(broker=AMQP_URL),
}


class Clusters:
    """The clusters of one session, each started on first use, with keys and queues of its own."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._redis_url = redis_url
        self._folder = folder
        self._settings: dict[str, Settings] = {}
        self._apps: dict[str, Celery] = {}
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        if str(HERE) not in sys.path:
            sys.path.insert(0, str(HERE))

    def settings(self, world: str) -> Settings:
        """Return the settings of client and worker; the tasks are those of `contract_tasks`."""
        if world not in self._settings:
            self._settings[world] = self._settings_of(world)
        return self._settings[world]

    def app(self, world: str) -> Celery:
        """Return the client's app, with the worker running."""
        if world not in self._apps:
            self._apps[world] = create_app(self.settings(world))
            self._workers[world] = self._start(world)
            self._await(world)
        return self._apps[world]

    def close(self) -> None:
        """Stop all workers."""
        for worker in self._workers.values():
            worker.terminate()
        for worker in self._workers.values():
            worker.wait(timeout=START_SECONDS)

    def _settings_of(self, world: str) -> Settings:
        broker = CLUSTERS[world].broker if world in CLUSTERS else ""
        if not broker:
            prefix = "" if world == "celery" else f"{world}:"
            return Settings(
                redis_url=self._redis_url,
                imports=("contract_tasks",),
                key_prefix=f"taskservice:{prefix}",
                broker_key_prefix=prefix,
            )
        # A RabbitMQ may be shared by sessions that run side by side.
        return Settings(
            redis_url=self._redis_url,
            broker_url=broker,
            imports=("contract_tasks",),
            key_prefix=f"taskservice:{world}:",
            default_queue=f"contract-{uuid4()}",
        )

    def _start(self, world: str) -> subprocess.Popen[bytes]:
        settings, cluster = self.settings(world), CLUSTERS[world]
        given = {
            "redis_url": settings.redis_url,
            "broker_url": settings.broker_url,
            "imports": ",".join(settings.imports),
            "key_prefix": settings.key_prefix,
            "broker_key_prefix": settings.broker_key_prefix,
            "default_queue": settings.default_queue,
        }
        environment = {f"TASKSERVICE_{name.upper()}": value for name, value in given.items()}
        argv = [sys.executable, "-c", "from taskservice.cli import main; main()", "worker"]
        with self._log(world).open("wb") as output:
            return subprocess.Popen(
                [*argv, "-P", cluster.pool, "-c", str(cluster.slots)],
                env={
                    **os.environ,
                    "TASKSERVICE_SHUTDOWN_GRACE": "5",
                    "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
                    **environment,
                },
                stdout=output,
                stderr=output,
            )

    def _await(self, world: str) -> None:
        settings = self.settings(world)
        wait_until(
            lambda: bool(read_heartbeats(settings.redis_url, settings.key_prefix)),
            f"the worker, see {self._log(world)}",
        )

    def _log(self, world: str) -> Path:
        return self._folder / f"{world}.log"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when ``condition()`` holds, or fail the test."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come up in {START_SECONDS} s")
        time.sleep(0.02)


_DEAF = "a solo worker hears of nothing while it runs something"
_ALONE = "a solo worker runs one at a time"
_THREADS = "nothing can end a thread"
_SOON_OVER = "twenty virtual seconds may be over while a real thread asks for something"
_NO_BEAT = "a simulated worker has no thread that writes a heartbeat"
UNABLE = {
    "celery-sim": {
        "test_cancelling_one_run_leaves_its_neighbour_alone": _SOON_OVER,
        "test_health_names_who_runs_tasks_and_how_they_are": _NO_BEAT,
    },
    "celery-threads": {"test_the_process_of_a_running_plain_function_can_be_ended": _THREADS},
    "celery-solo": {
        "test_a_running_async_function_leaves_and_tidies_up": _DEAF,
        "test_cancelling_one_run_leaves_its_neighbour_alone": _DEAF,
        "test_the_process_of_a_running_plain_function_can_be_ended": _DEAF,
        "test_handles_come_in_the_order_in_which_their_runs_end": _ALONE,
        "test_cancelling_stops_what_waits_and_starts_nothing_later": _DEAF,
        "test_cancelling_reaches_members_that_run": _DEAF,
        "test_a_step_cancelled_by_itself_ends_the_chain": _DEAF,
    },
}
"""What a pool truly cannot show: the test and why."""


def require(world: str) -> None:
    """Skip the test, with the reason, in a world that is not there."""
    if world == "celery-rabbitmq" and not AMQP_URL:
        pytest.skip("TASKSERVICE_TEST_AMQP_URL names no RabbitMQ; .ci/rabbitmq starts one")
