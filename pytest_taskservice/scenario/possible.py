"""Refusing expectations that contradict themselves or their story: no run could meet them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_taskservice.scenario.captured import Kind
from pytest_taskservice.scenario.model import Property
from pytest_taskservice.scenario.nodes import wrong
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.scenario.behaviour import Behaviour
    from pytest_taskservice.scenario.captured import Cast
    from pytest_taskservice.scenario.nodes import Table
    from pytest_taskservice.scenario.targets import Target

__all__ = ["Told", "check"]

_OF_A_FAILURE = ("error", "reason")
_RAN = ("STARTED", "RETRY", "SUCCESS")
_FIRST = {Kind.WORKFLOW: "WAITING"}
_ENDS_WITHOUT_ERROR = ("busy", "stale", "input_timeout", "stopped")


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One expectation while it is read; ``bound`` is the key of its ``instant``, if it has one."""

    kind: Property
    table: Table
    wanted: Mapping[str, Any]
    instant: float | None
    bound: str

    def refuse(self, key: str, message: str) -> NoReturn:
        """Raise at the value of ``key``."""
        raise wrong(self.table.entries[key].value.mark, message)


def check(told: Told, target: Target, cast: Cast) -> None:
    """Raise at what ``told`` says that cannot be."""
    _check_members(told, target)
    _check_itself(told, target)
    _check_workers(told, target, cast)
    if told.kind is Property.ALWAYS:
        _check_always(told, target)
    # What cannot be never is.
    if told.kind is Property.NEVER:
        return

    _check_instant(told, target)
    _check_count(told, target)
    if target.workflow and target.kind is Kind.WORKFLOW and target.workflow.call is None:
        from pytest_taskservice.scenario.possible_workflows import check_workflow

        check_workflow(told, target)
    task = target.task
    if task and task.behaviour:
        _check_limits(told, cast)
        _check_status(told, target, task.behaviour, cast)
        _check_attempts(told, task.name, task.behaviour)


def _check_members(told: Told, target: Target) -> None:
    if target.kind is Kind.MEMBERS and target.count == 0:
        whole = target.name.removesuffix(".members")
        told.refuse("of", f"found {target.name!r}, but {whole!r} itself is every run of this canvas")


def _check_itself(told: Told, target: Target) -> None:
    wanted, status = told.wanted, told.wanted.get("status")
    failed = ("FAILED",) if target.kind is Kind.WORKFLOW else ("FAILURE", "REVOKED")
    for key in ("result", *_OF_A_FAILURE):
        fits = ("SUCCESS",) if key == "result" else failed
        if key in wanted and status is not None and status not in fits:
            told.refuse(key, f"found {key} beside status {status}; a {status} run has none")
    for key in _OF_A_FAILURE:
        if key in wanted and "result" in wanted:
            told.refuse(key, f"found {key} beside result; a run has one or the other")

    for key in ("deliveries", "starts"):
        if wanted.get(key) == 0 and status in _RAN:
            told.refuse(key, f"found 0 {key} beside status {status}; a run that was never there has none")
    reason = wanted.get("reason")
    if "error" in wanted and reason in _ENDS_WITHOUT_ERROR:
        told.refuse("error", f"found error beside reason {reason}; a run that ends so raised nothing")
    if "error" in wanted and wanted.get("taken"):
        told.refuse("error", "found error beside taken: true; a command that was taken has none")


def _check_workers(told: Told, target: Target, cast: Cast) -> None:
    workers = cast.workers
    if target.kind is not Kind.WORKERS or workers is None:
        return

    for key, most, what in (
        ("running", workers.count * workers.concurrency, "slots"),
        ("alive", workers.count, "workers"),
    ):
        if told.wanted.get(key, 0) > most:
            told.refuse(key, f"found {told.wanted[key]} {key}, but the story has {most} {what}")


def _check_always(told: Told, target: Target) -> None:
    if target.kind in (Kind.COMMAND, Kind.CLIENT):
        message = f"found always of {target}; it has one end: say eventually, at or never"
        told.refuse("of", message)

    for key in ("result", *_OF_A_FAILURE):
        if key in told.wanted:
            told.refuse(key, f"found {key} in always; no run has one from its first event on")
    first = _FIRST.get(target.kind, "PENDING")
    status = told.wanted.get("status", first)
    if status != first:
        told.refuse("status", f"found {status} in always; every run is {first} at first")

    for key in ("deliveries", "starts", "struck", "running", "all_occupied", "stored_keys"):
        if told.wanted.get(key):
            told.refuse(key, f"found {key} in always; there is none at first")
    if told.wanted.get("attempts", 1) > 1:
        told.refuse("attempts", "found attempts in always; every run is in its first one at first")


def _check_instant(told: Told, target: Target) -> None:
    if told.instant is None:
        return

    at = f"found {told.bound}: {format_duration(told.instant)}"
    if told.instant < target.begins:
        what = "launch" if target.kind in (Kind.RUN, Kind.MEMBERS) else "step"
        told.refuse(
            told.bound,
            f"{at}, earlier than the {what} at {format_duration(target.begins)}; no run could meet it",
        )
    if told.wanted.get("status") == "SUCCESS" and told.instant < target.over:
        told.refuse(
            told.bound,
            f"{at} for SUCCESS, but the run takes until {format_duration(target.over)} at least; "
            "no run could meet it",
        )


def _check_count(told: Told, target: Target) -> None:
    runs = told.wanted.get("runs")
    if runs is not None and target.count is not None and runs > target.count:
        told.refuse("runs", f"found {runs} runs; {target.name!r} has {target.count} at most")


def _check_status(told: Told, target: Target, behaviour: Behaviour, cast: Cast) -> None:
    """Raise at where a synthetic task never comes to. How it ends is for the story to show."""
    assert target.task is not None
    name, status = target.task.name, told.wanted.get("status")
    queue, queues = target.task.queue, cast.workers.queues if cast.workers else ()
    if (status == "SUCCESS" or "result" in told.wanted) and queue and queues and queue not in queues:
        message = f"found SUCCESS, but no worker consumes the queue {queue!r} of {name!r}"
        told.refuse("status" if status else "result", message)
    if target.breaks:
        return

    if status == "REVOKED" and not (target.revokes or target.expires):
        told.refuse("status", f"found REVOKED, but nothing revokes {target.name!r}, nor does it expire")
    if status == "RETRY" and behaviour.retry is None:
        told.refuse("status", f"found RETRY, but {name!r} has no retry")
    if told.wanted.get("reason") == "worker_lost":
        told.refuse("reason", "found worker_lost, but nothing in this story breaks a worker")


def _check_attempts(told: Told, task: str, behaviour: Behaviour) -> None:
    attempts = told.wanted.get("attempts", 1)
    most = behaviour.retry.max_attempts if behaviour.retry else 1
    if attempts > most:
        told.refuse("attempts", f"found {attempts} attempts; {task!r} makes {most} at most")


def _check_limits(told: Told, cast: Cast) -> None:
    for kind, limit in (
        ("soft_time_limit", cast.config.task_soft_time_limit),
        ("hard_time_limit", cast.config.task_time_limit),
    ):
        if told.wanted.get("reason") == kind and limit is None:
            setting = f"task_{kind.removeprefix('hard_')}"
            told.refuse("reason", f"found {kind}, but config sets no {setting}")
