"""What can go wrong with a load run besides a mistake in what it was told."""

from __future__ import annotations

from taskservice.errors import TaskServiceError

__all__ = ["StackError"]


class StackError(TaskServiceError, ConnectionError):
    """Something that a load run needs could not be reached or started, or died under it."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"
