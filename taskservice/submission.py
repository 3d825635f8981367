"""Submission: when, where and how urgently one run is wanted, checked before anything is sent.

Pure by design: the present arrives as an argument, so every back end comes to the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Final, TypedDict

from taskservice.errors import LaunchOptionError

__all__ = [
    "AT_ONCE",
    "PLAIN_PLAN",
    "LaunchKeywords",
    "LaunchOptions",
    "LaunchPlan",
    "check_idempotency_key",
    "check_priority",
    "check_queue",
    "check_seconds",
    "check_time_limit",
    "check_visibility",
    "plan_launch",
]

LOWEST_PRIORITY: Final = 0
HIGHEST_PRIORITY: Final = 9
LONGEST_KEY: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions:
    """What a caller wants of one run, besides its arguments.

    It starts ``countdown`` seconds from the launch at the earliest, or at ``eta``; if it has not
    started ``expires`` seconds from the launch, or at that instant, it never does. ``priority`` is
    0 to 9 and goes to the broker as it is: on Redis 0 comes first, on RabbitMQ 9. ``queue`` stands
    over the task's own. A second launch of the same task with the same ``idempotency_key`` starts
    nothing, and gets the first one's run. `LaunchOptionError` for what cannot be meant.
    """

    countdown: float | None = None
    eta: datetime | None = None
    expires: float | datetime | None = None
    priority: int | None = None
    queue: str | None = None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        if self.countdown is not None:
            check_seconds("countdown", self.countdown, zero=True)
            if self.eta is not None:
                raise LaunchOptionError("countdown", f"give it or an eta, not both, got eta {self.eta}")
        if self.eta is not None:
            _check_instant("eta", self.eta)
        _check_expires(self.expires)
        check_priority(self.priority)
        check_queue(self.queue)
        check_idempotency_key(self.idempotency_key)


class LaunchKeywords(TypedDict, total=False):
    """The fields of `LaunchOptions`, as keywords of whoever takes them."""

    countdown: float | None
    eta: datetime | None
    expires: float | datetime | None
    priority: int | None
    queue: str | None
    idempotency_key: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchPlan:
    """Options with every instant worked out, in UTC; ``None`` leaves it to the task or the app.

    ``delay`` is the seconds from the launch to the ``eta``.
    """

    eta: datetime | None = None
    delay: float = 0.0
    expires: datetime | None = None
    priority: int | None = None
    queue: str | None = None

    def expired(self, now: datetime) -> bool:
        """Return whether a run that has not started by ``now`` never does."""
        return self.expires is not None and now > self.expires


def plan_launch(
    options: LaunchOptions, *, now: datetime | None = None, expires: float | datetime | None = None
) -> LaunchPlan:
    """Return the plan for a launch at ``now``, which is read from the clock if it matters.

    ``expires`` is the task's own, used where the options have none. `LaunchOptionError` for a run
    that would expire in the past or before it may start.
    """
    if expires is None and (options is AT_ONCE or options == AT_ONCE):
        return PLAIN_PLAN

    _check_expires(expires)
    now = datetime.now(tz=UTC) if now is None else now.astimezone(UTC)
    eta = _instant("countdown", options.countdown if options.eta is None else options.eta, now)
    until = _instant("expires", expires if options.expires is None else options.expires, now)
    if until is not None and until <= now:
        raise LaunchOptionError("expires", f"{until} is in the past, it is {now}")
    if until is not None and eta is not None and until <= eta:
        raise LaunchOptionError("expires", f"{until} is not after the eta {eta}: the run could never start")

    delay = 0.0 if eta is None else max(0.0, (eta - now).total_seconds())
    return LaunchPlan(eta=eta, delay=delay, expires=until, priority=options.priority, queue=options.queue)


def check_visibility(plan: LaunchPlan, visibility_timeout: float) -> None:
    """Refuse a start later than a Redis broker's visibility timeout, in seconds."""
    if plan.delay < visibility_timeout:
        return

    raise LaunchOptionError(
        "eta",
        f"it is {plan.delay:g} s away and the broker's visibility_timeout is {visibility_timeout:g} s: a "
        "worker holds the message until then, so Redis would deliver it again each time that has passed, "
        "and the run would start more than once; raise visibility_timeout or launch later",
    )


def check_time_limit(task: str, time_limit: float, visibility_timeout: float) -> None:
    """Refuse a run acknowledged late that may outlast a Redis broker's visibility timeout, in seconds."""
    if time_limit < visibility_timeout:
        return

    raise LaunchOptionError(
        "time_limit",
        f"{task!r} may run for {time_limit:g} s, and the broker's visibility_timeout is "
        f"{visibility_timeout:g} s: it is acknowledged when it ends, so Redis would deliver it again each "
        "time that has passed, and it would run several times at once; raise visibility_timeout, lower "
        "the limit, or give the task acks_late=False",
    )


def check_seconds(option: str, value: object, *, zero: bool = False) -> None:
    """Refuse what is not a finite number of seconds above zero, or from zero on with ``zero``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LaunchOptionError(option, f"need a number of seconds, got {value!r}")
    if not _is_finite(value):
        raise LaunchOptionError(option, f"need a finite number of seconds, got {value}")
    if value < 0 or (value == 0 and not zero):
        raise LaunchOptionError(option, f"need {'0 or more' if zero else 'more than 0'} seconds, got {value}")


def check_priority(value: object) -> None:
    """Refuse what is neither ``None`` nor a whole number from 0 to 9."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise LaunchOptionError("priority", f"need a whole number, got {value!r}")
    if not LOWEST_PRIORITY <= value <= HIGHEST_PRIORITY:
        raise LaunchOptionError("priority", f"need {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}, got {value}")


def check_queue(value: object) -> None:
    """Refuse what is neither ``None`` nor a name."""
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise LaunchOptionError("queue", f"need a name, got {value!r}")


def check_idempotency_key(value: object) -> None:
    """Refuse what is neither ``None`` nor text of 1 to 1,000 characters."""
    if value is None:
        return
    if not isinstance(value, str):
        raise LaunchOptionError("idempotency_key", f"need text, got {type(value).__name__}")
    if not value or len(value) > LONGEST_KEY:
        raise LaunchOptionError(
            "idempotency_key", f"need 1 to {LONGEST_KEY:,} characters, got {len(value):,}"
        )


def _check_expires(value: object) -> None:
    if isinstance(value, datetime):
        _check_instant("expires", value)
    elif value is not None:
        check_seconds("expires", value)


def _check_instant(option: str, value: object) -> None:
    if not isinstance(value, datetime):
        raise LaunchOptionError(option, f"need a datetime, got {value!r}")
    if value.utcoffset() is None:
        raise LaunchOptionError(option, f"need a datetime with a time zone, got {value}")


def _instant(option: str, value: float | datetime | None, now: datetime) -> datetime | None:
    if value is None:
        return None

    try:
        return value.astimezone(UTC) if isinstance(value, datetime) else now + timedelta(seconds=value)
    except OverflowError as error:
        raise LaunchOptionError(option, f"{value} is beyond the calendar") from error


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # an int no float can hold
        return False


AT_ONCE: Final = LaunchOptions()
"""No options: as soon as may be, where the task says."""
PLAIN_PLAN: Final = LaunchPlan()
"""What becomes of no options, where the task has none of its own."""
