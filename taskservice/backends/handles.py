"""Handles on runs that Celery has."""

# ruff: noqa: D102 - TaskHandle documents the contract, once

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
from anyio import to_thread

from taskservice.backends.cancelling import revoke_waiting, running_on, stop_running
from taskservice.backends.remote import RemoteOutcome, read_outcome, read_pack
from taskservice.backends.results import ResultListener, read_meta, read_metas, shares_its_pack
from taskservice.errors import ConfigurationError, ResultTimeoutError
from taskservice.runs import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery
    from celery.backends.base import Backend

    from taskservice.backends.eager import EagerRuns
    from taskservice.runs import RunWatcher

__all__ = ["CeleryHandle", "EagerHandle"]

logger = logging.getLogger(__name__)

REVOKE_SECONDS: Final = 2.0
LEAVE_SECONDS: Final = 60.0
"""How long a function that was told to leave may take."""
_UNKNOWN: Final = RemoteOutcome(state=TaskState.PENDING)


class CeleryHandle:
    """A handle on a run that some worker has, had or will have.

    ``pack_id`` is the message it travels in with others; if that is lost, so is the run.
    """

    __slots__ = ("__weakref__", "_app", "_final", "_id", "_listener", "_pack_id", "_results", "_task_name")

    def __init__(  # noqa: PLR0913 - made in one place
        self,
        run_id: str,
        task_name: str,
        *,
        app: Celery,
        results: Backend | None,
        listener: ResultListener,
        pack_id: str | None = None,
    ) -> None:
        self._id = run_id
        self._pack_id = pack_id
        self._task_name = task_name
        self._app = app
        self._results = results
        self._listener = listener
        self._final: RemoteOutcome | None = None

    @property
    def id(self) -> str:
        return self._id

    async def status(self) -> TaskState:
        return (await self._outcome()).state

    async def result(self, timeout: float | None = None) -> Any:
        final = await self._wait(timeout)
        if final is None:
            seconds = 0.0 if timeout is None else timeout
            raise ResultTimeoutError(self._id, self._task_name, seconds, await self.status())

        if final.error is not None:
            raise final.error.with_traceback(None)
        return final.value

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        self.results()
        if self._final is not None:
            watcher(None)
            return _nothing

        return self._listener.watch(self._id, _Taker(self, watcher), self._pack_id)

    def seen(self) -> RemoteOutcome:
        """See `Member`."""
        return self._final or _UNKNOWN

    def presume(self, outcome: RemoteOutcome) -> None:
        """See `Member`."""
        self._final = outcome

    async def exception(self) -> BaseException | None:
        return (await self._outcome()).error

    async def ready(self) -> bool:
        return (await self.status()).final

    async def attempts(self) -> int:
        return (await self._outcome()).attempts

    async def cancel(self, *, terminate: bool = False) -> bool:
        meta = await self._meta()
        state = self._keep(read_outcome(meta, self._id)).state
        if state is TaskState.PENDING and self._pack_id is not None:
            # Celery revokes messages, and this one is not the run's alone.
            return False
        if not state.final and state is not TaskState.STARTED:
            await to_thread.run_sync(revoke_waiting, self._app, self._id)
            await self._wait(REVOKE_SECONDS)
            meta = await self._meta()
            state = read_outcome(meta, self._id).state
        if state is TaskState.STARTED:
            await self._stop_running(meta, terminate=terminate)

        final = self._final
        return final is not None and final.state is TaskState.REVOKED

    async def _stop_running(self, meta: Mapping[str, Any] | None, *, terminate: bool) -> None:
        worker = running_on(meta or {})
        refused = await to_thread.run_sync(
            partial(stop_running, self._app, self._id, worker, terminate=terminate)
        )
        if refused is None:
            await self._wait(LEAVE_SECONDS)
        else:
            logger.info("run %s not cancelled: %s", self._id, refused, extra={"run_id": self._id})

    async def _meta(self) -> Mapping[str, Any] | None:
        return await to_thread.run_sync(read_meta, self.results(), self._id)

    async def _wait(self, timeout: float | None) -> RemoteOutcome | None:
        self.results()
        if self._final is None:
            with anyio.move_on_after(float("inf") if timeout is None else timeout):
                await self._await_final()
        return self._final

    async def _outcome(self) -> RemoteOutcome:
        backend = self.results()
        if self._final is not None:
            return self._final
        if self._pack_id is None:
            return self._keep(read_outcome(await self._meta(), self._id))

        # The pack is looked at no later than its run: a retry is stored before the pack may be lost.
        asked = (self._pack_id, self._id)
        of_pack, meta = await to_thread.run_sync(read_metas, backend, asked)
        outcome = read_outcome(meta, self._id)
        if shares_its_pack(backend, outcome.state):
            lost = read_pack(of_pack, self._id)
            outcome = lost if lost.state.final else outcome
        return self._keep(outcome)

    async def _await_final(self) -> None:
        self.keep_told(await self._listener.wait(self._id, self._pack_id))

    def keep_told(self, meta: Mapping[str, Any]) -> None:
        """Keep what the listener heard: of the run, or of the message it was in."""
        of_pack = self._pack_id is not None and meta.get("task_id") == self._pack_id
        self._keep(read_pack(meta, self._id) if of_pack else read_outcome(meta, self._id))

    def _keep(self, outcome: RemoteOutcome) -> RemoteOutcome:
        if outcome.state.final:
            self._final = outcome
        return outcome

    def results(self) -> Backend:
        """Return where results are, or raise `ConfigurationError` if nowhere."""
        if self._results is None:
            raise ConfigurationError(
                "set result_backend: this Celery app stores no results, so none can be read"
            )

        return self._results


class _Taker:
    """Keeps a handle's end and tells its watcher; less to be collected than a closure is."""

    __slots__ = ("_handle", "_watcher")

    def __init__(self, handle: CeleryHandle, watcher: RunWatcher) -> None:
        self._handle = handle
        self._watcher = watcher

    def __call__(self, meta: Mapping[str, Any] | None, error: Exception | None) -> None:
        if meta is not None:
            self._handle.keep_told(meta)
        self._watcher(error)


class EagerHandle:
    """A handle on a run that was over before it was handed out."""

    def __init__(self, run_id: str, runs: EagerRuns) -> None:
        self._id = run_id
        self._outcome = runs.get(run_id)

    @property
    def id(self) -> str:
        return self._id

    async def status(self) -> TaskState:
        return self._outcome.state

    async def result(self, timeout: float | None = None) -> Any:
        await anyio.lowlevel.checkpoint()
        if self._outcome.error is not None:
            raise self._outcome.error
        return self._outcome.value

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        watcher(None)
        return _nothing

    def seen(self) -> RemoteOutcome:
        """See `Member`."""
        return self._outcome

    def presume(self, outcome: RemoteOutcome) -> None:
        """See `Member`; it was over already."""

    async def exception(self) -> BaseException | None:
        return self._outcome.error

    async def ready(self) -> bool:
        return True

    async def attempts(self) -> int:
        return self._outcome.attempts

    async def cancel(self, *, terminate: bool = False) -> bool:
        return False


def _nothing() -> None:
    """Take nothing back: it was told at once."""
