"""The application: routes, the gate before them, and what their OpenAPI document says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException as AnyHTTPException

from taskservice.api import letters, sockets, state, tasks, workflows
from taskservice.api.access import Access, RateLimiter
from taskservice.api.core import open_core
from taskservice.api.gate import CALL, Gate
from taskservice.api.messages import faults
from taskservice.api.problems import Problem, ProblemError, problem_of, response
from taskservice.api.streams import OpenStreams
from taskservice.errors import TaskServiceError
from taskservice.settings import load_settings

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["create_api"]

CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 408: "too_slow", 413: "too_large"}


def create_api(settings: Settings | None = None, app: Celery | None = None) -> FastAPI:
    """Return an ASGI application that serves tasks and workflows to owners of ``api_tokens``.

    Without ``settings`` they come from the environment; ``app`` is your own Celery app. Services are
    opened when it starts and closed when it stops, on asyncio. `ConfigurationError` without tokens, unless
    ``api_open`` is set: then it answers nobody but this machine.
    """
    given = load_settings() if settings is None else settings
    access = Access(given)
    rates = RateLimiter(given.api_rate)
    streams = OpenStreams(given.api_streams)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        async with open_core(given, app, access=access, rates=rates, streams=streams) as core:
            api.state.core = core
            yield

    api = FastAPI(
        title="taskservice",
        summary="Tasks, and workflows that ask their users something.",
        version=version("taskservice"),
        lifespan=lifespan,
        # Pages that load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    api.state.streams = streams
    for part in (state, tasks, workflows, sockets, letters):
        api.include_router(part.router)
    _tell_errors(api)
    _tell_problem_schema(api)
    origins = frozenset(given.api_cors_origins)
    api.add_middleware(Gate, access=access, rates=rates, body_limit=given.payload_limit, origins=origins)
    if origins:
        # Around the gate: a page must be able to read its refusals.
        api.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
                "X-Request-ID",
            ],
            expose_headers=["Location", "Retry-After", "X-Request-ID"],
        )
    return api


def _tell_errors(api: FastAPI) -> None:
    @api.exception_handler(TaskServiceError)
    async def known(request: Request, error: TaskServiceError) -> Response:
        problem = problem_of(error)
        if problem.status == 500:
            raise error  # the gate says so in the log

        return response(problem, request.scope[CALL].request_id)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problem = ProblemError(422, "invalid", "the request is not what this route takes")
        return response(problem, request.scope[CALL].request_id, faults=faults(error.errors()))

    @api.exception_handler(AnyHTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        problem = ProblemError(error.status_code, CODES.get(error.status_code, "error"), str(error.detail))
        return response(problem, request.scope[CALL].request_id, headers=error.headers)


def _tell_problem_schema(api: FastAPI) -> None:
    made = api.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        own = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(own.pop("$defs", {}))
        schemas["Problem"] = own
        return document

    # FastAPI's documented way to extend it.
    api.openapi = openapi  # type: ignore[method-assign]
