"""A user of the HTTP API: tasks by requests, workflows by server-sent events and by a WebSocket.

Locust counts each request by itself; a run's way from the first request to its end is an ``end to end`` of
its own.
"""

from __future__ import annotations

import itertools
import json
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent
import requests
import websocket

from taskservice.load.tasks import NOOP, QUESTION
from taskservice.load.users import LoadUser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskservice.load.ledger import Flight

__all__ = ["ApiUser"]

FIRST_POLL: Final = 0.005
LAST_POLL: Final = 0.25
SECONDS: Final = 30.0
_FINAL: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED", "FAILED"})


class ApiUser(LoadUser):
    """Takes a task, a workflow over events and one over a WebSocket in turn; ``--host`` says where."""

    _turn = itertools.count()

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._host = (environment.host or "http://127.0.0.1:8000").rstrip("/")
        token = self.plan.token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ways: list[tuple[str, Callable[[Flight], str]]] = [
            ("task over HTTP", self._task),
            ("workflow over SSE", self._events),
            ("workflow over WebSocket", self._socket),
        ]
        # One for each user, as a browser has; with greenlets of its own in the open model.
        self._session = requests.Session()
        self._session.headers.update(self._headers)

    def play(self, due: float) -> None:
        """Take one run from its request to its end."""
        name, way = self._ways[next(self._turn) % len(self._ways)]
        ledger = self.node.ledger
        flight = ledger.depart(name, due)
        try:
            error = way(flight)
        except (
            requests.RequestException,
            websocket.WebSocketException,
            OSError,
            ValueError,
            KeyError,
        ) as found:
            error = f"{type(found).__name__}: {found}"
        if not flight.ended:
            ledger.over(flight, monotonic(), error)

    def _task(self, flight: Flight) -> str:
        call = self.plan.call
        name, args = (call.name, list(call.args)) if call else (NOOP, [])
        kwargs = dict(call.kwargs) if call else {}
        made = self._ask(flight, "POST", "/tasks", {"name": name, "args": args, "kwargs": kwargs})
        pause = FIRST_POLL
        while True:
            found = self._ask(None, "GET", f"/tasks/{made['id']}", shown="/tasks/{id}")
            if found["status"] in _FINAL:
                return "" if found["status"] == "SUCCESS" else str(found.get("error") or found["status"])
            gevent.sleep(pause)
            pause = min(LAST_POLL, pause * 1.5)

    def _events(self, flight: Flight) -> str:
        made = self._ask(flight, "POST", f"/workflows/{QUESTION}/runs", {"args": []})
        path = f"/workflows/runs/{made['id']}"
        url = f"{self._host}{path}/events"
        with self._session.get(url, stream=True, timeout=SECONDS) as answer:
            answer.raise_for_status()
            for event in _sse(answer.iter_lines(chunk_size=1)):
                if event["kind"] == "question":
                    self._ask(None, "POST", f"{path}/input", {"value": True}, "/workflows/runs/{id}/input")
                if event["kind"] == "status" and event["data"]["status"] in _FINAL:
                    return "" if event["data"]["status"] == "SUCCESS" else "FAILED"
        return "the stream ended before the run did"

    def _socket(self, flight: Flight) -> str:
        began = monotonic()
        address = self._host.replace("http", "ws", 1) + "/workflows/ws"
        headers = [f"{name}: {value}" for name, value in self._headers.items()]
        with closing(websocket.create_connection(address, timeout=SECONDS, header=headers)) as ws:
            ws.send(json.dumps({"action": "init_data", "workflow": QUESTION, "args": []}))
            while True:
                message = json.loads(ws.recv())
                kind = message.get("kind")
                if message["type"] == "answer" and message["action"] == "init_data":
                    self.node.ledger.sent(flight, began, monotonic())
                if kind == "question":
                    ws.send(json.dumps({"action": "input", "value": True}))
                if message["type"] == "error":
                    return str(message["problem"])
                if message["type"] == "end":
                    return "" if message["run"]["status"] == "SUCCESS" else str(message["run"]["status"])

    def _ask(
        self, flight: Flight | None, method: str, path: str, body: Any = None, shown: str = ""
    ) -> dict[str, Any]:
        """Make a request, tell Locust of it, and note that it sent ``flight``."""
        began = monotonic()
        error: Exception | None = None
        size = 0
        try:
            answer = self._session.request(method, self._host + path, json=body, timeout=SECONDS)
            size = len(answer.content)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except (requests.RequestException, ValueError) as caught:
            error = caught
            raise
        finally:
            self.environment.events.request.fire(
                request_type=method,
                name=shown or path,
                response_time=(monotonic() - began) * 1000,
                response_length=size,
                exception=error,
                context={},
            )
        if flight is not None:
            self.node.ledger.sent(flight, began, monotonic())
        return found


def _sse(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith(b"data:"):
            event = json.loads(line[5:])
            if "kind" in event:
                yield event
