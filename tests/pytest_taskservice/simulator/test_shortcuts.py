"""What is done in fewer steps in a simulation comes out as Celery does it: messages, history, results."""

from __future__ import annotations

import copy
import inspect
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from typing import Any, cast

import pytest
from celery import Celery, chain, chord, group
from celery.app import amqp
from celery.utils.functional import head_from_fun
from celery.utils.saferepr import saferepr
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Exchange, Queue, binding, serialization
from kombu.exceptions import DecodeError
from kombu.resource import Resource
from kombu.utils import json as kombu_json

from pytest_taskservice.drivers.app_patch import AppPatch
from pytest_taskservice.simulator.celery.broker import Broker
from pytest_taskservice.simulator.celery.quick_listening import LISTENING_SHORTCUTS
from pytest_taskservice.simulator.celery.quick_making import MAKING_SHORTCUTS
from pytest_taskservice.simulator.celery.quick_plain import PLAIN_SHORTCUTS
from pytest_taskservice.simulator.celery.quick_sending import SENDING_SHORTCUTS
from pytest_taskservice.simulator.celery.quick_starting import STARTING_SHORTCUTS
from pytest_taskservice.simulator.celery.shortcuts import (
    Shortcut,
    drop_shortcuts,
    install_shortcuts,
    kept_shortcuts,
    missing,
)
from pytest_taskservice.simulator.celery.world import CeleryWorld
from pytest_taskservice.simulator.substitutes import Patches
from taskservice import Settings, create_app

app = Celery("shortcuts", broker="redis://localhost/0", backend="redis://localhost/0", set_as_current=False)
app.conf.broker_connection_retry_on_startup = True

# Untyped in the stubs.
redis_backend: Any = import_module("celery.backends.redis")

SHORTCUTS = (
    *PLAIN_SHORTCUTS,
    *MAKING_SHORTCUTS,
    *SENDING_SHORTCUTS,
    *LISTENING_SHORTCUTS,
    *STARTING_SHORTCUTS,
)
NEWEST = version("celery").startswith("5.7.")


@app.task(name="shortcuts.add")
def add(x: Any, y: Any = 1) -> Any:
    return x + y


