"""Real connections out of a simulation."""

from __future__ import annotations

import asyncio
import http.client
import pickle
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pytest_taskservice.errors import SocketRefusedError
from pytest_taskservice.simulator.core.simulation import Simulation

Open = Callable[..., AbstractContextManager[Simulation]]


def ask(port: int) -> None:
    http.client.HTTPConnection("127.0.0.1", port).request("GET", "/")


@pytest.mark.parametrize(
    "reach",
    [
        lambda port: socket.create_connection(("localhost", port)).close(),
        lambda port: asyncio.run(asyncio.open_connection("127.0.0.1", port)),
        ask,
    ],
)
def test_a_connection_is_refused_and_the_error_says_what_to_do(
    simulation: Simulation, reach: Callable[[int], None]
) -> None:
    with pytest.raises(SocketRefusedError) as caught:
        reach(9)

    assert "127.0.0.1:9 was wanted at" in str(caught.value)
    assert "test_sockets.py:" in str(caught.value)
    assert '@pytest.mark.taskservice(allow_sockets=["127.0.0.1:9"])' in str(caught.value)
    assert "--taskservice-allow-sockets=127.0.0.1," in str(caught.value)
    assert not isinstance(caught.value, OSError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("allowed", [True, ["localhost"], ["localhost:{port}"], ["127.0.0.1:{port}"]])
def test_a_connection_that_is_allowed_is_made(open_simulation: Open, allowed: bool | list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        named = allowed if isinstance(allowed, bool) else [entry.format(port=port) for entry in allowed]
        with open_simulation(allow_sockets=named):
            socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize("tool", ["mirakuru", "port_for", "xdist"])
def test_a_tool_that_starts_servers_for_tests_may_look_for_them(open_simulation: Open, tool: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        names = {"__name__": f"{tool}.api", "socket": socket, "address": listener.getsockname()}
        with open_simulation():
            exec("socket.create_connection(address).close()", names)


def test_another_port_than_the_allowed_one_is_refused(open_simulation: Open) -> None:
    with (
        open_simulation(allow_sockets=["localhost:1", "[::1]:9", "nowhere.invalid"]),
        pytest.raises(SocketRefusedError),
    ):
        socket.create_connection(("127.0.0.1", 9))


def test_unix_sockets_and_open_sockets_go_on(
    open_simulation: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # its path may be longer than such an address
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = socket.create_connection(listener.getsockname())
        with open_simulation():
            with socket.socket(socket.AF_UNIX) as local, socket.socket(socket.AF_UNIX) as there:
                there.bind("socket")
                there.listen()
                local.connect("socket")
            before.sendall(b"x")
        assert listener.accept()[0].recv(1) == b"x"
        before.close()


def test_nothing_is_refused_afterwards(open_simulation: Open) -> None:
    before = vars(socket.socket).get("connect")

    with open_simulation():
        pass

    assert vars(socket.socket).get("connect") is before
