"""The gate: what every request passes before anything of it is read.

It gives the request an id, knows who asks, refuses what is too much, and lets no exception out.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
from fastapi import HTTPException

from taskservice.api.problems import ProblemError, problem_of, response

if TYPE_CHECKING:
    from taskservice.api.access import Access, Principal, RateLimiter

__all__ = ["CALL", "OPEN_PATHS", "Call", "Gate", "is_loopback"]

logger = logging.getLogger(__name__)

CALL: Final = "taskservice.call"
OPEN_PATHS: Final = frozenset({"/health", "/openapi.json"})
BODY_SECONDS: Final = 30.0
"""How long a body may take to arrive."""
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,100}")


@dataclass(kw_only=True, slots=True)
class Call:
    """What is known of one request, in its ASGI scope."""

    request_id: str
    principal: Principal | None = None
    status: int = 0


class Gate:
    """ASGI middleware around the whole API; a WebSocket says who it is later, see `sockets`."""

    def __init__(
        self,
        app: Any,
        *,
        access: Access,
        rates: RateLimiter,
        body_limit: int,
        origins: frozenset[str],
    ) -> None:
        self._app = app
        self._access = access
        self._rates = rates
        self._limit = body_limit
        self._origins = origins

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let it pass, or not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else token_hex(8)
        call = scope[CALL] = Call(request_id=request_id)
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send, headers)
        else:
            await self._request(scope, receive, send, headers)
        _log(scope, call)

    async def _socket(self, scope: Any, receive: Any, send: Any, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        # A browser sends it, and lets any page open any socket.
        strange = origin and origin not in self._origins and urlsplit(origin).netloc != host
        if strange or (self._access.open and not _from_here(scope, host)):
            scope[CALL].status = 403
            await send({"type": "websocket.close", "code": 4403, "reason": "forbidden"})
            return

        try:
            await self._app(scope, receive, send)
        except Exception:
            logger.exception("socket %s failed", scope[CALL].request_id)
            scope[CALL].status = 1011
            with suppress(Exception):  # it may be closed already
                await send({"type": "websocket.close", "code": 1011, "reason": "the server failed"})

    async def _request(self, scope: Any, receive: Any, send: Any, headers: dict[bytes, bytes]) -> None:
        call: Call = scope[CALL]
        body = _Bounded(receive, self._limit)
        has_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                own = [(b"x-request-id", call.request_id.encode())]
                if has_body and not body.whole:
                    # Or it would be taken in, and thrown away, for as long as it comes.
                    own.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        try:
            self._admit(scope, headers, call)
            await self._app(scope, body, answer)
        except Exception as error:
            problem = problem_of(error)
            if problem.status == 500:
                logger.exception("request %s failed", call.request_id)
            if call.status:
                raise  # half an answer is out: the server cuts the connection
            await response(problem, call.request_id)(scope, receive, answer)

    def _admit(self, scope: Any, headers: dict[bytes, bytes], call: Call) -> None:
        if self._access.open and not _from_here(scope, headers.get(b"host", b"").decode("latin-1")):
            raise ProblemError(403, "forbidden", "this API has no tokens, so only this machine may use it")
        if scope["path"] in OPEN_PATHS:
            return

        call.principal = self._access.of_header(headers.get(b"authorization"))
        if call.principal is None:
            raise ProblemError(401, "unauthorized", "send a token: Authorization: Bearer <token>")
        seconds = self._rates.wait(call.principal)
        if seconds:
            raise ProblemError(429, "rate_limited", f"too many requests; try again in {seconds} s", seconds)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._limit:
            raise ProblemError(413, "too_large", f"a body may have {self._limit:,} bytes")


class _Bounded:
    """Receives a body until it is too long, or too slow; ``whole`` once all of it is there."""

    def __init__(self, receive: Any, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._left = limit
        self.whole = False
        self._until = anyio.current_time() + BODY_SECONDS

    async def __call__(self) -> Any:
        if self.whole:
            return await self._receive()

        try:
            with anyio.fail_after(self._until - anyio.current_time()):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body took more than {BODY_SECONDS:g} s") from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            # FastAPI lets this one through, and hides any other as a bad body.
            raise HTTPException(413, f"a body may have {self._limit:,} bytes")
        self.whole = not message.get("more_body", False)
        return message


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is this machine by an address or name that nobody else can use."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _from_here(scope: Any, host: str) -> bool:
    client = scope.get("client")
    # The name as well: a page may have its own name point to this machine.
    return (client is None or is_loopback(client[0])) and is_loopback(urlsplit(f"//{host}").hostname or "")


def _log(scope: Any, call: Call) -> None:
    # Percent-encoded, so it cannot break a line; without its query.
    path = (scope.get("raw_path") or scope["path"].encode("ascii", "backslashreplace")).decode("latin-1")
    owner = call.principal.owner if call.principal else ""
    logger.info(
        "%s %s answered %s",
        scope.get("method", "WEBSOCKET"),
        path.partition("?")[0][:500],
        call.status,
        extra={"request_id": call.request_id, "owner": owner},
    )
