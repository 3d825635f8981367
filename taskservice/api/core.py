"""The core: what all routes share, open as long as the API is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer

from taskservice.api.access import Principal
from taskservice.api.catalog import Catalog
from taskservice.api.gate import CALL, Call
from taskservice.api.records import LocalRecords, SharedRecords
from taskservice.api.streams import OpenStreams, StreamTimes
from taskservice.backends.base import BackendCapability
from taskservice.service import TaskService
from taskservice.workflow.client import WorkflowClient

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.api.access import Access, RateLimiter
    from taskservice.api.records import Records
    from taskservice.settings import Settings

__all__ = ["Asker", "Core", "Held", "open_core"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Core:
    """The open services, and what the settings say."""

    settings: Settings
    access: Access
    rates: RateLimiter
    catalog: Catalog
    service: TaskService
    workflows: WorkflowClient
    records: Records
    streams: OpenStreams

    @property
    def times(self) -> StreamTimes:
        """The times of a stream."""
        return StreamTimes(
            heartbeat=self.settings.api_heartbeat.total_seconds(),
            patience=self.settings.api_send_timeout.total_seconds(),
        )

    def runs_of(self, principal: Principal) -> WorkflowClient:
        """Return the workflow runs that ``principal`` may see."""
        return self.workflows if principal.admin else self.workflows.for_owner(principal.owner)


@asynccontextmanager
async def open_core(
    settings: Settings, app: Celery | None, *, access: Access, rates: RateLimiter, streams: OpenStreams
) -> AsyncIterator[Core]:
    """Open all that the routes need; what is wrong with the settings is raised here."""
    catalog = await to_thread.run_sync(Catalog, settings, app)
    if app is None and settings.backend != "anyio":
        from taskservice.backends.app import build_app

        app = await to_thread.run_sync(build_app, settings)
    async with (
        TaskService.from_settings(settings, app) as service,
        WorkflowClient(service, settings=settings) as workflows,
    ):
        records = await to_thread.run_sync(partial(_records, service, app, settings))
        try:
            yield Core(
                settings=settings,
                access=access,
                rates=rates,
                catalog=catalog,
                service=service,
                workflows=workflows,
                records=records,
                streams=streams,
            )
        finally:
            streams.close()
            records.close()


def _records(service: TaskService, app: Celery | None, settings: Settings) -> Records:
    if app is None or BackendCapability.DURABLE not in service.backend.capabilities:
        return LocalRecords()

    from taskservice.backends.storage import open_storage

    return SharedRecords(
        open_storage(app, "the owners of tasks"),
        # A task may wait as long as its result is kept, and then be kept.
        kept=2 * settings.result_expires.total_seconds(),
        key_seconds=settings.idempotency_expires.total_seconds(),
    )


def _core_of(connection: HTTPConnection) -> Core:
    core: Core = connection.app.state.core
    return core


_bearer = HTTPBearer(auto_error=False, description="A token of `api_tokens`.")


def _asker(connection: HTTPConnection, _: Annotated[Any, Depends(_bearer)]) -> Principal:
    call: Call = connection.scope[CALL]
    assert call.principal is not None  # the gate lets nobody else in
    return call.principal


Held = Annotated[Core, Depends(_core_of)]
"""The core, as a parameter of a route."""
Asker = Annotated[Principal, Depends(_asker)]
"""Who asks, as a parameter of a route."""
