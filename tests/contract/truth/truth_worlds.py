"""Playing cases in a world, and what is seen of each: nothing of it is chance, so worlds can be compared."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_taskservice.history import EventKind
from tests.contract.truth import truth_tasks
from tests.contract.truth.truth_cases import orders, parallels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_taskservice.drivers.base import WorldDriver
    from pytest_taskservice.history import Event
    from tests.contract.truth.truth_cases import Case

__all__ = ["Seen", "differences", "play"]

WITHIN = 60.0

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_JOB = re.compile(r"Job: \d+|0x[0-9a-f]+")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.+]+")


@dataclass(kw_only=True)
class Seen:
    """One case as it was in one world."""

    returned: Any = None
    bodies: dict[str, list[Any]] = field(default_factory=dict)
    """What each run's bodies wrote down, by run."""
    metas: dict[str, Any] = field(default_factory=dict)
    histories: dict[str, list[Any]] = field(default_factory=dict)
    disorder: list[str] = field(default_factory=list)
    """What came in another order than the case demands."""


def play(driver: WorldDriver, cases: Sequence[Case]) -> dict[str, Seen]:
    """Send all cases, wait for their end, and return what was seen, by name."""
    app = truth_tasks.app
    driver.begin(app, {})
    try:
        truth_tasks.store().delete(truth_tasks.JOURNAL)
        returned = {case.name: _send(driver, case) for case in cases}
        driver.settle(timeout=WITHIN)
        entries = [json.loads(line) for line in truth_tasks.store().lrange(truth_tasks.JOURNAL, 0, -1)]
        events = list(driver.log())
        names = {case.name for case in cases}
        owners = _owners(names, entries, events)
        found = {case.name: Seen(returned=returned[case.name]) for case in cases}
        _add_bodies(found, owners, entries)
        _add_histories(found, owners, events)
        for run, (owner, _) in owners.items():
            key = run if _is_ours(run, names) else f"{owner} (unnamed)"
            found[owner].metas.setdefault(key, []).append(_meta(app, run))
        for case in cases:
            found[case.name] = _without_last(case, found[case.name])
            mine = [event for event in events if owners.get(event.run, ("",))[0] == case.name]
            found[case.name].disorder = [*_disorder(case, entries), *_early(mine)]
            for metas in found[case.name].metas.values():
                metas.sort(key=repr)
        return found
    finally:
        driver.reset()


def differences(real: Mapping[str, Seen], other: Mapping[str, Seen]) -> dict[str, list[str]]:
    """Return, for each case that is not the same in both worlds, what differs."""
    found: dict[str, list[str]] = {}
    for name, seen in real.items():
        lines = [*_differ("returned", seen.returned, other[name].returned)]
        for what in ("bodies", "metas", "histories"):
            lines += _differ(what, getattr(seen, what), getattr(other[name], what))
        lines += [f"order, in the other world: {line}" for line in other[name].disorder]
        lines += [f"order, in the real world: {line}" for line in seen.disorder]
        if lines:
            found[name] = lines
    return found


