"""Conversations about a run over a WebSocket, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from taskservice.api import create_api
from tests.api.conftest import ANN, BOB, as_owner, settings_with

if TYPE_CHECKING:
    from starlette.testclient import WebSocketTestSession

INIT = {"action": "init_data", "workflow": "api.refund", "args": ["7"]}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_api(settings_with(payload_limit=10_000))) as opened:
        yield opened


def until(socket: WebSocketTestSession, **wanted: Any) -> dict[str, Any]:
    """Return the first message with these members; others come before it."""
    for _ in range(100):
        message: dict[str, Any] = socket.receive_json()
        if all(message.get(name) == value for name, value in wanted.items()):
            return message
    raise AssertionError(f"no message with {wanted}")


def closed(socket: WebSocketTestSession) -> tuple[int, str]:
    try:
        while True:
            socket.receive_json()
    except WebSocketDisconnect as found:
        return found.code, found.reason


def test_a_run_is_started_asked_about_and_answered(client: TestClient) -> None:
    with client.websocket_connect("/workflows/ws", headers=as_owner(ANN)) as socket:
        socket.send_json({**INIT, "ref": 1})
        started = until(socket, type="answer", action="init_data", ref=1)
        question = until(socket, type="event", kind="question")
        socket.send_json({"action": "check_status"})
        checked = until(socket, type="answer", action="check_status")
        socket.send_json(
            {"action": "input", "value": {"approved": True}, "question_id": question["data"]["id"]}
        )
        end = until(socket, type="end")
        code, _ = closed(socket)

    assert started["run"]["status"] == "WAITING"
    assert checked["run"]["question"]["prompt"] == "approve?"
    assert end["run"]["result"] == {"order": "7", "approved": True, "owner": "nobody"}
    assert code == 1000


def test_a_run_is_stopped(client: TestClient) -> None:
    with client.websocket_connect("/workflows/ws", headers=as_owner(ANN)) as socket:
        socket.send_json(INIT)
        until(socket, type="event", kind="question")
        socket.send_json({"action": "stop"})
        end = until(socket, type="end")

    assert (end["run"]["status"], end["run"]["reason"]) == ("FAILED", "stopped")


def test_another_socket_goes_on_where_one_broke_off(client: TestClient) -> None:
    with client.websocket_connect("/workflows/ws", headers=as_owner(ANN)) as socket:
        socket.send_json(INIT)
        run_id = until(socket, type="answer")["run"]["id"]
        seen = until(socket, type="event", kind="question")["id"]

    with client.websocket_connect(
        f"/workflows/runs/{run_id}/ws?after={seen}", headers=as_owner(ANN)
    ) as socket:
        socket.send_json({"action": "input", "value": {"approved": False}})
        following = until(socket, type="event")
        end = until(socket, type="end")

    assert following["id"] == seen + 1
    assert end["run"]["result"]["approved"] is False


def test_a_token_may_come_as_the_first_message(client: TestClient) -> None:
    with client.websocket_connect("/workflows/ws") as socket:
        socket.send_json({"action": "auth", "token": ANN})
        answer = socket.receive_json()
        socket.send_json(INIT)
        started = until(socket, type="answer", action="init_data")

    assert answer["action"] == "auth"
    assert started["run"]["workflow"] == "api.refund"


@pytest.mark.parametrize(
    ("headers", "first"),
    [
        (as_owner("no-such-token-0123456789"), None),
        ({}, {"action": "auth", "token": "no-such-token-0123456789"}),
        ({}, INIT),
    ],
)
def test_who_has_no_token_is_shown_out(client: TestClient, headers: dict[str, str], first: Any) -> None:
    with client.websocket_connect("/workflows/ws", headers=headers) as socket:
        if first is not None:
            socket.send_json(first)
        code, _ = closed(socket)

    assert code == 4401


def test_a_token_in_the_query_is_none(client: TestClient) -> None:
    with client.websocket_connect(f"/workflows/ws?token={ANN}") as socket:
        socket.send_json(INIT)
        code, _ = closed(socket)

    assert code == 4401


def test_somebody_elses_run_does_not_exist(client: TestClient) -> None:
    run_id = client.post("/workflows/api.refund/runs", json={"args": ["7"]}, headers=as_owner(ANN)).json()[
        "id"
    ]

    for headers, run in ((as_owner(BOB), run_id), (as_owner(ANN), "no-such-run")):
        with client.websocket_connect(f"/workflows/runs/{run}/ws", headers=headers) as socket:
            assert closed(socket) == (4404, "no such run")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("{", 422),
        ("[]", 422),
        ('{"action": "fly"}', 422),
        ('{"action": "init_data"}', 422),
        ('{"action": "init_data", "workflow": "api.refund", "args": [NaN]}', 422),
        ('{"action": "init_data", "workflow": "api.refnd"}', 404),
        ('{"action": "init_data", "workflow": "api.refund"}', 422),
        ('{"action": "check_status"}', 409),
        ('{"action": "input"}', 409),
    ],
)
def test_a_message_that_makes_no_sense_is_answered_and_harms_nothing(
    client: TestClient, text: str, status: int
) -> None:
    with client.websocket_connect("/workflows/ws", headers=as_owner(ANN)) as socket:
        socket.send_text(text)
        refused = socket.receive_json()
        socket.send_json(INIT)
        started = until(socket, type="answer")

    assert (refused["type"], refused["problem"]["status"]) == ("error", status)
    assert started["run"]["workflow"] == "api.refund"


def test_a_socket_has_one_run(client: TestClient) -> None:
    with client.websocket_connect("/workflows/ws", headers=as_owner(ANN)) as socket:
        socket.send_json(INIT)
        until(socket, type="event", kind="question")
        socket.send_json(INIT)
        refused = until(socket, type="error")

    assert refused["problem"]["status"] == 409


def test_a_message_that_is_too_long_ends_it(client: TestClient) -> None:
    with client.websocket_connect("/workflows/ws", headers=as_owner(ANN)) as socket:
        socket.send_text(" " * 10_001)
        code, _ = closed(socket)

    assert code == 1009


def test_a_page_of_another_origin_opens_no_socket(client: TestClient) -> None:
    page = {"Origin": "https://page.example"}

    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/workflows/ws", headers={**page, **as_owner(ANN)}),
    ):
        pass


def test_messages_and_sockets_have_their_limits() -> None:
    api = create_api(settings_with(api_rate=0.01, api_streams=1))
    with (
        TestClient(api) as client,
        client.websocket_connect("/workflows/ws", headers=as_owner(ANN)) as socket,
    ):
        answers = []
        for _ in range(2):
            socket.send_json({"action": "check_status"})
            answers.append(socket.receive_json()["problem"]["status"])
        with client.websocket_connect("/workflows/ws", headers=as_owner(ANN)) as second:
            code, _ = closed(second)

    assert answers == [409, 429]
    assert code == 4429
