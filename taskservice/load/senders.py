"""How the engine sends a call and learns its end: by the service, as plain Celery, as a workflow.

A sender's `launch` returns a `Sent`, whose ``outcome`` is awaited apart: sending and waiting are measured
apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

from celery.backends.base import DisabledBackend

from taskservice.backends.celery import CeleryBackend
from taskservice.backends.probing import ping_broker
from taskservice.backends.publishing import quiet_results
from taskservice.backends.results import ResultListener
from taskservice.errors import ConfigurationError, TaskNotRegisteredError
from taskservice.load.errors import StackError
from taskservice.load.tasks import TIMED
from taskservice.runs import TaskState
from taskservice.service import TaskService
from taskservice.tasks import default_registry
from taskservice.workflow.client import WorkflowClient
from taskservice.workflow.definitions import WorkflowDefinition
from taskservice.workflow.model import WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from taskservice.load.calls import Call
    from taskservice.settings import Settings

__all__ = ["Outcome", "Sender", "Sent", "check_call", "open_senders"]

PUBLISHERS: Final = 4
BROKER_SECONDS: Final = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended: ``error`` is empty if well. The instants, by the wall clock, where they are known."""

    error: str = ""
    started: float | None = None
    ran: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A run on its way."""

    run_id: str
    outcome: Callable[[], Awaitable[Outcome]]


class Sender(Protocol):
    """One way of launching."""

    async def launch(self, call: Call) -> Sent:
        """Send it; any error means that it was not sent."""


class ServiceSender:
    """By `TaskService.launch_task`."""

    def __init__(self, service: TaskService, app: Celery | None) -> None:
        self._service = service
        self._app = app
        self._found: dict[str, Any] = {}

    async def launch(self, call: Call) -> Sent:
        func = self._found.get(call.name)
        if func is None:
            func = self._found[call.name] = self.find(call.name)
        launcher = self._service.options(**call.options) if call.options else self._service
        run_id, handle = await launcher.launch_task(func, *call.args, **call.kwargs)
        return Sent(run_id=run_id, outcome=partial(self._outcome, handle, timed=call.name in TIMED))

    def find(self, name: str) -> Any:
        """Return the task of that name, or raise `TaskNotRegisteredError`."""
        if ":" in name:
            return find_attribute(name)
        if name in default_registry:
            return default_registry.get(name)
        known = {*default_registry.names(), *(self._app.tasks if self._app else ())}
        if self._app is None or name not in self._app.tasks:
            raise TaskNotRegisteredError(
                name, tuple(sorted(each for each in known if not each.startswith("celery.")))
            )
        return self._app.tasks[name]

    async def _outcome(self, handle: Any, *, timed: bool) -> Outcome:
        try:
            value = await handle.result()
        except Exception as error:  # noqa: BLE001 - whatever a task raises is its end
            return Outcome(error=f"{type(error).__name__}: {error}")

        return _timed(value) if timed else Outcome()


class CelerySender:
    """By ``app.send_task``, as any Celery app is used; results by one listener for all."""

    def __init__(self, app: Celery) -> None:
        if isinstance(app.backend, DisabledBackend):
            raise ConfigurationError(
                "set result_backend: this Celery app stores no results, so nobody can tell what ends"
            )

        self._app = app
        self._listener = ResultListener(app.backend)
        self._threads = ThreadPoolExecutor(PUBLISHERS, thread_name_prefix="publisher")

    async def launch(self, call: Call) -> Sent:
        run_id = str(uuid4())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, partial(self._send, call, run_id))
        return Sent(run_id=run_id, outcome=partial(self._outcome, run_id, timed=call.name in TIMED))

    def close(self) -> None:
        """Give up waiting."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._listener.close()

    def _send(self, call: Call, run_id: str) -> None:
        name = find_attribute(call.name).name if ":" in call.name else call.name
        with quiet_results(self._app):
            self._app.send_task(
                name, args=list(call.args), kwargs=dict(call.kwargs), task_id=run_id, **call.options
            )

    async def _outcome(self, run_id: str, *, timed: bool) -> Outcome:
        meta = await self._listener.wait(run_id)
        if meta["status"] == TaskState.SUCCESS:
            return _timed(meta["result"]) if timed else Outcome()
        return Outcome(error=f"{meta['status']}: {_told(meta.get('result'))}")


