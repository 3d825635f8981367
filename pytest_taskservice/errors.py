"""What can go wrong in the harness, told to the person who runs the tests."""

from __future__ import annotations

__all__ = [
    "AppNotFoundError",
    "HarnessError",
    "HarnessTimeoutError",
    "RedisProviderError",
    "ScenarioError",
    "UnknownNameError",
    "WorkerElsewhereError",
    "WorkerStartError",
]


class HarnessError(Exception):
    """Root of all errors of the harness."""


class UnknownNameError(HarnessError, ValueError):
    """A backend, provider or key has a name nobody knows."""

    def __init__(self, kind: str, found: str, known: tuple[str, ...]) -> None:
        super().__init__(kind, found, known)
        self.kind = kind
        self.found = found
        self.known = known

    def __str__(self) -> str:
        from difflib import get_close_matches

        near = get_close_matches(self.found, self.known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown {self.kind} {self.found!r}; {hint}known: {', '.join(self.known)}"


class RedisProviderError(HarnessError, ConnectionError):
    """A Redis was asked for and cannot be had."""


class AppNotFoundError(HarnessError, ImportError):
    """The Celery app named in ``taskservice_app`` cannot be imported or is none."""


class WorkerStartError(HarnessError, RuntimeError):
    """The worker process did not come up."""


class WorkerElsewhereError(HarnessError, AttributeError):
    """A test looked into a worker that is not in its process."""

    def __init__(self, attribute: str, pid: int) -> None:
        super().__init__(attribute, pid)
        self.attribute = attribute
        self.pid = pid

    def __str__(self) -> str:
        return (
            f"the worker has no {self.attribute!r} here: it is process {self.pid}; ask it by "
            "app.control.inspect(), or see docs/compat.md for what another process cannot give"
        )


class HarnessTimeoutError(HarnessError, TimeoutError):
    """Something did not come in time; the message names what."""


class ScenarioError(HarnessError, ValueError):
    """A scenario file is wrong; the message starts with ``file:line:column``."""
