"""What an embedded worker would do within the test's process, echoed there by a worker in another one.

Its log records are handed to the test process's loggers of the same names, whose levels and handlers decide
what becomes of them. Receivers of the signal ``task_received`` in the test process are called before the
worker goes on, with a request that is rebuilt from the message.

Each echo is one datagram of JSON. Every process of the worker's pool may send one; only the worker's main
process waits for answers.
"""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["EchoHandler", "listen", "speak"]

logger = logging.getLogger(__name__)

# The default buffers of unix datagram sockets on macOS have room for 2 KB only.
_BUFFER = 1 << 20
_LONGEST = 60_000
# How long a worker waits for the receivers of a signal; they run as long as they like.
_PATIENCE = 2.0

_MESSAGE = ("content_type", "content_encoding", "delivery_tag", "delivery_info", "properties", "headers")


class EchoHandler(logging.Handler):
    """Sends log records over a socket; what nobody listens to is forgotten."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send ``record``; without its arguments and extras if it is too long."""
        fields = {key: value for key, value in vars(record).items() if key != "exc_info"}
        if record.exc_info:
            fields["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        # JSON has no tuples, and a list of arguments is no arguments.
        tagged = {"log": fields, "tuple": isinstance(record.args, tuple)}
        text = json.dumps(tagged, default=repr)
        if len(text) > _LONGEST:
            message = record.getMessage()[: _LONGEST // 8]
            brief = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
            text = json.dumps({"log": {**brief, "msg": message, "args": None}, "tuple": False})
        try:
            self._connection.send(text.encode())
        except OSError:
            return


def speak(descriptor: int) -> None:
    """Echo what happens in this worker process from now on, over the inherited socket ``descriptor``."""
    from celery import signals

    connection = socket.socket(fileno=descriptor)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    connection.settimeout(_PATIENCE)
    handler = EchoHandler(connection)

    def attach(logger: logging.Logger, **_: Any) -> None:
        if handler not in logger.handlers:
            logger.addHandler(handler)

    def received(request: Any = None, **_: Any) -> None:
        told = {name: getattr(request.message, name) for name in _MESSAGE}
        body = request.message.body
        raw = body.encode() if isinstance(body, str) else bytes(body)
        told["body"] = base64.b64encode(raw).decode()
        try:
            connection.send(json.dumps({"received": told}, default=repr).encode())
            connection.recv(1)
        except OSError:
            return

    # Celery sets the handlers of both, and a pool's process does so once more.
    signals.after_setup_logger.connect(attach, weak=False)
    signals.after_setup_task_logger.connect(attach, weak=False)
    signals.task_received.connect(received, weak=False)


def listen(connection: socket.socket, app: Celery, worker: Any) -> threading.Thread:
    """Do in this process what the worker of ``app`` echoes, until ``connection`` is closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    thread = threading.Thread(
        target=_hear, args=(connection, app, worker), name="taskservice-echo", daemon=True
    )
    thread.start()
    return thread


def _hear(connection: socket.socket, app: Celery, worker: Any) -> None:
    while True:
        try:
            data = connection.recv(_BUFFER)
            if not data:
                return
            echo = json.loads(data)
            if "log" in echo:
                _log(echo["log"], is_tuple=echo["tuple"])
            else:
                _tell_received(app, worker, echo["received"])
                connection.send(b".")
        except OSError:
            return


def _log(fields: dict[str, Any], *, is_tuple: bool) -> None:
    if is_tuple:
        fields["args"] = tuple(fields["args"])
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _tell_received(app: Celery, worker: Any, told: dict[str, Any]) -> None:
    from celery import signals

    if not signals.task_received.receivers:
        return
    try:
        request = _request(app, worker, told)
    except Exception:
        # The worker waits, and the test's thread is another one.
        logger.exception("a received message could not be rebuilt")
    else:
        # Whatever a receiver raises, Celery logs.
        signals.task_received.send(sender=worker, request=request)


def _request(app: Celery, worker: Any, told: dict[str, Any]) -> Any:
    """Rebuild a request as a worker's consumer builds it from a message."""
    from celery.worker.request import Request
    from kombu import Message
    from kombu.serialization import prepare_accept_content

    body = base64.b64decode(told.pop("body"))
    make_message: Any = Message
    accept: Any = prepare_accept_content
    message = make_message(body=body, accept=accept(app.conf.accept_content), **told)
    make_request: Any = Request
    return make_request(
        message,
        app=app,
        hostname=worker.hostname,
        task=app.tasks.get(message.headers.get("task")),
        body=body,
        headers=message.headers,
        decoded=False,
        utc=app.uses_utc_timezone(),
    )
