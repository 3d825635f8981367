"""``taskservice dead``: what it prints, what it does, and its exit codes."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from redis import Redis

from taskservice import DeadLetter, DeadLetterCause
from taskservice.backends.letters_redis import RedisLetters
from taskservice.backends.probing import connect_redis
from taskservice.backends.storage import Storage
from taskservice.cli import cli

if TYPE_CHECKING:
    from tests.taskservice.conftest import RedisProcess

FIRST, SECOND = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


@pytest.fixture
def url(redis_process: RedisProcess) -> str:
    """A Redis with two letters in it."""
    letter = DeadLetter(
        id=FIRST,
        task="shop.charge",
        args=(7,),
        kwargs={"card": "4111"},
        cause=DeadLetterCause.ATTEMPTS,
        error_type="shop.DeclinedError",
        error_message="no funds",
        traceback="Traceback (most recent call last):\n  ...\n",
        attempts=3,
        queue="payments",
        at=time.time() - 60,
    )
    storage = Storage(connect_redis(redis_process.url, 5), "taskservice:")
    letters = RedisLetters(storage, count=10, seconds=3600)
    letters.add(letter)
    letters.add(replace(letter, id=SECOND, task="shop.mail", at=time.time()))
    storage.close()
    return redis_process.url


def run(url: str, *argv: str) -> tuple[int, str, str]:
    environment = {"TASKSERVICE_REDIS_URL": url, "COLUMNS": "200"}
    result = CliRunner().invoke(cli, ["dead", *argv], env=environment)
    return result.exit_code, result.stdout, result.stderr


def waiting(url: str) -> list[tuple[str, str]]:
    with Redis.from_url(url, decode_responses=True) as client:
        messages = [json.loads(str(found)) for found in client.lrange("payments", 0, -1)]
    return [(message["headers"]["id"], message["headers"]["task"]) for message in messages]


def test_list_shows_the_newest_first_and_no_payload(url: str) -> None:
    code, out, _ = run(url, "list")

    assert code == 0
    assert out.index(SECOND) < out.index(FIRST)
    assert "shop.DeclinedError" in out
    assert "4111" not in out


def test_list_may_be_narrowed_and_is_plain_with_json(url: str) -> None:
    code, out, _ = run(url, "list", "--json", "--task", "shop.charge")
    [found] = json.loads(out)

    assert code == 0
    assert (found["id"], found["cause"], found["attempts"]) == (FIRST, "attempts", 3)
    assert {"args", "kwargs", "traceback"}.isdisjoint(found)
    assert len(json.loads(run(url, "list", "--json", "--limit", "1")[1])) == 1


def test_list_says_when_there_are_none(redis_process: RedisProcess) -> None:
    assert run(redis_process.url, "list") == (0, "no dead letters\n", "")


def test_show_has_payload_and_traceback(url: str) -> None:
    code, out, _ = run(url, "show", FIRST)

    assert code == 0
    assert '{"card": "4111"}' in out
    assert "Traceback (most recent call last)" in out
    assert json.loads(run(url, "show", FIRST, "--json")[1])["kwargs"] == {"card": "4111"}


def test_requeue_sends_it_under_its_id_to_its_queue(url: str) -> None:
    code, out, err = run(url, "requeue", FIRST)

    assert (code, out, err) == (0, "1 requeued\n", "")
    assert waiting(url) == [(FIRST, "shop.charge")]
    assert run(url, "show", FIRST)[0] == 1


@pytest.mark.parametrize(("narrowed", "count"), [((), 2), (("--task", "shop.mail"), 1)])
def test_requeue_all_takes_every_one(url: str, narrowed: tuple[str, ...], count: int) -> None:
    code, out, _ = run(url, "requeue", "--all", *narrowed)

    assert (code, out) == (0, f"{count} requeued\n")
    assert len(waiting(url)) == count


def test_drop_forgets(url: str) -> None:
    assert run(url, "drop", FIRST) == (0, "1 dropped\n", "")
    assert run(url, "drop", "--all") == (0, "1 dropped\n", "")
    assert run(url, "drop", "--all") == (0, "0 dropped\n", "")
    assert waiting(url) == []


@pytest.mark.parametrize("command", ["show", "requeue", "drop"])
def test_an_unknown_id_is_exit_code_1(url: str, command: str) -> None:
    code, _, err = run(url, command, "nobody")

    assert code == 1
    assert "no dead letter of run 'nobody'" in err


def test_the_known_ones_are_done_beside_an_unknown_one(url: str) -> None:
    code, out, err = run(url, "drop", "nobody", FIRST)

    assert (code, out) == (1, "1 dropped\n")
    assert err == "taskservice: no dead letter of run 'nobody'\n"


@pytest.mark.parametrize("argv", [(), (FIRST, "--all"), (FIRST, "--task", "shop.mail")])
def test_a_choice_that_cannot_be_meant_is_exit_code_2(url: str, argv: tuple[str, ...]) -> None:
    code, _, err = run(url, "requeue", *argv)

    assert code == 2
    assert err.startswith("taskservice: ")
    assert waiting(url) == []


def test_a_redis_that_is_away_is_one_line_and_exit_code_2(closed_port: int) -> None:
    code, out, err = run(f"redis://127.0.0.1:{closed_port}/0", "list")

    assert (code, out) == (2, "")
    assert "dead letters are out of reach" in err
    assert err.count("\n") == 1
