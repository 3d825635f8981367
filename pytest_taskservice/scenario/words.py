"""The words of scenario files: durations, and the nearest known word to a wrong one."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DURATION", "format_duration", "listed", "nearest", "parse_duration", "unknown"]

DURATION = "a number with a unit (ms, s, m, h, d), such as 500ms, 1.5m or 1h30m"

_MOST_COMPARED, _MOST_LISTED = 1000, 60
_MAX_SECONDS = 10 * 365 * 86_400.0
_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PATTERN = re.compile("".join(rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in _UNITS))

# Words of other systems that no spelling distance would lead home: to the first one that is known there.
_SYNONYMS = {
    "RUNNING": ("STARTED",),
    "STARTED": ("RUNNING",),
    "WAITING": ("PENDING",),
    "PENDING": ("WAITING",),
    "QUEUED": ("PENDING", "WAITING"),
    "RECEIVED": ("PENDING", "WAITING"),
    "DONE": ("SUCCESS",),
    "COMPLETED": ("SUCCESS",),
    "CANCELLED": ("REVOKED", "FAILED"),
    "REVOKED": ("FAILED",),
    "STOPPED": ("FAILED",),
    "RAISED": ("FAILURE", "FAILED"),
    "EXPIRED": ("REVOKED", "FAILED"),
    "ASKING": ("INPUT",),
    "cancel": ("revoke", "stop"),
    "sleep": ("wait",),
    "run": ("launch",),
    "answer": ("input",),
    "resume": ("continue",),
    "fault": ("inject",),
    "partition": ("timeout",),
    "crash": ("kill",),
    "stop": ("pause", "stopped"),
    "rabbitmq": ("amqp",),
    "eager": ("celery-eager",),
    "timeout": ("within",),
}


def parse_duration(text: str) -> float:
    """Return the seconds in ``text``; ValueError says in what way it is no duration."""
    match = _PATTERN.fullmatch(text) if 0 < len(text) <= 60 else None
    if match is None:
        raise ValueError("is no duration")

    seconds = sum(
        float(amount) * size
        for amount, size in zip(match.groups(), _UNITS.values(), strict=True)
        if amount is not None
    )
    if seconds > _MAX_SECONDS:
        raise ValueError("is longer than 10 years (3650d)")

    # 0.3 s written as 300ms must not become 0.30000000000000004.
    return round(seconds, 9)


def format_duration(seconds: float) -> str:
    """Return ``seconds`` as a file would say it."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"

    parts, left = [], seconds
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount:.0f}{unit}")
    if left:
        parts.append(f"{round(left, 6):.15g}s")
    return "".join(parts)


def nearest(found: str, known: Iterable[str]) -> str | None:
    """Return the known word that ``found`` was most likely meant to be."""
    words = sorted(known)
    for spelling in (found, found.upper(), found.lower()):
        if spelling in words:
            return spelling
        for meant in _SYNONYMS.get(spelling, ()):
            if meant in words:
                return meant

    # Only the beginning of a huge word is compared, and with so many: the distance is quadratic.
    near = get_close_matches(found[:60], words[:_MOST_COMPARED], n=1, cutoff=0.6)
    return near[0] if near else None


def listed(words: Sequence[str]) -> str:
    """Return ``words`` as a message lists what is allowed."""
    rest = len(words) - _MOST_LISTED
    return ", ".join(words[:_MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "") or "none"


def unknown(kind: str, found: str, known: Iterable[str], *, where: str = "") -> str:
    """Return the sentence about a word that nobody knows; ``where`` follows the word."""
    words = list(known)
    near = nearest(found, words)
    shown = found if len(found) <= 60 else f"{found[:60]}..."
    hint = f"did you mean {near!r}? " if near else ""
    place = f" {where}" if where else ""
    return f"unknown {kind} {shown!r}{place}; {hint}allowed: {listed(words)}"
