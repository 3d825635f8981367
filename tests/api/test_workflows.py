"""Workflow runs over HTTP: started, answered, stopped, and nobody else's."""

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


async def started(client: httpx.AsyncClient, name: str = "api.refund", **given: Any) -> str:
    answer = await client.post(f"/workflows/{name}/runs", json={"args": ["7"], **given})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def until(client: httpx.AsyncClient, run_id: str, status: str) -> dict[str, Any]:
    with anyio.fail_after(WAIT):
        while True:
            run: dict[str, Any] = (await client.get(f"/workflows/runs/{run_id}")).json()
            if run["status"] == status:
                return run
            await anyio.sleep(0.005)


async def test_a_run_asks_and_ends_with_its_answer(ann: httpx.AsyncClient) -> None:
    run_id = await started(ann)
    asked = await until(ann, run_id, "INPUT")

    answer = await ann.post(f"/workflows/runs/{run_id}/input", json={"value": {"approved": True}})
    run = await until(ann, run_id, "SUCCESS")

    assert asked["question"]["prompt"] == "approve?"
    assert asked["question"]["schema"]["required"] == ["approved"]
    assert answer.status_code == 200
    assert run["result"] == {"order": "7", "approved": True, "owner": "nobody"}


async def test_a_failed_run_says_why(ann: httpx.AsyncClient) -> None:
    run = await until(ann, await started(ann, "api.fails", args=[]), "FAILED")

    assert (run["reason"], run["error"]) == ("error", {"type": "ValueError", "message": "no such order"})


async def test_a_stopped_run_is_over_for_every_later_word(ann: httpx.AsyncClient) -> None:
    run_id = await started(ann)
    await until(ann, run_id, "INPUT")

    stopped = await ann.post(f"/workflows/runs/{run_id}/stop")
    later = [
        await ann.post(f"/workflows/runs/{run_id}/stop"),
        await ann.post(f"/workflows/runs/{run_id}/input", json={"value": None}),
    ]

    assert (stopped.json()["status"], stopped.json()["reason"]) == ("FAILED", "stopped")
    assert [(each.status_code, each.json()["code"]) for each in later] == [(409, "workflow_over")] * 2


async def test_an_answer_to_another_question_is_refused(ann: httpx.AsyncClient) -> None:
    run_id = await started(ann)
    await until(ann, run_id, "INPUT")

    answer = await ann.post(
        f"/workflows/runs/{run_id}/input", json={"value": {"approved": True}, "question_id": "older"}
    )

    assert (answer.status_code, answer.json()["code"]) == (409, "question_not_open")


async def test_somebody_elses_run_does_not_exist(ann: httpx.AsyncClient) -> None:
    run_id = await started(ann)
    await until(ann, run_id, "INPUT")
    bob = as_owner(BOB)

    answers = [
        await ann.get(f"/workflows/runs/{run_id}", headers=bob),
        await ann.get(f"/workflows/runs/{run_id}/events", headers=bob),
        await ann.post(f"/workflows/runs/{run_id}/input", json={"value": 1}, headers=bob),
        await ann.post(f"/workflows/runs/{run_id}/stop", headers=bob),
    ]
    unknown = await ann.get("/workflows/runs/no-such-run")

    assert [each.status_code for each in answers] == [404] * 4
    assert {each.json()["code"] for each in (*answers, unknown)} == {"workflow_expired"}
    assert (await ann.get(f"/workflows/runs/{run_id}", headers=as_owner(ROOT))).status_code == 200


async def test_an_argument_called_owner_is_only_an_argument(ann: httpx.AsyncClient) -> None:
    run_id = await started(ann, kwargs={"owner": "bob"})
    await until(ann, run_id, "INPUT")

    refused = await ann.get(f"/workflows/runs/{run_id}", headers=as_owner(BOB))

    assert refused.status_code == 404


async def test_an_idempotency_key_starts_one_run_for_each_owner(ann: httpx.AsyncClient) -> None:
    async def start(token: dict[str, str]) -> str:
        headers = {"Idempotency-Key": "once", **token}
        answer = await ann.post("/workflows/api.refund/runs", json={"args": ["7"]}, headers=headers)
        return str(answer.json()["id"])

    mine = [await start({}), await start({})]
    bobs = await start(as_owner(BOB))

    assert mine[0] == mine[1] != bobs


@pytest.mark.parametrize("arguments", [{"args": []}, {"args": ["7", "8", "9"]}, {"kwargs": {"what": 1}}])
async def test_arguments_that_the_function_does_not_take_start_nothing(
    ann: httpx.AsyncClient, arguments: dict[str, Any]
) -> None:
    answer = await ann.post("/workflows/api.refund/runs", json=arguments)

    assert answer.status_code == 422


async def test_a_workflow_that_is_not_offered_cannot_be_started(open_api: OpenApi) -> None:
    async with open_api(api_workflows=("api.fails",)) as client:
        answers = [await client.post(f"/workflows/{name}/runs") for name in ("api.refund", "api.refnd")]

    assert [(each.status_code, each.json()["code"]) for each in answers] == [(404, "unknown_workflow")] * 2


async def test_a_stream_that_is_over_tells_the_client_not_to_come_back(ann: httpx.AsyncClient) -> None:
    run_id = await started(ann, "api.fails", args=[])
    run = await until(ann, run_id, "FAILED")

    seen = {"Last-Event-ID": str(run["last_event"])}
    answer = await ann.get(f"/workflows/runs/{run_id}/events", headers=seen)

    assert answer.status_code == 204


@pytest.mark.parametrize("given", [{"params": {"after": -1}}, {"headers": {"Last-Event-ID": "x"}}])
async def test_a_place_that_is_none_is_refused(ann: httpx.AsyncClient, given: dict[str, Any]) -> None:
    run_id = await started(ann)

    answer = await ann.get(f"/workflows/runs/{run_id}/events", **given)

    assert answer.status_code == 422
