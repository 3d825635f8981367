"""A script that one thread runs in Redis again and again, on a connection of its own.

Once Redis knows it, it is called by its digest, and where the caller need not know what comes of it, its
answer is read with the next one's. redis-py takes a connection from its pool for each command, looks whether
it still lives, and waits.

Leaned on, of redis/connection.py, with a check by whoever makes one: ``Connection.send_command``,
``read_response`` and ``can_read``.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from redis import Redis
from redis.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ScriptLine"]

logger = logging.getLogger(__name__)

_SEAMS: Final = ("can_read", "read_response", "send_command")


class ScriptLine:
    """Runs ``script`` where ``client`` is connected to; a forked process gets a connection of its own."""

    def __init__(self, client: Any, script: str) -> None:
        missing = [name for name in _SEAMS if name not in vars(AbstractConnection)]
        if missing:
            raise ConfigurationError(
                f"Connection.{missing[0]} is gone; taskservice.backends.scripting must follow"
            )

        self._pool = client.connection_pool
        self._script = script
        self._digest = sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._client: Any = None
        self._owner = 0
        self._known = False
        self._unanswered = 0
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether it is being run: by another coroutine of this thread, which has given way meanwhile."""
        return self._busy

    def run(self, keys: Sequence[Any], arguments: Sequence[Any], *, wait: bool) -> None:
        """Run it; without ``wait`` return as soon as it is sent, and let nobody know of an error.

        redis-py's errors leave open whether it was run.
        """
        self._busy = True
        try:
            self._run(keys, arguments, wait=wait)
        finally:
            self._busy = False

    def _run(self, keys: Sequence[Any], arguments: Sequence[Any], *, wait: bool) -> None:
        connection = self._connected()
        script = ("EVALSHA", self._digest) if self._known else ("EVAL", self._script)
        try:
            # A check of its health would take an answer that is still unread for its own.
            connection.send_command(*script, len(keys), *keys, *arguments, check_health=False)
            self._unanswered += 1
            if wait or not self._known:
                self._read(connection)
        except ResponseError:
            raise
        except BaseException:
            # A time limit among them: what comes next on this connection is not to be told apart any more.
            self.close()
            raise

    def close(self) -> None:
        """Give the connection up."""
        client, self._client = self._client, None
        self._unanswered = 0
        if client is not None and self._owner == os.getpid():
            with suppress(RedisError, OSError):
                client.connection.disconnect()

    def _connected(self) -> Any:
        if self._client is not None and (self._owner != os.getpid() or self._is_lost()):
            self.close()
        if self._client is None:
            self._owner, self._known = os.getpid(), False
            self._client = Redis(connection_pool=self._pool, single_connection_client=True)
        return self._client.connection

    def _is_lost(self) -> bool:
        # Nothing was asked, and there is something to be read: the end.
        try:
            return not self._unanswered and bool(self._client.connection.can_read(timeout=0))
        except (RedisError, OSError):
            return True

    def _read(self, connection: Any) -> None:
        while self._unanswered > 1:
            self._unanswered -= 1
            try:
                connection.read_response()
            except ResponseError as error:
                logger.debug("Redis refused what nobody waited for: %s", error)
        self._unanswered = 0
        try:
            connection.read_response()
        except ResponseError:
            self._known = False
            raise
        self._known = True