@app.task(name="shortcuts.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="shortcuts.fail", bind=True, max_retries=2)
def fail(self: Any, *args: Any, often: bool = False) -> None:
    if often:
        raise self.retry(countdown=30, exc=ValueError('it\'s "odd"'))
    raise ValueError("once")


@app.task(name="shortcuts.note")
def note(*args: Any) -> str:
    return repr(args)[:40]


@app.task(name="shortcuts.spread", bind=True)
def spread(self: Any, count: int) -> Any:
    raise self.replace(group(add.s(number, 1) for number in range(count)))


def play(world: CeleryWorld) -> list[Any]:
    """All kinds of calls; return what came of them."""
    results = [
        add.delay(1, 2),
        add.delay("it's", "\n\\ä"),
        add.apply_async((1.5,), {"y": 2}, countdown=3600, expires=7200, priority=3),
        add.apply_async(([1, [2]],), {"y": [None]}, queue="other", shadow="another", headers={"mine": "1"}),
        add.s(1, 2).set(link=note.s("linked")).apply_async(link_error=note.s("failed")),
        fail.apply_async(("x",), link_error=note.s()),
        fail.delay(often=True),
        chain(add.s(1, 1), add.s(2), group(add.s(3), add.s(4)))(),
        chord([add.s(number, 1) for number in range(4)], total.s())(),
        chord([add.s(1, 1), fail.s()], total.s().on_error(note.s()))(),
        group(chain(add.s(1, 1), add.s(2)), spread.s(3))(),
        app.send_task("shortcuts.add", (3, 4)),
        note.delay(None, -1, 10**25, 1e300, {"a": "b"}, ["x" * 2000]),
    ]
    results[0].revoke()
    world.faults.inject("down", after=1.0, for_=1.2)
    world.simulation.advance(2)
    results.append(add.delay(5, 6))
    return [outcome(result) for result in results]


def outcome(result: Any) -> Any:
    with suppress(TypeError):
        result.get(timeout=10_000, propagate=False)
    with suppress(ValueError):
        return repr(result.get(timeout=1, propagate=False))
    return result.state


def client_of(app: Any) -> Any:
    return app.backend.client


@contextmanager
def opened(seed: int, *, exact: bool) -> Iterator[CeleryWorld]:
    with ExitStack() as stack:
        stack.enter_context(AppPatch(app, {}).applied())
        world = stack.enter_context(CeleryWorld(seed=seed, exact=exact))
        world.start_worker(app, concurrency=2, queues=["celery", "other"])
        yield world


def told(seed: int, *, exact: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What happened, as it is told, in the messages, and in Redis."""
    messages: list[tuple[str, str]] = []
    publish: Callable[..., None] = Broker.publish

    def published(broker: Broker, queue: str, raw: dict[str, Any]) -> None:
        messages.append((queue, json.dumps(copy.deepcopy(raw), default=repr)))
        publish(broker, queue, raw)

    with monkeypatch.context() as patch, opened(seed, exact=exact) as world:
        patch.setattr(Broker, "publish", published)
        results = play(world)
        client = client_of(app)
        stored = {key: client.get(key) for key in sorted(client.keys("celery-task-meta-*"))}
        channels = sorted(client.pubsub_channels())
        return results, messages, stored, channels, world.record.digest()


@pytest.mark.parametrize("seed", [0, 11])
def test_messages_history_and_results_are_those_of_celery_itself(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = told(seed, exact=False, monkeypatch=monkeypatch)
    exact = told(seed, exact=True, monkeypatch=monkeypatch)

    assert len(quick[1]) > 25
    for here, there in zip(quick, exact, strict=True):
        assert here == there


@pytest.mark.skipif(not NEWEST, reason="older ones take the slow way where they differ")
def test_each_shortcut_knows_what_it_stands_for() -> None:
    assert missing(SHORTCUTS) == []


def test_a_function_that_somebody_has_patched_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(self: Any, *args: Any, **options: Any) -> str:
        return "mine"

    monkeypatch.setattr("kombu.resource.Resource.release", mine)
    patches = Patches()
    install_shortcuts(patches, SENDING_SHORTCUTS)

    try:
        assert vars(Resource)["release"] is mine
    finally:
        patches.undo()


def test_shortcuts_that_are_kept_stay_from_one_simulation_to_the_next() -> None:
    place = vars(Resource)
    original = place["release"]

    with kept_shortcuts():
        with CeleryWorld(seed=1), kept_shortcuts():
            quick = place["release"]
        assert place["release"] is quick
        assert quick is not original
        with CeleryWorld(seed=1, exact=True):
            assert place["release"] is original
        with CeleryWorld(seed=1):
            assert place["release"] is quick

    assert place["release"] is original


def test_what_a_test_puts_over_a_kept_shortcut_stays_as_long_as_it_wants() -> None:
    original = vars(Resource)["release"]

    with kept_shortcuts():
        with CeleryWorld(seed=1):
            quick = vars(Resource)["release"]
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(Resource, "release", print)
            with CeleryWorld(seed=1):
                pass
            drop_shortcuts()
            assert vars(Resource)["release"] is print
        assert vars(Resource)["release"] is quick

    assert vars(Resource)["release"] is original


def test_a_shortcut_that_answers_otherwise_is_not_taken() -> None:
    patches = Patches()
    wrong = Shortcut(
        place="celery.app.amqp:saferepr", make=lambda _: lambda value, *_: repr(value), samples=[("a\nb",)]
    )

    install_shortcuts(patches, [wrong])

    assert amqp.saferepr is saferepr  # type: ignore[attr-defined]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(value=values, longest=st.none() | st.integers(min_value=1, max_value=60))
def test_short_texts_are_celerys(value: Any, longest: int | None) -> None:
    patches = Patches()
    install_shortcuts(patches, PLAIN_SHORTCUTS)
    try:
        found = amqp.saferepr(value, longest)  # type: ignore[attr-defined]
    finally:
        patches.undo()

    assert found == saferepr(value, longest)


@pytest.mark.parametrize("url", ["redis://localhost/0", "redis://localhost/0?protocol=3"])
def test_results_stored_at_the_same_time_do_not_meet(url: str) -> None:
    own = create_app(Settings(redis_url="redis://localhost/0"))
    own.conf.update(result_backend=url, broker_connection_retry_on_startup=True)
    own.task(name="shortcuts.wait")(wait)

    for seed in range(8):
        with AppPatch(own, {}).applied(), CeleryWorld(seed=seed) as world:
            for _ in range(2):
                world.start_worker(own, concurrency=4)
            results = [own.send_task("shortcuts.wait", (number,)) for number in range(8)]
            assert [result.get(timeout=30) for result in results] == list(range(8))


def wait(number: int) -> int:
    time.sleep(1 - time.monotonic() % 1)
    return number


@pytest.mark.parametrize(
    "url", ["redis://:a%20b@host:7/3", "amqp://guest@localhost//", "redis://h/0?ssl_x=1"]
)
def test_connections_that_are_made_again_are_as_they_were(url: str) -> None:
    found = []
    for exact in (True, False, False):
        with opened(0, exact=exact):
            made = app.connection_for_write(url)
            found.append((made.info(), made.as_uri(include_password=True), repr(Queue("q", Exchange("e")))))

    assert found[0] == found[1] == found[2]


def test_a_task_is_called_as_its_function_is_now() -> None:
    def greet(name: str, mark: str = "!", *, loud: bool = False) -> str:
        return name + mark

    other = greet.__code__.replace(co_varnames=("who", "mark", "loud"))
    (headed,) = [one for one in MAKING_SHORTCUTS if one.place.endswith("head_from_fun")]
    quick = headed.make(head_from_fun)

    for attribute, value in (
        ("__name__", "greet"),
        ("__defaults__", None),
        ("__kwdefaults__", None),
        ("__code__", other),
        ("__signature__", inspect.signature(app.signature)),
    ):
        setattr(greet, attribute, value)
        for bound in (False, True, False):
            assert checker(quick(greet, bound)) == checker(head_from_fun(greet, bound))


def checker(head: Any) -> tuple[str, str]:
    """Return the name and the arguments of what checks a task's arguments."""
    return getattr(head, "func", head).__name__, str(inspect.signature(head))


EXCHANGES = st.builds(
    Exchange,
    st.sampled_from(["", "e"]),
    st.sampled_from(["", "topic"]),
    durable=st.sampled_from([None, True, False]),
    delivery_mode=st.sampled_from([None, 1, 2, "transient"]),
    arguments=st.sampled_from([None, {}, {"a": 1}]),
    no_declare=st.sampled_from([None, True]),
)
QUEUES = st.builds(
    Queue,
    st.sampled_from(["", "q"]),
    st.none() | st.just("named") | EXCHANGES,
    st.sampled_from(["", "key"]),
    bindings=st.sampled_from([None, [binding(Exchange("b"))]]),
    on_declared=st.sampled_from([None, print]),
    exclusive=st.sampled_from([None, True]),
    auto_delete=st.sampled_from([None, False]),
    no_ack=st.sampled_from([None, True]),
    expires=st.sampled_from([None, 3, 2.5]),
    max_priority=st.sampled_from([None, 9]),
    queue_arguments=st.sampled_from([None, {"x": 1}]),
    alias=st.sampled_from([None, "other"]),
)
LATER = st.sampled_from(
    [
        {},
        {"durable": 1},
        {"auto_delete": None},
        {"expires": 5},
        {"delivery_mode": "persistent"},
        {"exchange": None},
    ]
)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(entity=EXCHANGES | QUEUES, later=LATER)
def test_entities_are_copied_as_kombu_does(entity: Any, later: dict[str, Any]) -> None:
    vars(entity).update(later)
    (copied,) = [one for one in MAKING_SHORTCUTS if one.place.endswith("__copy__")]
    quick = copied.make(type(entity).__copy__)

    assert held(quick(entity)) == held(copy.copy(entity))


def held(entity: Any) -> dict[str, Any]:
    """Return all that is asked of an entity, with its type: ``1`` is not ``True``."""
    asked = (
        [name for name, _ in entity.attrs] + ["is_bound"] + ["on_declared"] * hasattr(entity, "on_declared")
    )
    return {name: (type(getattr(entity, name)), repr(getattr(entity, name))) for name in asked}


def test_what_holds_itself_cannot_be_written_and_leaves_nothing_behind() -> None:
    ring: list[Any] = []
    ring.append(ring)
    outer = {"ring": ring}

    with opened(0, exact=False):
        for _ in range(2):
            with pytest.raises(ValueError, match="Circular"):
                kombu_json.dumps(outer)
            ring.clear()
            assert kombu_json.dumps(outer) == '{"ring": []}'
            ring.append(ring)


class Nested:
    """Writes itself by writing what holds it."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __json__(self) -> str:
        return kombu_json.dumps(self.parts)


def test_what_is_written_may_write_for_itself() -> None:
    parts = [1, 2]
    with opened(0, exact=False):
        assert kombu_json.dumps([parts, Nested(parts)]) == '[[1, 2], "[1, 2]"]'


def test_json_is_read_and_written_as_kombu_does() -> None:
    value = {"a": [1, 2.5, None, True, "ä"], "raw": b"\x00\xff"}
    with opened(0, exact=True):
        text = kombu_json.dumps(value)
    with opened(0, exact=False):
        assert kombu_json.dumps(value) == text
        assert kombu_json.loads(text) == value
        assert kombu_json.loads(f" {text}\n") == value
        for wrong, why in ((text + "]", "Extra data"), ("[1,", "Expecting value"), ('{"a"', "Expecting ':'")):
            with pytest.raises(json.JSONDecodeError, match=why):
                kombu_json.loads(wrong)
            with pytest.raises(DecodeError, match=why):
                serialization.loads(wrong, "application/json", "utf-8")
        for data in cast("list[bytes]", [text, text.encode(), memoryview(text.encode())]):
            assert serialization.loads(data, "application/json", "utf-8") == value
        with pytest.raises(json.JSONDecodeError, match="BOM"):
            kombu_json.loads("\ufeff{}")
