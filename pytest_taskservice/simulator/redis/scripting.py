"""EVAL and its like where lupa is not installed: only scripts that are known by their text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fakeredis._command_args_parsing import Int
from fakeredis._helpers import OK, SimpleError
from fakeredis._msgs import NO_MATCHING_SCRIPT_MSG

from pytest_taskservice.redis.mended import HAS_LUA, NO_LUA
from pytest_taskservice.simulator.redis.quick import SLOW
from pytest_taskservice.simulator.redis.scripts import digest_of, script_of

if TYPE_CHECKING:
    from pytest_taskservice.simulator.redis.line import Line

__all__ = ["SCRIPTING", "KnownScripts"]

_WITHOUT_LUA: dict[str, tuple[str, Any, Any]] = {
    "eval": ("evaluate", (bytes, Int), (bytes,)),
    "evalsha": ("evaluate_loaded", (bytes, Int), (bytes,)),
    "script": ("scripts", (bytes,), (bytes,)),
}
SCRIPTING = {} if HAS_LUA else _WITHOUT_LUA


class KnownScripts:
    """What a connection does of scripts without an interpreter."""

    def evaluate(self, text: bytes, count: int, *words: bytes) -> Any:
        """EVAL."""
        return self.evaluate_loaded(digest_of(text), count, *words, missing=f"ERR {NO_LUA}")

    def evaluate_loaded(
        self, digest: bytes, count: int, *words: bytes, missing: str = NO_MATCHING_SCRIPT_MSG
    ) -> Any:
        """EVALSHA."""
        script = script_of(digest.lower())
        if script is None:
            raise SimpleError(missing)
        reply = script(cast("Line", self), list(words[:count]), list(words[count:]))
        if reply is SLOW:
            raise SimpleError(f"ERR {NO_LUA}")
        return reply

    def scripts(self, command: bytes, *words: bytes) -> Any:
        """SCRIPT LOAD, EXISTS and FLUSH: who knows a script has loaded it."""
        match command.lower(), words:
            case b"load", [text] if script_of(digest := digest_of(text)) is not None:
                return digest
            case b"exists", _:
                return [int(script_of(word.lower()) is not None) for word in words]
            case b"flush", _:
                return OK
        raise SimpleError(f"ERR {NO_LUA}")
