"""What every request meets: who it is, how much it may ask for, and how it is refused."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from taskservice import BackendUnavailableError, ConfigurationError, TaskServiceError
from taskservice.api import create_api, run_api
from taskservice.api.problems import problem_of
from tests.api.conftest import ANN, BOB, ROOT, as_owner, client_of, settings_with

if TYPE_CHECKING:
    from tests.api.conftest import OpenApi

pytestmark = pytest.mark.anyio

MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}


async def test_health_needs_no_token(open_api: OpenApi) -> None:
    async with open_api(token=None) as client:
        answer = await client.get("/health")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("header", [None, "Bearer no-such-token-0123456789", f"Basic {ANN}", ANN, "Bearer"])
async def test_nothing_else_answers_without_a_token(open_api: OpenApi, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with open_api(token=None) as client:
        answers = [
            await client.get("/status", headers=headers),
            await client.post("/tasks", json={"name": "api.add"}, headers=headers),
            await client.get("/no-such-route", headers=headers),
        ]

    assert [each.status_code for each in answers] == [401] * 3
    assert answers[0].headers["WWW-Authenticate"] == "Bearer"


async def test_only_administrators_see_workers(ann: httpx.AsyncClient) -> None:
    hers = (await ann.get("/status")).json()
    full = (await ann.get("/status", headers=as_owner(ROOT))).json()

    assert hers == {"backend": "anyio", "healthy": True, "detail": None, "workers": None, "queues": None}
    assert [each["name"] for each in full["workers"]] == ["this process"]


async def test_a_token_may_be_given_as_its_digest(open_api: OpenApi) -> None:
    digest = "sha256:" + sha256(ANN.encode()).hexdigest()
    async with open_api(api_tokens={digest: "ann", ROOT: "root"}) as client:
        answer = await client.get("/status")
        refused = await client.get("/status", headers=as_owner(digest))

    assert (answer.status_code, refused.status_code) == (200, 401)
    assert answer.json()["backend"] == "anyio"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/no-such-route", 404), ("DELETE", "/tasks", 405)]
)
async def test_what_the_framework_refuses_is_a_problem_too(
    ann: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await ann.request(method, path, headers={"X-Request-ID": "mine-1"})

    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert answer.json().keys() == MEMBERS
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "mine-1"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long_is_not_read(open_api: OpenApi, *, chunked: bool) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b" " * 1000

    content: Any = body() if chunked else b" " * 20_000
    async with open_api(payload_limit=10_000) as client:
        answer = await client.post("/tasks", content=content, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert sent <= 12_000


async def test_too_many_requests_are_told_when_to_come_back(open_api: OpenApi) -> None:
    async with open_api(api_rate=0.01) as client:
        answers = [await client.get("/status") for _ in range(2)]
        bobs = await client.get("/status", headers=as_owner(BOB))

    assert [each.status_code for each in answers] == [200, 429]
    assert 0 < int(answers[1].headers["Retry-After"]) <= 100
    assert bobs.status_code == 200


@pytest.mark.parametrize("error", [RuntimeError("hunter2"), TaskServiceError("hunter2")])
async def test_a_failure_of_the_server_tells_nothing_but_its_id(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    api = create_api(settings_with())

    @api.get("/broken")
    async def broken() -> None:
        raise error

    async with client_of(api) as client:
        answer = await client.get("/broken")

    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert f"request {answer.headers['X-Request-ID']} failed" in caplog.messages


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendUnavailableError("redis", "redis://:hunter2@db.internal:6379/0 refused"), 503),
        (RedisConnectionError("redis://:hunter2@db.internal:6379/0 refused"), 503),
        (ConfigurationError("hunter2"), 503),
        (ValueError("hunter2"), 500),
        (TaskServiceError("hunter2"), 500),
    ],
)
def test_what_is_inside_is_not_told(error: Exception, status: int) -> None:
    problem = problem_of(error)

    assert problem.status == status
    assert "hunter2" not in problem.detail


async def test_an_open_api_answers_this_machine_alone() -> None:
    api = create_api(settings_with(api_tokens={}, api_admins=(), api_open=True))
    elsewhere = httpx.ASGITransport(api, client=("192.0.2.1", 1))
    async with (
        client_of(api, None) as here,
        httpx.AsyncClient(transport=elsewhere, base_url="http://localhost") as there,
    ):
        answers = [
            await here.get("/status"),
            await here.get("/dead-letters"),
            await here.get("/status", headers={"Host": "evil.example"}),
            await there.get("/status"),
        ]

    assert [each.status_code for each in answers] == [200, 200, 403, 403]


@pytest.mark.parametrize(
    "given",
    [
        {"api_tokens": {}, "api_admins": ()},
        {"api_tokens": {"short": "ann"}, "api_admins": ()},
        {"api_tokens": {"a" * 64: "ann"}, "api_admins": ()},
        {"api_tokens": {"sha256:abc": "ann"}, "api_admins": ()},
        {"api_tokens": {ANN: " "}, "api_admins": ()},
        {"api_admins": ("nobody",)},
    ],
)
def test_what_would_let_in_nobody_or_everybody_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="api_") as refused:
        create_api(settings_with(**given))

    assert not any(token in str(refused.value) for token in given.get("api_tokens", ()))


@pytest.mark.parametrize("name", ["api.nothing", "taskservice.execute_workflow"])
async def test_a_list_of_tasks_that_cannot_be_offered_is_refused(open_api: OpenApi, name: str) -> None:
    with pytest.raises(ConfigurationError, match="api_tasks"):
        async with open_api(api_tasks=(name,)):
            pass


def test_an_open_api_is_not_served_to_others() -> None:
    with pytest.raises(ConfigurationError, match="api_tokens"):
        run_api(settings=settings_with(api_tokens={}, api_admins=(), api_open=True), host="0.0.0.0")


def test_settings_do_not_show_tokens() -> None:
    settings = settings_with()

    assert ANN not in repr(settings)
    assert ANN not in str(settings)


async def test_pages_of_other_origins_are_let_in_only_if_they_are_named(open_api: OpenApi) -> None:
    page = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
    async with open_api() as client:
        off = await client.get("/status", headers=page)
    async with open_api(api_cors_origins=("https://page.example",)) as client:
        asked = await client.options("/status", headers=page)
        named = await client.get("/status", headers={**page, "Authorization": "Bearer wrong"})

    header = "Access-Control-Allow-Origin"
    assert header not in off.headers
    assert asked.headers[header] == "https://page.example"
    assert (named.status_code, named.headers[header]) == (401, "https://page.example")


async def test_requests_are_logged_without_query_and_secrets(
    ann: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    await ann.get("/tasks/a%0Ab", params={"token": "a-secret-in-a-query"})

    assert "GET /tasks/a%0Ab answered 404" in caplog.messages
    assert ANN not in caplog.text
    assert "a-secret-in-a-query" not in "".join(
        each.getMessage() for each in caplog.records if each.name.startswith("taskservice")
    )
