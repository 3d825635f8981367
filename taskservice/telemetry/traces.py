"""OpenTelemetry traces: one trace from the client over the broker to the worker.

The spans are those of ``opentelemetry-instrumentation-celery``; where they go is said by the standard
``OTEL_*`` variables, or by a tracer provider that is there already.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from taskservice.errors import ConfigurationError
from taskservice.telemetry.extra import load_extra

__all__ = ["flush_traces", "instrument", "require_traces"]

logger = logging.getLogger(__name__)

PROTOCOLS: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
FLUSH_MS: Final = 5000


@cache
def instrument() -> None:
    """Have this process write traces of what it sends to Celery and runs for it; twice is once.

    ``OTEL_TRACES_EXPORTER`` is ``otlp`` by default, over HTTP unless ``OTEL_EXPORTER_OTLP_PROTOCOL``
    says ``grpc``; or ``console``, ``none``, or several with commas. `ConfigurationError` without the
    extra, or without an exporter that is asked for. In a prefork worker it is for the children, after
    the fork: `Settings.traces` does it there.
    """
    trace = load_extra("opentelemetry.trace", "traces")
    sdk = load_extra("opentelemetry.sdk.trace", "traces")
    celery = load_extra("opentelemetry.instrumentation.celery", "traces")
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # nobody has set one
        trace.set_tracer_provider(_provider(sdk))
    celery.CeleryInstrumentor().instrument()
    logger.info("traces are written")


def require_traces() -> None:
    """Raise `ConfigurationError` where `instrument` would, without doing anything."""
    for module in ("opentelemetry.sdk.trace", "opentelemetry.instrumentation.celery"):
        load_extra(module, "traces")
    for name in _exporters():
        _exporter(name)


def flush_traces() -> None:
    """Send the spans that are over, within some seconds: for a process that is about to end."""
    trace = load_extra("opentelemetry.trace", "traces")
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush(FLUSH_MS)


def _provider(sdk: Any) -> Any:
    export = load_extra("opentelemetry.sdk.trace.export", "traces")
    provider = sdk.TracerProvider()  # resource and sampler are the variables' too
    for name in _exporters():
        provider.add_span_processor(export.BatchSpanProcessor(_exporter(name).load()()))
    return provider


def _exporters() -> list[str]:
    names = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")]
    return [name for name in names if name not in {"", "none"}]


def _exporter(name: str) -> EntryPoint:
    wanted = name
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        wanted = PROTOCOLS.get(protocol, protocol)
    found = list(entry_points(group="opentelemetry_traces_exporter", name=wanted))
    if not found:
        known = sorted({entry.name for entry in entry_points(group="opentelemetry_traces_exporter")})
        package = f"opentelemetry-exporter-{wanted.replace('_', '-')}"
        raise ConfigurationError(
            f"OTEL_TRACES_EXPORTER: no exporter {wanted!r}; pip install {package}, or choose of {known}"
        )

    return found[0]
