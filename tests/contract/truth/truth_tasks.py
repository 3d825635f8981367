"""Somebody's app, whose tasks write down how they were run: the same on a worker and in the simulator."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import sys
import time
import uuid
from importlib import import_module
from typing import Any, cast

from celery import Celery
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

app = Celery("truth", broker="redis://nowhere.invalid", backend="redis://nowhere.invalid")
app.conf.update(result_extended=True, broker_transport_options={"visibility_timeout": 600})

# The stubs take whole seconds only.
task: Any = app.task

JOURNAL = "truth:journal"
# Sooner, on a busy machine, a run may end in another process before the attempt before it has stored RETRY,
# which Celery then writes over its end.
LATER = 0.3
"""Seconds to the next attempt."""

ODD: dict[str, Any] = {
    "none": None,
    "nested": {"a": [1, {"b": None}], "": [[]]},
    "unicode": "þorn \u2028 \U0001f96c",
    "big": 10**30,
    "float": 0.1 + 0.2,
    "infinity": float("inf"),
    "tuple": (1, (2, 3)),
    "keys": {1: "one", None: "none"},
    "decimal": decimal.Decimal("1.10"),
    "instant": dt.datetime(2026, 3, 1, 12, 30, tzinfo=dt.UTC),
    "day": dt.date(2026, 3, 1),
    "uuid": uuid.UUID(int=7),
    "bytes": b"\x00\xff",
    "long": "x" * 3000,
    "empty": [],
    "false": False,
}
UNSENDABLE: dict[str, Any] = {"object": object(), "set": {1}, "exception": ValueError("returned")}


class OddError(Exception):
    """An error whose arguments are not those of its constructor."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


ERRORS: dict[str, Any] = {
    "value": lambda: ValueError("no stock", 7),
    "key": lambda: KeyError("a"),
    "odd": lambda: OddError(4, reason="odd"),
    "arguments": lambda: ValueError(object, {1: b"x"}),
    "empty": RuntimeError,
    "os": lambda: FileNotFoundError(2, "gone", "/tmp/truth"),
    "group": lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
}


def store() -> Any:
    """Return a client of the Redis that holds the results, and the journal."""
    backend: Any = app.backend
    return backend.client


def journal(task: Any, event: str, given: Any) -> None:
    """Write down that a body was run, with what, and as what."""
    request = task.request
    entry = {
        "event": event,
        "run": request.id,
        "task": task.name,
        "given": given,
        "retries": request.retries,
        "root": request.root_id,
        "parent": request.parent_id,
        "group": request.group,
        "group_index": request.group_index,
        "chord": bool(request.chord),
        "callbacks": len(request.callbacks or ()),
        "errbacks": len(request.errbacks or ()),
        "chain": len(request.chain or ()),
        "stamps": {name: request.headers.get(name) for name in ("stamped_headers", "stamps", "colour")}
        if request.headers
        else None,
        "limits": request.timelimit,
        "eta": bool(request.eta),
        "expires": bool(request.expires),
        "redelivered": bool((request.delivery_info or {}).get("redelivered")),
        "routing": (request.delivery_info or {}).get("routing_key"),
        "priority": (request.delivery_info or {}).get("priority"),
        "eager": request.is_eager,
        "direct": request.called_directly,
        "replaced": request.replaced_task_nesting,
        "ignore": request.ignore_result,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
        "reply": bool(request.reply_to),
        "correlation": request.correlation_id == request.id,
        "shadow": request.shadow,
        "app": task.app.current_task is task.app.tasks[task.name],
        "joins": _joins(),
    }
    store().rpush(JOURNAL, json.dumps(entry, default=repr, sort_keys=True))


def _joins() -> bool:
    result: Any = import_module("celery.result")
    return bool(result.task_join_will_block())


