"""The commands of fakeredis that may be queued in a transaction without a look at their words first."""

from __future__ import annotations

from fakeredis._commands import COMMANDS_WITH_SUB, SUPPORTED_COMMANDS, Signature
from fakeredis._msgs import FLAG_TRANSACTION

from pytest_taskservice.redis.mended import ADDED
from pytest_taskservice.simulator.redis.queues import COMMANDS

__all__ = ["Known", "known_command"]

_COMMANDS: dict[bytes, Known | None] = {}
_LONGEST = 20


class Known:
    """A command that may be part of a transaction without a look at its words first."""

    __slots__ = ("_fixed", "_repeat", "method", "quick", "signature")

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.method = signature.func_name
        self.quick = COMMANDS.get(signature.name)
        self._fixed = len(signature.fixed)
        self._repeat = len(signature.repeat)

    def takes(self, count: int) -> bool:
        """Return whether the command takes so many arguments."""
        more = count - self._fixed
        return not more or (more > 0 and self._repeat > 0 and not more % self._repeat)


def known_command(word: bytes) -> Known | None:
    """Return the command of that name; ``None`` for what has subcommands, or is not to be queued."""
    try:
        return _COMMANDS[word]
    except KeyError:
        pass
    name = word.decode("utf-8", "replace").lower()
    signature = None if name in COMMANDS_WITH_SUB or name in ADDED else SUPPORTED_COMMANDS.get(name)
    if signature is None or FLAG_TRANSACTION in signature.flags or "redis" not in signature.server_types:
        found = None
    else:
        found = Known(signature)
    if len(word) <= _LONGEST:
        _COMMANDS[word] = found
    return found