def _differ(what: str, left: Any, right: Any) -> Iterable[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in dict.fromkeys([*left, *right]):
            if key not in left or key not in right:
                side = "only real" if key in left else "only other"
                yield f"{what}.{key}: {side}: {left.get(key, right.get(key))!r}"
            else:
                yield from _differ(f"{what}.{key}", left[key], right[key])
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (one, two) in enumerate(zip(left, right, strict=True)):
            yield from _differ(f"{what}[{number}]", one, two)
    elif left != right:
        yield f"{what}: real {left!r}\n{'':>12}other {right!r}"


def _send(driver: WorldDriver, case: Case) -> Any:
    app = truth_tasks.app
    if case.revoked:
        driver.revoke(case.name)
    try:
        result: Any = case.signature().apply_async(**case.options)
    except Exception as error:  # noqa: BLE001 - what cannot be sent is a case as well
        return f"{type(error).__name__}: {error}"
    assert app is not None
    return _plain(result.as_tuple())


def _is_ours(run: str, names: set[str]) -> bool:
    return run.partition(".")[0] in names


def _owners(names: set[str], entries: list[Any], events: list[Event]) -> dict[str, tuple[str, str]]:
    """Return case and task of each run; a run that Celery has added belongs to the case of its root."""
    roots: dict[str, str] = {}
    tasks: dict[str, str] = {}
    app = truth_tasks.app
    for entry in entries:
        roots.setdefault(entry["run"], entry.get("root") or "")
        tasks.setdefault(entry["run"], entry["task"])
    for event in events:
        tasks.setdefault(event.run, event.task)
    found = {}
    for run, task in tasks.items():
        if _is_ours(run, names):
            found[run] = (run.partition(".")[0], task)
            continue
        owner = roots.get(run) or str(app.backend.get_task_meta(run).get("parent_id") or "")
        owner = _climb(app, owner).partition(".")[0]
        if owner in names:
            found[run] = (owner, task)
    for name in names:
        found.setdefault(name, (name, ""))
    return found


def _climb(app: Any, run: str) -> str:
    while _UUID.fullmatch(run):
        run = str(app.backend.get_task_meta(run).get("parent_id") or "")
    return run


def _add_bodies(found: dict[str, Seen], owners: dict[str, tuple[str, str]], entries: list[Any]) -> None:
    for entry in entries:
        owner, _ = owners.get(entry["run"], ("", ""))
        if owner:
            key = _plain(entry["run"])
            found[owner].bodies.setdefault(key, []).append(_plain(entry))
    for seen in found.values():
        for key, bodies in seen.bodies.items():
            if _UUID.sub("<id>", key) == "<id>":
                bodies.sort(key=repr)


def _add_histories(found: dict[str, Seen], owners: dict[str, tuple[str, str]], events: list[Event]) -> None:
    runs: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        runs[event.run].append(event)
    for run, mine in runs.items():
        owner, _ = owners.get(run, ("", ""))
        if not owner:
            continue
        # A child sends the next attempt before its parent hears that there is to be one.
        ordered = sorted(mine, key=lambda event: event.attempt)
        found[owner].histories.setdefault(_plain(run), []).append([_event(event) for event in ordered])
    for seen in found.values():
        for histories in seen.histories.values():
            histories.sort(key=repr)


def _event(event: Event) -> list[Any]:
    detail = {key: "<number>" if key == "runtime" else _plain(value) for key, value in event.detail.items()}
    return [str(event.kind), event.attempt, event.task, bool(event.worker), detail]


def _meta(app: Any, run: str) -> Any:
    meta = dict(app.backend.get_task_meta(run, cache=False))
    result = meta.get("result")
    if isinstance(result, BaseException):
        meta["result"] = [type(result).__name__, type(result).__module__, str(result), repr(result.args)]
    if meta["status"] == "STARTED":
        meta["result"] = sorted(result or ())
    meta["date_done"] = bool(meta.get("date_done"))
    meta["worker"] = bool(meta.get("worker"))
    meta["traceback"] = _frames(meta.get("traceback"))
    return _plain(meta)


def _frames(text: str | None) -> Any:
    """Return the frames of the app's own, and the last line."""
    if not text:
        return text
    lines = text.splitlines()
    own = [line.rpartition(" in ")[2] for line in lines if "truth_tasks.py" in line]
    return [*own, lines[-1]]


def _without_last(case: Case, seen: Seen) -> Seen:
    """Forget which of several that ran side by side was the last, and so the parent of what comes after."""
    prefixes = parallels(case.tree, case.name)

    def forget(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: forget(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [forget(item, key) for item in value]
        if isinstance(value, str) and key in ("parent", "parent_id", "root", "root_id"):
            return next((f"{prefix}.*" for prefix in prefixes if value.startswith(f"{prefix}.")), value)
        return value

    return Seen(
        returned=seen.returned,
        bodies=forget(seen.bodies),
        metas=forget(seen.metas),
        histories=forget(seen.histories),
    )


def _disorder(case: Case, entries: list[Any]) -> list[str]:
    found = []
    for before, after in orders(case.tree, case.name):
        last = [number for number, entry in enumerate(entries) if _under(entry, before)]
        first = [number for number, entry in enumerate(entries) if _under(entry, after)]
        if last and first and max(last) > min(first):
            found.append(f"{after} began before {before} was over")
    return found


def _early(events: Sequence[Event]) -> Iterable[str]:
    """Yield what was started before it was due, but for the coarseness of a machine's clocks."""
    due = {
        (event.run, event.attempt): datetime.fromisoformat(str(event.detail["eta"])).timestamp()
        for event in events
        if event.kind is EventKind.RECEIVED and "eta" in event.detail
    }
    for event in events:
        early = due.get((event.run, event.attempt), 0.0) - event.at
        if event.kind is EventKind.STARTED and early > 0.02:
            yield f"{event.run} started {early:.3f} s before it was due"


def _under(entry: Any, path: str) -> bool:
    run = entry["run"]
    # What a body has sent by itself is nobody's to wait for.
    below = run == path or (run.startswith(f"{path}.") and ".s" not in run.removeprefix(path))
    return entry["event"] in ("ran", "soft") and below


def _plain(value: Any) -> Any:
    """Return ``value`` without chance: ids that were drawn, addresses, instants."""
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return _INSTANT.sub("<instant>", _JOB.sub("<number>", _UUID.sub("<id>", value)))
    return value if isinstance(value, (int, float, bool, type(None))) else repr(value)
