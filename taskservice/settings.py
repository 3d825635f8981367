"""Settings: one frozen object, read from ``TASKSERVICE_*`` variables or given in code."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from taskservice.errors import ConfigurationError, UnknownBackendError
from taskservice.payloads import PAYLOAD_LIMIT

__all__ = ["BACKENDS", "Settings", "load_settings"]

BackendName = Literal["auto", "celery", "anyio"]
BACKENDS: Final = ("auto", "celery", "anyio")
StoreName = Literal["auto", "redis", "memory"]


def _seconds(value: object) -> object:
    # Pydantic takes a number for seconds, but not a number in a string.
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Span = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta(0))]
PositiveSpan = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]
Names = Annotated[tuple[str, ...], NoDecode]
"""A list in the environment is JSON, or names with commas between them."""


class Settings(BaseSettings):
    """Everything the service and its workers can be told.

    Durations are `timedelta`; in the environment, seconds or ISO 8601. Dicts are JSON there, lists
    are JSON or ``a,b,c``.
    """

    model_config = SettingsConfigDict(
        env_prefix="TASKSERVICE_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    backend: BackendName = "auto"
    """Which back end: ``auto`` takes Celery where a broker and a worker answer."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """The Redis of heartbeats, and of broker and results unless they say otherwise."""
    broker_url: str = ""
    """Celery's broker; empty means ``redis_url``."""
    result_backend: str = ""
    """Celery's result backend; empty means ``redis_url``."""
    key_prefix: str = "taskservice:"
    """Before every Redis key of our own."""
    broker_key_prefix: str = ""
    """Before every Redis key of Celery's broker and results; empty keeps Celery's names."""
    timezone: str = "UTC"
    """The time zone of the beat schedule."""
    default_queue: str = "celery"
    """Where tasks go that name no queue and match no route."""
    queues: Names = ()
    """Queues a worker consumes besides the default one."""
    routes: dict[str, str] = Field(default_factory=dict)
    """Task name or pattern to queue."""
    beat_schedule: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Entry by name; see `taskservice.schedules.entries.parse_schedule`."""
    beat_lease: PositiveSpan = timedelta(seconds=10)
    """How long a beat that fell silent keeps another from taking over."""
    result_expires: PositiveSpan = timedelta(days=1)
    """How long Celery keeps a result."""
    visibility_timeout: PositiveSpan = timedelta(hours=1)
    """When an unacknowledged delivery goes back to its queue on Redis: longer than the longest run."""
    payload_limit: PositiveInt = PAYLOAD_LIMIT
    """How many bytes the arguments of a call, or a result, may have as JSON."""
    idempotency_expires: PositiveSpan = timedelta(days=1)
    """How long an idempotency key keeps its run from being launched again."""
    prefetch: PositiveInt = 1
    """How many messages a worker takes per slot; more serves short tasks, and hoards long ones."""
    shutdown_grace: Span = timedelta(seconds=20)
    """How long a worker that is told to stop lets its runs go on before they go back to their queue."""
    retention_count: PositiveInt = 1000
    """How many finished in-process runs are kept."""
    retention: PositiveSpan = timedelta(hours=1)
    """How long a finished in-process run is kept."""
    grace: Span = timedelta(seconds=5)
    """How long closing waits for in-process runs before it cancels them."""
    dead_letter_count: PositiveInt = 10_000
    """How many dead letters are kept."""
    dead_letter_retention: PositiveSpan = timedelta(days=7)
    """How long a dead letter is kept."""
    max_deliveries: PositiveInt = 3
    """How often a worker may die with a run of a late-acknowledged task before it is given up."""
    heartbeat_interval: PositiveSpan = timedelta(seconds=2)
    """How often a worker says that it lives."""
    heartbeat_ttl: PositiveSpan = timedelta(seconds=10)
    """How long a worker counts as alive after its last word."""
    workflow_store: StoreName = "auto"
    """Where workflow runs are kept: ``auto`` takes Redis with Celery, and memory in process."""
    workflow_sweep_interval: PositiveSpan = timedelta(seconds=1)
    """How often a worker looks for workflow runs whose deadline has passed."""
    workflow_busy: PositiveSpan = timedelta(seconds=10)
    """How long a workflow run waits for a worker before it fails."""
    workflow_input: PositiveSpan = timedelta(days=1)
    """How long a workflow run waits for an answer before it fails."""
    workflow_stale: PositiveSpan = timedelta(days=1)
    """How long a workflow run may do nothing that anybody hears of before it fails."""
    workflow_lease: PositiveSpan = timedelta(seconds=15)
    """How long after the last word of a worker its workflow runs go to another."""
    workflow_kept: PositiveSpan = timedelta(days=1)
    """How long the data of a workflow run is kept once it is over."""
    workflow_data: PositiveSpan | None = None
    """How long the data of a workflow run is kept after its last news; without it, as long as it lasts."""
    workflow_max_steps: PositiveInt = 10_000
    """How many steps and questions a workflow run may have."""
    workflow_max_events: PositiveInt = 10_000
    """How many of its events are kept."""
    canary_timeout: PositiveSpan = timedelta(seconds=60)
    """How long a pool may give no sign of life before it counts as hung: longer than the longest run."""
    processes: PositiveInt | None = None
    """How many processes share the work of this one, where the service cannot see it."""
    allow_in_memory: bool = False
    """Whether one of several processes may keep its runs in its own memory."""
    api_tokens: dict[str, str] = Field(default_factory=dict, repr=False)
    """Bearer token, or ``sha256:`` and the hex digest of one, to the owner whose it is."""
    api_admins: Names = ()
    """Owners who see everybody's runs and look after dead letters."""
    api_open: bool = False
    """Whether the HTTP API lets everybody in who is on this machine, where there are no tokens."""
    api_tasks: Names = ()
    """The tasks that the HTTP API launches; empty means every ``@task`` of the imported modules."""
    api_workflows: Names = ()
    """The workflows that the HTTP API starts; empty means all of the imported modules."""
    api_rate: Annotated[PositiveFloat, Field(le=1_000_000)] = 100.0
    """How many requests and messages a second each token may send; so many may come at once."""
    api_streams: PositiveInt = 1000
    """How many event streams and WebSockets each token may have open."""
    api_heartbeat: PositiveSpan = timedelta(seconds=15)
    """How long an event stream is silent before it sends a comment."""
    api_send_timeout: PositiveSpan = timedelta(seconds=20)
    """How long a client of the HTTP API may take in nothing before its stream is closed."""
    api_cors_origins: Names = ()
    """Origins whose pages may use the HTTP API."""
    traces: bool = False
    """Whether client and workers write OpenTelemetry traces."""
    imports: Names = ()
    """Modules with tasks, imported by workers and by `create_app`."""

    @field_validator("backend", mode="before")
    @classmethod
    def _known_backend(cls, value: object) -> object:
        if value not in BACKENDS:
            raise UnknownBackendError(str(value), BACKENDS)

        return value

    @field_validator(
        "queues", "imports", "api_admins", "api_tasks", "api_workflows", "api_cors_origins", mode="before"
    )
    @classmethod
    def _split_names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value

        if value.lstrip().startswith("["):
            from json import loads

            return loads(value)
        return tuple(name.strip() for name in value.split(",") if name.strip())

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"unknown time zone {value!r}; use a name such as 'UTC'") from error

        return value

    @model_validator(mode="after")
    def _beats_before_it_expires(self) -> Settings:
        if self.heartbeat_interval >= self.heartbeat_ttl:
            raise ValueError(
                f"need heartbeat_interval < heartbeat_ttl, "
                f"got {self.heartbeat_interval} and {self.heartbeat_ttl}"
            )

        return self

    @property
    def effective_broker_url(self) -> str:
        """The broker's URL after defaults."""
        return self.broker_url or self.redis_url

    @property
    def effective_result_backend(self) -> str:
        """The result backend's URL after defaults."""
        return self.result_backend or self.redis_url


def load_settings(**given: Any) -> Settings:
    """Return settings from the environment and ``given``, or one `ConfigurationError`."""
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error
    except SettingsError as error:
        raise ConfigurationError(f"{error}; a dict is JSON in the environment") from error


def _explain(error: ValidationError) -> str:
    lines = []
    for found in error.errors(include_url=False):
        name = ".".join(str(part) for part in found["loc"])
        where = f"TASKSERVICE_{name.upper()} ({name}): " if name else ""
        lines.append(where + found["msg"].removeprefix("Value error, "))
    return "; ".join(lines)
