"""Reading ``expect`` of a document, and refusing what no run could meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario import fields
from pytest_taskservice.scenario.acts import Launch, Step
from pytest_taskservice.scenario.model import REASONS, STATUSES, Config, Expectation, Property, Task
from pytest_taskservice.scenario.nodes import Entry, Node, Table, wrong
from pytest_taskservice.scenario.story import Moment, moments
from pytest_taskservice.scenario.words import format_duration, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["read_claims"]

_LATER_PROPERTIES = {"sometimes": "properties over many seeds"}
_LATER_MATCHERS = {
    "deliveries": "deliveries",
    "stored_keys": "stored keys",
    "all_occupied": "slots of workers",
}
_INSTANT = {Property.EVENTUALLY: "within", Property.AT: "time"}
_MATCHERS: Mapping[str, Callable[[Node], Any]] = {
    "status": lambda node: fields.word(node, "status", STATUSES),
    "result": fields.plain,
    "error": lambda node: fields.text(node, "error", lines=True),
    "reason": lambda node: fields.word(node, "reason", REASONS),
    "attempts": lambda node: fields.integer(node, "attempts", 1, 1000),
    "events": lambda node: [
        fields.word(item, "event", tuple(EventKind)) for item in fields.items(node, "events")
    ],
}
_OF_A_FAILURE = ("error", "reason")


def read_claims(
    node: Node, steps: tuple[Step, ...], tasks: Mapping[str, Task], config: Config
) -> tuple[Expectation, ...]:
    """Return the expectations in the order of the file."""
    table = fields.table(node, "expect")
    fields.known_keys(table, "expect", tuple(Property), _LATER_PROPERTIES)
    if not table.entries:
        raise wrong(table.mark, "found an empty expect; a scenario that expects nothing proves nothing")

    launches = {
        moment.step.name: moment
        for moment in moments(steps, tasks, config)
        if isinstance(moment.step, Launch) and moment.step.name
    }
    found = []
    for key, entry in table.entries.items():
        for item in fields.items(entry.value, key):
            claim = _Claim(Property(key), fields.table(item, f"an item of {key}"))
            found.append(claim.read(launches))
            claim.check(launches[found[-1].of], tasks, config)
    return tuple(found)


class _Claim:
    """One item of ``expect`` while it is read."""

    def __init__(self, kind: Property, table: Table) -> None:
        self._kind = kind
        self._table = table
        self._instant: float | None = None
        self._wanted: dict[str, Any] = {}

    def read(self, launches: Mapping[str, Moment]) -> Expectation:
        """Return the expectation."""
        bound = _INSTANT.get(self._kind)
        keys = (*((bound,) if bound else ()), "of", *_MATCHERS)
        what = f"an item of {self._kind}"
        fields.known_keys(self._table, what, keys, _LATER_MATCHERS)
        for key in filter(None, (bound, "of")):
            if key not in self._table.entries:
                raise wrong(self._table.mark, f"{key} is missing in {what}; allowed: {', '.join(keys)}")

        for key, reader in _MATCHERS.items():
            if (node := self._table.get(key)) is not None:
                self._wanted[key] = reader(node)
        if not self._wanted:
            raise wrong(self._table.mark, f"{what} wants nothing; add one of: {', '.join(_MATCHERS)}")

        if bound:
            self._instant = fields.duration(self._table.entries[bound].value, bound)
        return Expectation(
            mark=self._table.mark,
            property=self._kind,
            of=self._run(launches),
            wanted=self._wanted,
            instant=self._instant,
        )

    def _run(self, launches: Mapping[str, Moment]) -> str:
        node = self._table.entries["of"].value
        name = fields.name(node, "of")
        if name not in launches:
            message = unknown("run", name, sorted(launches), where="(captured by no as: of a launch)")
            raise wrong(node.mark, message)
        return name

    def check(self, launch: Moment, tasks: Mapping[str, Task], config: Config) -> None:
        """Raise at what contradicts itself or the story."""
        self._check_itself()
        if self._kind is Property.ALWAYS:
            self._check_always()
        if self._kind is Property.NEVER:
            return

        self._check_instant(launch)
        step = launch.step
        task = tasks[step.task] if isinstance(step, Launch) else None
        if task and task.behaviour:
            self._check_behaviour(task, config)

    def _check_itself(self) -> None:
        status = self._wanted.get("status")
        for key in ("result", *_OF_A_FAILURE):
            fits = ("SUCCESS",) if key == "result" else ("FAILURE", "REVOKED")
            if key in self._wanted and status is not None and status not in fits:
                self._refuse(key, f"found {key} beside status {status}; a {status} run has none")
        if "result" in self._wanted:
            for key in _OF_A_FAILURE:
                if key in self._wanted:
                    self._refuse(key, f"found {key} beside result; a run has one or the other")

    def _check_always(self) -> None:
        for key in ("result", *_OF_A_FAILURE):
            if key in self._wanted:
                self._refuse(key, f"found {key} in always; no run has one from its first event on")
        status = self._wanted.get("status", "PENDING")
        if status != "PENDING":
            self._refuse("status", f"found {status} in always; every run is PENDING at first")

    def _check_instant(self, launch: Moment) -> None:
        if self._instant is None:
            return

        key = _INSTANT[self._kind]
        if self._instant < launch.begins:
            self._refuse(
                key,
                f"found {key}: {format_duration(self._instant)}, earlier than the launch at "
                f"{format_duration(launch.begins)}; no run could meet it",
            )
        if self._wanted.get("status") == "SUCCESS" and self._instant < launch.run_over:
            self._refuse(
                key,
                f"found {key}: {format_duration(self._instant)} for SUCCESS, but the run takes "
                f"until {format_duration(launch.run_over)} at least; no run could meet it",
            )

    def _check_behaviour(self, task: Task, config: Config) -> None:
        behaviour = task.behaviour
        attempts = self._wanted.get("attempts", 1)
        most = behaviour.retry.max_attempts if behaviour and behaviour.retry else 1
        if attempts > most:
            self._refuse("attempts", f"found {attempts} attempts; {task.name!r} makes {most} at most")

        for kind, limit in (
            ("soft_time_limit", config.task_soft_time_limit),
            ("hard_time_limit", config.task_time_limit),
        ):
            if self._wanted.get("reason") == kind and limit is None:
                setting = f"task_{kind.removeprefix('hard_')}"
                self._refuse("reason", f"found {kind}, but config sets no {setting}")

    def _refuse(self, key: str, message: str) -> None:
        entry: Entry = self._table.entries[key]
        raise wrong(entry.value.mark, message)
