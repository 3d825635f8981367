"""Events as server-sent events: where they go on, what is said in silence, and who is cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from json import loads
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from taskservice.api import create_api
from tests.api.conftest import ANN, client_of, settings_with

if TYPE_CHECKING:
    import httpx
    from fastapi import FastAPI

pytestmark = pytest.mark.anyio

WAIT = 15


def numbered(text: str) -> list[tuple[int, str]]:
    """Return the ids and kinds of events."""
    found = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [(each["id"], each["kind"]) for each in map(loads, found)]


async def chatted(client: httpx.AsyncClient, count: int) -> str:
    """Return a run that has emitted ``count`` events of its own."""
    answer = await client.post("/workflows/api.chatty/runs", json={"args": [count]})
    return str(answer.json()["id"])


class Listener:
    """The ASGI side of one stream, without a network: ``body`` is what came."""

    def __init__(self, api: FastAPI, run_id: str, *, deaf_after: int | None = None) -> None:
        self._api = api
        self._path = f"/workflows/runs/{run_id}/events"
        self._deaf_after = deaf_after
        self._asked = False
        self.gone = anyio.Event()
        self.body = ""
        self.chunks = 0
        self.finished = False
        self.news = anyio.Event()

    async def listen(self) -> None:
        headers = [(b"authorization", f"Bearer {ANN}".encode()), (b"host", b"localhost")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
        }
        await self._api(scope, self._receive, self._send)

    async def until(self, text: str) -> None:
        with anyio.fail_after(WAIT):
            while text not in self.body:
                await self.news.wait()

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] != "http.response.body":
            return
        if self.chunks == self._deaf_after:
            await anyio.sleep_forever()
        self.chunks += 1
        self.body += message["body"].decode()
        self.finished = not message["more_body"]
        self.news.set()
        self.news = anyio.Event()


@asynccontextmanager
async def asked_run(**given: Any) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient, str]]:
    """An API, its client, and a run that waits for an answer."""
    api = create_api(settings_with(**given))
    async with client_of(api) as client:
        answer = await client.post("/workflows/api.refund/runs", json={"args": ["7"]})
        yield api, client, answer.json()["id"]


async def test_events_go_on_after_the_last_one_seen(ann: httpx.AsyncClient) -> None:
    run_id = await chatted(ann, 5)
    path = f"/workflows/runs/{run_id}/events"

    whole = numbered((await ann.get(path)).text)
    resumed = numbered((await ann.get(path, headers={"Last-Event-ID": "3"})).text)
    asked = numbered((await ann.get(path, params={"after": 4})).text)
    both = numbered((await ann.get(path, params={"after": 1}, headers={"Last-Event-ID": "6"})).text)

    assert whole == [(1, "status"), (2, "status"), *((n, "word") for n in range(3, 8)), (8, "status")]
    assert (resumed, asked, both) == (whole[3:], whole[4:], whole[6:])


async def test_a_trimmed_tail_begins_with_a_snapshot(ann: httpx.AsyncClient) -> None:
    async with client_of(create_api(settings_with(workflow_max_events=3))) as client:
        run_id = await chatted(client, 50)
        with anyio.fail_after(WAIT):
            await client.get(f"/workflows/runs/{run_id}/events")
        text = (await client.get(f"/workflows/runs/{run_id}/events")).text

    assert numbered(text)[0] == (50, "snapshot")


async def test_a_silent_stream_says_that_it_is_there() -> None:
    async with asked_run(api_heartbeat=0.02) as (api, client, run_id), anyio.create_task_group() as group:
        listener = Listener(api, run_id)
        group.start_soon(listener.listen)
        await listener.until(": still here\n\n")
        await client.post(f"/workflows/runs/{run_id}/stop")
        await listener.until('"stopped"')

    assert listener.body.startswith("retry: 2000\n\n")
    assert listener.finished


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    async with asked_run(api_send_timeout=0.02) as (api, _, run_id):
        listener = Listener(api, run_id, deaf_after=1)
        with anyio.fail_after(WAIT):
            await listener.listen()

    assert not listener.finished


async def test_a_client_that_hangs_up_ends_its_stream() -> None:
    async with asked_run() as (api, _, run_id):
        listener = Listener(api, run_id)
        with anyio.fail_after(WAIT):
            async with anyio.create_task_group() as group:
                group.start_soon(listener.listen)
                await listener.until("question")
                listener.gone.set()


async def test_closing_ends_streams_so_that_clients_come_back() -> None:
    async with asked_run() as (api, client, run_id), anyio.create_task_group() as group:
        listener = Listener(api, run_id)
        group.start_soon(listener.listen)
        await listener.until("question")
        api.state.streams.close()
        late = await client.get(f"/workflows/runs/{run_id}/events")

    assert listener.finished
    assert numbered(late.text) == []


async def test_a_token_has_a_bounded_number_of_streams() -> None:
    async with asked_run(api_streams=1) as (api, client, run_id), anyio.create_task_group() as group:
        listener = Listener(api, run_id)
        group.start_soon(listener.listen)
        await listener.until("question")
        refused = await client.get(f"/workflows/runs/{run_id}/events")
        await client.post(f"/workflows/runs/{run_id}/stop")
        await listener.until('"stopped"')

    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
