"""Lua scripts that are known by their text do what an interpreter makes of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from random import Random
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.lock import Lock

from pytest_taskservice.simulator.redis.scripts import known_script
from taskservice.backends.storing import WRITE
from tests.pytest_taskservice.simulator.faulty import app

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.world import CeleryWorld

# Untyped in the stubs.
redis_backend: Any = import_module("celery.backends.redis")

NEWEST = version("celery").startswith("5.7.")


@pytest.fixture
def client(redis_world: CeleryWorld) -> Any:
    """The client of Celery's results; ``plain`` is redis-py's own to the same server."""
    backend: Any = app.backend
    return backend.client


class Script:
    """One of Celery's scripts on a server of its own, run by us and by an interpreter."""

    def __init__(self, client: Any, text: str, *, evaluated: bool = False) -> None:
        self.client = client
        self.text = text
        self.evaluated = evaluated

    def __call__(self, keys: list[str], args: list[Any]) -> list[Any]:
        """Return what either says, and what it leaves behind."""
        found = []
        before = self.dump()
        for run in (self.runner(self.client), self.runner(self.client.plain)):
            self.client.plain.flushall()
            for key, (kind, value, life) in before.items():
                self.restore(key, kind, value, life)
            reply = run(keys=keys, args=args)
            found.append((reply, {key: entry[:2] for key, entry in self.dump().items()}, self.lives()))
        return found

    def runner(self, client: Any) -> Callable[..., Any]:
        if not self.evaluated:
            return cast("Callable[..., Any]", client.register_script(self.text))
        return lambda keys, args: client.eval(self.text, len(keys), *keys, *args)

    def dump(self) -> dict[bytes, tuple[bytes, Any, int]]:
        plain = self.client.plain
        kinds = {key: plain.type(key) for key in sorted(plain.keys())}
        return {key: (kind, self.read(key, kind), plain.ttl(key)) for key, kind in kinds.items()}

    def lives(self) -> dict[bytes, bool]:
        return {key: self.client.plain.ttl(key) > 0 for key in sorted(self.client.plain.keys())}

    def read(self, key: bytes, kind: bytes) -> Any:
        plain = self.client.plain
        if kind == b"zset":
            return plain.zrange(key, 0, -1, withscores=True)
        if kind == b"list":
            return plain.lrange(key, 0, -1)
        return plain.smembers(key) if kind == b"set" else plain.get(key)

    def restore(self, key: bytes, kind: bytes, value: Any, life: int) -> None:
        plain = self.client.plain
        if kind == b"zset":
            plain.zadd(key, dict(value))
        elif kind == b"list":
            plain.rpush(key, *value)
        elif kind == b"set":
            plain.sadd(key, *value)
        else:
            plain.set(key, value)
        if life > 0:
            plain.expire(key, life)


@pytest.mark.skipif(not NEWEST, reason="older ones have no scripts")
@pytest.mark.parametrize("seed", range(6))
def test_the_scripts_of_chords_do_what_their_text_says(client: Any, seed: int) -> None:
    draw = Random(seed)
    keys = ["j", "t", "s", "d", "g", "c"]
    part = Script(client, redis_backend.CHORD_PART_RETURN_LUA)
    extend = Script(client, redis_backend.CHORD_CLAIM_EXTEND_LUA)
    clean = Script(client, redis_backend.CHORD_CLEANUP_LUA)
    plain = client.plain
    plain.set("s", 3)
    if draw.random() < 0.5:
        plain.set("t", 1)
    ordered = draw.choice([0, 1])
    for _ in range(8):
        index = draw.choice([0, 1, 2, 3, "+inf"])
        lives = [draw.choice([0, 100]), draw.choice([0, 200]), 10, draw.choice(["one", "two"])]
        steps = [
            part(keys, [f"id{index}", f"value{index}", ordered, index, *lives]),
            extend(["c", "s"], [draw.choice(["one", "two"]), 20]),
        ]
        if draw.random() < 0.3:
            claim = [draw.choice(["one", "two"]), draw.choice([0, 50])]
            steps.append(clean(["c", "j", "t", "s", "d"], claim))
        for ours, theirs in steps:
            assert ours == theirs


@pytest.mark.parametrize("seed", range(6))
def test_the_script_of_stored_results_does_what_its_text_says(client: Any, seed: int) -> None:
    assert known_script(WRITE) is not None
    draw = Random(seed)
    stored = [f'{{"status": "{state}", "n": 1}}' for state in ("STARTED", "SUCCESS", "RETRY", "FAILURE")]
    write = Script(client, WRITE, evaluated=True)
    plain = client.plain
    heard = plain.pubsub()
    heard.psubscribe("*")
    for _ in range(15):
        # What is stored otherwise is left to the interpreter.
        keys = draw.choices("abcd", k=draw.choice([1, 2, 3]))
        plain.set("a", draw.choice(['{"n": 1, "status": "SUCCESS"}', "", "no json", stored[1]]))
        kept = draw.choice(["|SUCCESS|", "|SUCCESS|FAILURE|REVOKED|"])
        values = draw.choices(stored, k=len(keys))
        listen(heard)
        ours, theirs = write(keys, [draw.choice(["", "all"]), draw.choice([0, 100]), kept, *values])
        assert ours == theirs
        told = listen(heard)
        assert told[: len(told) // 2] == told[len(told) // 2 :]


@pytest.mark.parametrize("seed", range(6))
def test_the_scripts_of_locks_do_what_their_text_says(client: Any, seed: int) -> None:
    draw = Random(seed)
    texts = (Lock.LUA_RELEASE_SCRIPT, Lock.LUA_EXTEND_SCRIPT, Lock.LUA_REACQUIRE_SCRIPT)
    assert all(known_script(text) is not None for text in texts)
    release, extend, reacquire = (Script(client, text) for text in texts)
    plain = client.plain
    for _ in range(15):
        plain.set("lock", draw.choice(["one", "two"]), px=draw.choice([None, 90_000]))
        if draw.random() < 0.2:
            plain.delete("lock")
        life = draw.choice([100_000, 500_000])
        for ours, theirs in (
            reacquire(["lock"], ["one", life]),
            extend(["lock"], ["one", life, draw.choice([0, 1])]),
            release(["lock"], [draw.choice(["one", "two"])]),
        ):
            assert ours == theirs


def listen(pubsub: Any) -> list[Any]:
    found = []
    while (message := pubsub.get_message(timeout=0)) is not None:
        found.append((message["channel"], message["data"]))
    return found
