"""Tasks over HTTP: launched, looked at, cancelled, and nobody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.api.conftest import BOB, ROOT, as_owner

if TYPE_CHECKING:
    import httpx

    from tests.api.conftest import OpenApi

pytestmark = pytest.mark.anyio

WAIT = 15


async def launched(client: httpx.AsyncClient, name: str, *args: Any, **options: Any) -> str:
    answer = await client.post("/tasks", json={"name": name, "args": args, "options": options})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def over(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    with anyio.fail_after(WAIT):
        while True:
            found: dict[str, Any] = (await client.get(f"/tasks/{task_id}")).json()
            if found["status"] in {"SUCCESS", "FAILURE", "REVOKED"}:
                return found
            await anyio.sleep(0.005)


async def test_a_launched_task_is_found_with_its_result(ann: httpx.AsyncClient) -> None:
    answer = await ann.post("/tasks", json={"name": "api.add", "args": [1], "kwargs": {"right": 2}})
    task_id = answer.json()["id"]

    found = await over(ann, task_id)

    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/tasks/{task_id}"
    assert found == {"id": task_id, "status": "SUCCESS", "result": 3, "error": None}


async def test_a_failed_task_tells_its_error(ann: httpx.AsyncClient) -> None:
    found = await over(ann, await launched(ann, "api.fail", "no money"))

    assert found["status"] == "FAILURE"
    assert found["error"] == {"type": "ValueError", "message": "no money"}


async def test_a_result_that_is_not_json_becomes_json(ann: httpx.AsyncClient) -> None:
    found = await over(ann, await launched(ann, "api.odd"))

    assert found["result"] == {"at": "2026-01-02T00:00:00+00:00", "raw": "AA==", "nan": None, "half": "?"}


async def test_a_waiting_task_is_cancelled(ann: httpx.AsyncClient) -> None:
    task_id = await launched(ann, "api.add", 1, 2, countdown=600)

    answer = await ann.post(f"/tasks/{task_id}/cancel")

    assert answer.json() == {"id": task_id, "cancelled": True}
    assert (await over(ann, task_id))["status"] == "REVOKED"


async def test_an_idempotency_key_launches_once_for_each_owner(ann: httpx.AsyncClient) -> None:
    wanted = {"name": "api.add", "args": [1, 2], "options": {"idempotency_key": "once"}}

    mine = [(await ann.post("/tasks", json=wanted)).json()["id"] for _ in range(2)]
    bobs = (await ann.post("/tasks", json=wanted, headers=as_owner(BOB))).json()["id"]

    assert mine[0] == mine[1] != bobs


async def test_somebody_elses_task_does_not_exist(ann: httpx.AsyncClient) -> None:
    task_id = await launched(ann, "api.add", 1, 2, countdown=600)

    for headers, status in ((as_owner(BOB), 404), (as_owner(ROOT), 200)):
        assert (await ann.get(f"/tasks/{task_id}", headers=headers)).status_code == status
        assert (await ann.post(f"/tasks/{task_id}/cancel", headers=headers)).status_code == status


async def test_a_run_that_two_have_launched_is_seen_by_both(ann: httpx.AsyncClient) -> None:
    wanted = {"name": "api.same", "args": ["x"]}
    mine = (await ann.post("/tasks", json=wanted)).json()["id"]

    bobs = (await ann.post("/tasks", json=wanted, headers=as_owner(BOB))).json()["id"]

    assert bobs == mine
    assert (await ann.get(f"/tasks/{mine}", headers=as_owner(BOB))).status_code == 200


@pytest.mark.parametrize("name", ["api.ad", "celery.chord", "taskservice.execute_workflow"])
async def test_what_is_not_offered_cannot_be_launched(ann: httpx.AsyncClient, name: str) -> None:
    answer = await ann.post("/tasks", json={"name": name})

    assert answer.status_code == 404
    assert answer.json()["code"] == "unknown_task"


async def test_only_listed_tasks_are_offered(open_api: OpenApi) -> None:
    async with open_api(api_tasks=("api.fail",)) as client:
        answer = await client.post("/tasks", json={"name": "api.add", "args": [1, 2]})

    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"args": [1]}, None),
        ({"args": [1, 2], "options": {"queue": "somebody.elses"}}, None),
        ({"args": [1, 2], "options": {"countdown": 1, "eta": "2030-01-01T00:00:00Z"}}, None),
        ({"args": [1, 2], "options": {"countdown": -1}}, "countdown"),
        ({"args": [1, 2], "options": {"eta": "2030-01-01T00:00:00"}}, "eta"),
        ({"args": [1, 2], "options": {"priority": 10}}, "priority"),
        ({"args": [1, 2], "options": {"shell": "rm"}}, "shell"),
        ({"args": "12"}, "args"),
    ],
)
async def test_what_cannot_be_meant_is_a_problem(
    ann: httpx.AsyncClient, given: dict[str, Any], where: str | None
) -> None:
    answer = await ann.post("/tasks", json={"name": "api.add", **given})

    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert where is None or any(where in fault["where"] for fault in answer.json()["errors"])


@pytest.mark.parametrize("text", ["NaN", '"\\ud800"', "[" * 150 + "]" * 150, "{"])
async def test_what_no_other_program_could_read_is_refused(ann: httpx.AsyncClient, text: str) -> None:
    body = f'{{"name": "api.add", "args": [1, {text}]}}'

    answer = await ann.post("/tasks", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422


async def test_dead_letters_are_for_administrators(ann: httpx.AsyncClient) -> None:
    task_id = await launched(ann, "api.fail", "no money")
    await over(ann, task_id)
    root = as_owner(ROOT)

    refused = await ann.get("/dead-letters")
    listed = (await ann.get("/dead-letters", headers=root)).json()
    shown = (await ann.get(f"/dead-letters/{task_id}", headers=root)).json()
    again = await ann.post(f"/dead-letters/{task_id}/requeue", headers=root)
    await over(ann, task_id)
    dropped = await ann.delete(f"/dead-letters/{task_id}", headers=root)
    gone = await ann.delete(f"/dead-letters/{task_id}", headers=root)

    assert refused.status_code == 403
    assert [(each["id"], each["error_message"]) for each in listed] == [(task_id, "no money")]
    assert "args" not in listed[0]
    assert shown["args"] == ["no money"]
    assert (again.status_code, again.json()) == (202, {"id": task_id})
    assert (dropped.status_code, gone.status_code) == (204, 404)
