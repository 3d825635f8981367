"""The API in this process, on AnyIO, and who uses it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from taskservice import Settings
from taskservice.api import create_api

HERE = Path(__file__).parent
ANN = "token-of-ann-0123456789"
BOB = "token-of-bob-0123456789"
ROOT = "token-of-root-0123456789"
TOKENS = {ANN: "ann", BOB: "bob", ROOT: "root"}

OpenApi = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def settings_with(**given: Any) -> Settings:
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    own = {"backend": "anyio", "imports": ("api_flows",), "api_tokens": TOKENS, "api_admins": ("root",)}
    return Settings.model_validate({**own, **given})


def as_owner(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def client_of(api: FastAPI, token: str | None = ANN) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    headers = {} if token is None else as_owner(token)
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client,
    ):
        yield client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def open_api() -> OpenApi:
    """Return what opens an API with these settings, and a client of it who is ann."""

    def opened(*, token: str | None = ANN, **given: Any) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return client_of(create_api(settings_with(**given)), token)

    return opened


@pytest.fixture
async def ann(open_api: OpenApi) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API, who is ann unless a request says otherwise."""
    async with open_api() as client:
        yield client
