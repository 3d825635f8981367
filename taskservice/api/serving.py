"""Serving the API with uvicorn, until the process is told to stop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import uvicorn

from taskservice.api.application import create_api
from taskservice.api.gate import is_loopback
from taskservice.errors import ConfigurationError
from taskservice.settings import load_settings

if TYPE_CHECKING:
    from celery import Celery
    from fastapi import FastAPI

    from taskservice.settings import Settings

__all__ = ["run_api"]

logger = logging.getLogger(__name__)


def run_api(
    *,
    app: Celery | None = None,
    settings: Settings | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve `create_api` at ``host`` and ``port``, 0 for any that is free, which the log tells.

    When it is told to stop, streams are closed, requests have ``shutdown_grace`` to be answered, and in
    process tasks their ``grace``. `ConfigurationError` for an API without tokens at an address that others
    can reach.
    """
    given = load_settings() if settings is None else settings
    api = create_api(given, app)
    if not given.api_tokens and not is_loopback(host):
        raise ConfigurationError(
            f"set api_tokens: without them the API is served on 127.0.0.1 alone, and not on {host}"
        )

    config = uvicorn.Config(
        api,
        host=host,
        port=port,
        lifespan="on",
        ws_max_size=given.payload_limit,
        timeout_graceful_shutdown=max(1, int(given.shutdown_grace.total_seconds())),
        server_header=False,
        # Its own lines show queries and, at the lowest level, headers; the gate writes what is needed.
        access_log=False,
        log_config=None,
        log_level="warning",
    )
    server = _Server(config, api)
    server.run()
    if not server.started:
        raise ConfigurationError(f"the API could not be started at {host}, port {port}: see the log")


class _Server(uvicorn.Server):
    """Says where it listens, and closes the streams first: uvicorn waits for requests to end."""

    def __init__(self, config: uvicorn.Config, api: FastAPI) -> None:
        super().__init__(config)
        self._api = api

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for each in self.servers if self.started else ():
            for listening in each.sockets:
                name, port = listening.getsockname()[:2]
                logger.info("api listens on http://%s:%s", f"[{name}]" if ":" in name else name, port)

    async def shutdown(self, sockets: Any = None) -> None:
        self._api.state.streams.close()
        await super().shutdown(sockets)
