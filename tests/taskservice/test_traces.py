"""One trace from a client over the broker to a worker, as a collector gets it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.taskservice.conftest import WorkerProcess, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TASKS = """
from taskservice import task

@task(name="add")
def add(left: int, right: int) -> int:
    return left + right
"""
CLIENT = """
import anyio
from opentelemetry import trace
from taskservice import TaskService
from worker_tasks import add

async def main():
    async with TaskService.from_settings() as service:
        tracer = trace.get_tracer("client")
        with tracer.start_as_current_span("one"):
            await service.launch_and_await_task(add, 1, 2)
        with tracer.start_as_current_span("many"):
            handles = await service.launch_many(add, [(number, 1) for number in range(3)])
        with tracer.start_as_current_span("packed"):
            handles += await service.launch_many(add, [(number, 1) for number in range(2)], per_message=2)
        for handle in handles:
            await handle.result(20)

anyio.run(main)
"""


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: bytes
    id: bytes
    parent: bytes


class Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Span] = []


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    found = Span(
                        attributes["service.name"],
                        span.name,
                        span.trace_id,
                        span.span_id,
                        span.parent_span_id,
                    )
                    assert isinstance(self.server, Collector)
                    self.server.spans.append(found)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_trace_spans_the_broker(
    make_worker: Callable[..., WorkerProcess], collector: Collector, tmp_path: object, pool: str
) -> None:
    worker = make_worker(TASKS, traces=True)
    given = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with worker.running("-P", pool, "-c", "1", **given, OTEL_SERVICE_NAME="worker"):
        client = {
            "TASKSERVICE_REDIS_URL": worker.settings.redis_url,
            "TASKSERVICE_BACKEND": "celery",
            "TASKSERVICE_TRACES": "true",
            "OTEL_SERVICE_NAME": "client",
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.pathsep.join(sys.path)}",
        }
        subprocess.run([sys.executable, "-c", CLIENT], env={**os.environ, **given, **client}, check=True)
        until(lambda: len(named(collector, "worker", "run/add")) == 6, "span of each run")

    by_id = {span.id: span for span in collector.spans}
    above = {}
    for name in ("one", "many", "packed"):
        (root,) = named(collector, "client", name)
        sent = [span for span in collector.spans if span.parent == root.id]
        runs = [span for span in named(collector, "worker", "run/add") if span.trace == root.trace]
        above[name] = (len(sent), len(runs))
    assert above == {"one": (1, 1), "many": (3, 3), "packed": (1, 2)}
    assert {by_id[run.parent].name for run in named(collector, "worker", "run/add")} == {
        "apply_async/add",
        "run/taskservice.packed.late.requeued",
    }
    many = [run.parent for run in named(collector, "worker", "run/add") if run.parent in by_id]
    assert len(set(many)) == 5


def named(collector: Collector, service: str, name: str) -> list[Span]:
    return [span for span in list(collector.spans) if (span.service, span.name) == (service, name)]


def test_without_the_extra_the_error_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None\n"
        "from taskservice import Settings, create_app; create_app(Settings(traces=True))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "ConfigurationError: traces need an extra: pip install 'taskservice[telemetry]'" in done.stderr


def test_an_exporter_that_is_not_there_is_told() -> None:
    code = "from taskservice.telemetry import instrument; instrument()"
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "zipkin_json"}

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )

    assert "no exporter 'zipkin_json'; pip install opentelemetry-exporter-zipkin-json" in done.stderr


def test_nothing_of_it_is_loaded_when_it_is_off() -> None:
    # redis-py loads the API and the SDK by itself where they are installed.
    code = (
        "OURS = ('opentelemetry.instrumentation', 'opentelemetry.exporter', 'prometheus')\n"
        "import sys; from taskservice import *; from taskservice.telemetry import *\n"
        "CeleryBackend(create_app(Settings()))\n"
        "print([name for name in sys.modules if name.startswith(OURS)])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