class WorkflowSender:
    """By `WorkflowClient`: starts a run, reads its events, answers its questions, takes its result."""

    def __init__(self, client: WorkflowClient) -> None:
        self._client = client

    async def launch(self, call: Call) -> Sent:
        flow = find_attribute(call.name) if ":" in call.name else call.name
        if not isinstance(flow, str | WorkflowDefinition):
            raise ConfigurationError(f"{call.name} is no @workflow")
        run_id = await self._client.start(flow, *call.args, **call.kwargs)
        return Sent(run_id=run_id, outcome=partial(self._take_part, run_id, call))

    async def _take_part(self, run_id: str, call: Call) -> Outcome:
        started: float | None = None
        since: float | None = None
        ran = 0.0
        try:
            async for event in self._client.events(run_id):
                if event.kind == "question":
                    await self._client.send_input(run_id, call.answer, event.data["id"])
                if event.kind != "status":
                    continue
                if since is not None:
                    ran, since = ran + event.at - since, None
                if event.data["status"] == WorkflowStatus.RUNNING:
                    started, since = started or event.at, event.at
            await self._client.result(run_id)
        except Exception as error:  # noqa: BLE001 - whatever a workflow raises is its end
            return Outcome(error=f"{type(error).__name__}: {error}")
        return Outcome(started=started, ran=ran if started is not None else None)


async def open_senders(stack: AsyncExitStack, app: Celery | None, settings: Settings) -> dict[str, Sender]:
    """Return a sender for each way there is on this back end, open until ``stack`` is closed."""
    service = await stack.enter_async_context(await asyncio.to_thread(_service, app, settings))
    client = await stack.enter_async_context(WorkflowClient(service, settings=settings))
    senders: dict[str, Sender] = {"task": ServiceSender(service, app), "workflow": WorkflowSender(client)}
    if app is not None and service.backend.name == "celery" and not isinstance(app.backend, DisabledBackend):
        sender = CelerySender(app)
        stack.callback(sender.close)
        senders["celery"] = sender
    return senders


def _service(app: Celery | None, settings: Settings) -> TaskService:
    """Return one that is not open; a machine under load answers later than the service's own probe waits."""
    if app is None or settings.backend != "celery":
        return TaskService.from_settings(settings, app)

    broker = ping_broker(app, BROKER_SECONDS)
    if not broker.healthy:
        raise StackError("the broker cannot be reached", broker.detail)
    return TaskService(CeleryBackend(app, settings=settings))


def check_call(call: Call, senders: Mapping[str, Sender]) -> None:
    """Raise `ConfigurationError` or `TaskNotRegisteredError` for a call that could never be sent."""
    sender = senders.get(call.how)
    if sender is None:
        raise ConfigurationError(
            f"{call.name} cannot be sent as a Celery task: it needs the celery back end, and an app that "
            "stores results: set result_backend"
        )
    if isinstance(sender, ServiceSender):
        sender.find(call.name)
    elif ":" in call.name:
        find_attribute(call.name)


def find_attribute(name: str) -> Any:
    """Return what ``package.module:attribute`` names, or raise `ConfigurationError`."""
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"cannot find {name!r}: {error}") from error
    return found


def _timed(value: list[float]) -> Outcome:
    started, ended = value
    return Outcome(started=started, ran=ended - started)


def _told(result: Any) -> str:
    """Return an error as Celery stores it, in one line."""
    if isinstance(result, dict):
        told = result.get("exc_message")
        text = ", ".join(map(str, told)) if isinstance(told, list | tuple) else str(told or "")
        return f"{result.get('exc_type', '')}: {text}".strip(": ")
    return str(result or "")
