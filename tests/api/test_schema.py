"""The API does what its OpenAPI document says, whatever is sent to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import positive_data_acceptance

from taskservice.api import create_api
from tests.api.conftest import ROOT, as_owner, settings_with

WAIT = 15.0
EXAMPLES = 30
GIVEN = {"api_rate": 1_000_000, "payload_limit": 100_000}
DOCUMENT = create_api(settings_with(**GIVEN)).openapi()
for _path in DOCUMENT["paths"].values():
    for _operation in _path.values():
        # Every request here has its token; what happens without one is another test's.
        _operation.pop("security", None)
LAUNCHES = {"/tasks", "/workflows/{name}/runs"}
ROUTES = [
    pytest.param(path, method.upper(), mode, id=f"{method} {path} {mode.value}")
    for path, methods in sorted(DOCUMENT["paths"].items())
    for method, operation in sorted(methods.items())
    for mode in GenerationMode
    # What takes nothing can be given nothing wrong.
    if mode is GenerationMode.POSITIVE
    or "requestBody" in operation
    or any(each["in"] != "path" for each in operation.get("parameters", ()))
]


class _Quiet(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A real server in a thread of its own."""
    api = create_api(settings_with(**GIVEN))
    server = _Quiet(uvicorn.Config(api, port=0, log_level="warning", access_log=False, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.ready.wait(WAIT)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join(WAIT)


@pytest.fixture(scope="module")
def known(url: str) -> dict[str, str]:
    """What is really there, by the name of the path's parameter."""
    with httpx.Client(base_url=url, headers=as_owner(ROOT)) as client:
        run = client.post("/workflows/api.refund/runs", json={"args": ["7"]}).json()["id"]
        client.post(f"/workflows/runs/{run}/stop")
        task = client.post("/tasks", json={"name": "api.add", "args": [1, 2]}).json()["id"]
    return {"run_id": run, "task_id": task, "name": "api.refund"}


@pytest.mark.parametrize(("path", "method", "mode"), ROUTES)
def test_every_route_keeps_to_its_schema(
    url: str, known: dict[str, str], path: str, method: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.config.update(base_url=url)
    operation = schema[path][method]
    # Which arguments a function takes is its own business, and no schema's.
    excluded: list[CheckFunction] | None = [positive_data_acceptance] if path in LAUNCHES else None

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), real=st.booleans())
    def check(case: Case[Any], *, real: bool) -> None:
        if real:
            case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
            if path == "/tasks" and mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                case.body["name"] = "api.add"
        case.call_and_validate(headers=as_owner(ROOT), timeout=WAIT, excluded_checks=excluded)

    check()