def act(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    """Do what a case says."""
    journal(task, "ran", given)
    kind = does.get("kind", "return")
    return _ACTS[kind](task, given, does)


def _return(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    name = does.get("value", "own")
    if name == "own":
        return [does.get("name", ""), *given]
    return (ODD | UNSENDABLE)[name]


def _raise(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    error: Exception = ERRORS[does["error"]]()
    raise error from (LookupError("the cause") if does.get("cause") else None)


def _retry(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    if task.request.retries >= does["times"]:
        return act_again(task, given, does["then"])
    options: dict[str, Any] = {"countdown": does.get("countdown", LATER), "max_retries": does.get("most", 3)}
    if does.get("error"):
        options["exc"] = ERRORS[does["error"]]()
    if does.get("anew"):
        options["args"] = ["again", *given]
    if does.get("quietly"):
        options["throw"] = False
        task.retry(**options)
        return "quietly"
    raise task.retry(**options)


def act_again(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    """Do the second part of something."""
    return _ACTS[does.get("kind", "return")](task, given, does)


def _ignore(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    if does.get("state"):
        task.update_state(state="PROGRESS", meta={"percent": 50})
    raise Ignore


def _reject(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    again = bool((task.request.delivery_info or {}).get("redelivered"))
    if does["requeue"] and again:
        return "second time"
    raise Reject("not now", requeue=does["requeue"])


def _sleep(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    try:
        time.sleep(does["seconds"])
    except SoftTimeLimitExceeded:
        journal(task, "soft", given)
        if does["soft"] == "raise":
            raise
        if does["soft"] == "ignore":
            time.sleep(does["seconds"])
        return "softly"
    return "slept"


def _exit(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    sys.exit(does["code"])


def _progress(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    task.update_state(state="PROGRESS", meta={"percent": 50})
    return task.app.AsyncResult(task.request.id).state


def _replace(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    return task.replace(task.app.signature(does["by"]))


def _send(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    for each in does["what"]:
        task.app.signature(each).apply_async()
    return "sent"


def _get(task: Any, given: tuple[Any, ...], does: dict[str, Any]) -> Any:
    return task.app.AsyncResult("never").get(timeout=5)


_ACTS = {
    "return": _return,
    "raise": _raise,
    "retry": _retry,
    "ignore": _ignore,
    "reject": _reject,
    "sleep": _sleep,
    "exit": _exit,
    "progress": _progress,
    "replace": _replace,
    "send": _send,
    "get": _get,
}


@app.task(bind=True)
def play(self: Any, *given: Any, does: dict[str, Any]) -> Any:
    return act(self, given, does)


@app.task(bind=True, acks_late=True)
def late(self: Any, *given: Any, does: dict[str, Any]) -> Any:
    return act(self, given, does)


@app.task(bind=True, track_started=True, send_events=False)
def tracked(self: Any, *given: Any, does: dict[str, Any]) -> Any:
    return act(self, given, does)


@app.task(bind=True, ignore_result=True)
def quiet(self: Any, *given: Any, does: dict[str, Any]) -> Any:
    return act(self, given, does)


@app.task(
    bind=True,
    autoretry_for=(ValueError,),
    dont_autoretry_for=(UnicodeError,),
    max_retries=2,
    default_retry_delay=cast("Any", LATER),
)
def auto(self: Any, *given: Any, does: dict[str, Any]) -> Any:
    return act(self, given, does)


@app.task(bind=True, throws=(ValueError,), store_errors_even_if_ignored=True, ignore_result=True)
def expected(self: Any, *given: Any, does: dict[str, Any]) -> Any:
    return act(self, given, does)


@task(bind=True, soft_time_limit=0.5, time_limit=1.4)  # type: ignore[untyped-decorator] # see above
def limited(self: Any, *given: Any, does: dict[str, Any]) -> Any:
    return act(self, given, does)


@app.task(bind=True)
def seen(self: Any, *given: Any) -> Any:
    """Be a callback."""
    journal(self, "callback", given)
    return ["seen", *given]


@app.task
def on_error(request: Any, exc: Any, traceback: Any) -> None:
    """Be an errback of today."""
    entry = {
        "event": "errback",
        "run": request.id,
        "task": request.task,
        "error": type(exc).__name__,
        "text": str(exc),
        "traceback": bool(traceback),
    }
    store().rpush(JOURNAL, json.dumps(entry, sort_keys=True))


@app.task(bind=True)
def on_error_by_id(self: Any, run_id: str) -> None:
    """Be an errback as they were."""
    journal(self, "old errback", [run_id])
