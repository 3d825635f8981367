"""How large Celery before 5.7 makes the messages of a canvas.

It puts what follows a group into every member of that group (``group.freeze``, celery/canvas.py), and once
more into the chord that they make: what comes after three groups of ten in a row is sent some thousand times
over. 5.7 sends each part once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskservice.backends.canvas.plan import Run, Series
from taskservice.backends.versions import CELERY, celery_version
from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskservice.backends.canvas.plan import Plan, Step

__all__ = ["refuse_growth"]

MOST_CALLS: Final = 10_000
"""The most calls in one message, of about 400 bytes each."""
_GROWS: Final = CELERY < (5, 7)


def refuse_growth(plan: Plan) -> None:
    """Raise `ConfigurationError` if this Celery would make a message of ``plan`` far too large."""
    calls = _sent(plan.root) if _GROWS else 0
    if calls > MOST_CALLS:
        raise ConfigurationError(
            f"Celery {celery_version()} would put {calls} calls into one message, since it repeats what "
            "follows a group in each member: launch parts of the canvas apart, or use Celery 5.7"
        )


def _sent(step: Step) -> int:
    """Return the calls in the largest message that is sent first."""
    if isinstance(step, Run):
        return 1
    if isinstance(step, Series):
        return _sent(step.steps[0]) + _after(step.steps[1:])
    return max((_sent(each) for each in step.members), default=0)


def _after(steps: Sequence[Step]) -> int:
    total = 0
    for step in reversed(steps):
        if isinstance(step, Run):
            total += 1
        elif isinstance(step, Series):
            total += _after(step.steps)
        else:
            members = sum(_after((each,)) for each in step.members)
            # In each member, in the body, and in the group's own options.
            total = members + (len(step.members) + 2) * total
    return total
