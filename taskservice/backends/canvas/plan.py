"""The plan of a canvas: every run with its id and checked arguments, in three shapes.

A chain is a series. A group is parallel. A chord is a series whose first step is parallel, and so is
a group that something follows in a chain. Series in series and parallel in parallel are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from sys import maxsize
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from taskservice.backends.calls import function_name, own_expires, prepare_arguments
from taskservice.canvas import Canvas, Chain, Chord, Group, Map, Signature
from taskservice.errors import ConfigurationError, LaunchOptionError, PayloadError, PayloadSizeError
from taskservice.payloads import PAYLOAD_LIMIT, wire_value
from taskservice.submission import LaunchOptions, plan_launch

if TYPE_CHECKING:
    from taskservice.backends.base import TaskFunction

__all__ = ["Parallel", "Plan", "Run", "Series", "Step", "placed", "plan_canvas"]

DEPTH: Final = 16
"""How deep a canvas may be. Celery holds a connection of its pool of ten for each header in a header."""
IN_A_ROW: Final = 30
"""How many groups may follow one another; each stands in the message of the one before."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """One run. ``items`` are those of a map, with ``star`` each a list of arguments.

    ``takes_previous`` says whether the value before it goes in front of ``args``.
    """

    id: str
    func: TaskFunction
    name: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    takes_previous: bool = False
    options: LaunchOptions
    items: list[Any] | None = None
    star: bool = False
    place: str

    def arguments(self, previous: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return what it is called with after ``previous``, which others may be given as well."""
        if not self.takes_previous:
            return self.args, self.kwargs

        # Each result was within the limit; a worker does not measure them together either.
        return [wire_value(previous, "argument 0", limit=maxsize), *self.args], self.kwargs


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Steps one after another; its value is that of the last."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Parallel:
    """Members side by side; its value is the list of theirs."""

    members: tuple[Step, ...]


Step = Run | Series | Parallel


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """A canvas, ready to be run; ``runs`` are in the order in which they were written."""

    id: str
    root: Step
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """What to call it in an error."""
        last = _last(self.root)
        one = len(self.runs) == 1 and isinstance(last, Run)
        return self.runs[0].name if one else f"canvas of {len(self.runs)} runs"

    @property
    def headers(self) -> int:
        """How many groups that something waits for stand in one another."""
        return _headers(self.root)


def plan_canvas(canvas: Canvas, *, limit: int = PAYLOAD_LIMIT, ids: Mapping[int, str] | None = None) -> Plan:
    """Return the plan of ``canvas``, or the error about the first place that is wrong.

    ``limit`` is how many bytes the arguments of one run may have. ``ids`` are run ids by ``id()`` of the
    signature or map; other runs get new ones.
    """
    planner = _Planner(limit, ids or {})
    root = planner.step(canvas, _root_place(canvas), previous=False)
    last = _last(root)
    return Plan(id=last.id if isinstance(last, Run) else str(uuid4()), root=root, runs=tuple(planner.runs))


class _Planner:
    def __init__(self, limit: int, ids: Mapping[int, str]) -> None:
        self.runs: list[Run] = []
        self._limit = limit
        self._ids = ids
        self._above: list[object] = []

    def step(self, canvas: Canvas, place: str, *, previous: bool) -> Step:
        """Return what ``canvas`` comes to where a value comes before it, or none does."""
        if isinstance(canvas, Signature | Map):
            run = (
                self._call(canvas, place, previous)
                if isinstance(canvas, Signature)
                else self._map(canvas, place)
            )
            self.runs.append(run)
            return run

        self._descend(canvas, place)
        try:
            return self._composed(canvas, place, previous)
        finally:
            self._above.pop()

    def _descend(self, canvas: object, place: str) -> None:
        if any(each is canvas for each in self._above):
            raise ConfigurationError(
                f"{_short(place)} is the {type(canvas).__name__} it stands in: a cycle never ends"
            )
        if len(self._above) >= DEPTH:
            raise ConfigurationError(
                f"{_short(place)} is more than {DEPTH} levels deep; launch parts of it apart"
            )
        self._above.append(canvas)

    def _composed(self, canvas: Chain | Group | Chord, place: str, previous: bool) -> Step:
        if isinstance(canvas, Group):
            return Parallel(tuple(_flat(Parallel, self._members(canvas, place, previous))))
        if isinstance(canvas, Chord):
            header = self.step(canvas.header, f"{place}.header", previous=previous)
            body = self.step(canvas.body, f"{place}.body{_kind(canvas.body)}", previous=True)
            return _series([header, body], place)

        steps: list[Step] = []
        for index, each in enumerate(canvas.steps):
            where = f"{place}[{index}]{_kind(each)}"
            steps.append(self.step(each, where, previous=previous or index > 0))
        return _series(steps, place)

    def _members(self, group: Group, place: str, previous: bool) -> Iterator[Step]:
        for index, each in enumerate(group.members):
            yield self.step(each, f"{place}[{index}]{_kind(each)}", previous=previous)

    def _call(self, call: Signature, place: str, previous: bool) -> Run:
        takes_previous = previous and not call.immutable
        with placed(place):
            _check_options(call.func, call.options)
            # None stands for a value that nobody knows yet.
            ahead = (None,) if takes_previous else ()
            args, kwargs = prepare_arguments(call.func, (*ahead, *call.args), call.kwargs, limit=self._limit)
        return Run(
            id=self._ids.get(id(call)) or str(uuid4()),
            func=call.func,
            name=function_name(call.func),
            args=args[len(ahead) :],
            kwargs=kwargs,
            takes_previous=takes_previous,
            options=call.options,
            place=place,
        )

    def _map(self, call: Map, place: str) -> Run:
        with placed(place):
            _check_options(call.func, call.options)
            _refuse_limits(call.func)
        items: list[Any] = []
        for index, item in enumerate(call.items):
            with placed(f"{place}.items[{index}]"):
                items.append(_prepare_item(call, item, self._limit))
        with placed(place):
            wire_value(items, "items", limit=self._limit)
        return Run(
            id=self._ids.get(id(call)) or str(uuid4()),
            func=call.func,
            name=function_name(call.func),
            options=call.options,
            items=items,
            star=call.star,
            place=place,
        )


def _prepare_item(call: Map, item: Any, limit: int) -> Any:
    if not call.star:
        return prepare_arguments(call.func, (item,), {}, limit=limit)[0][0]
    if not isinstance(item, list | tuple):
        raise TypeError(f"starmap takes lists of positional arguments, got {type(item).__name__}")

    return prepare_arguments(call.func, item, {}, limit=limit)[0]


def _check_options(func: TaskFunction, options: LaunchOptions) -> None:
    if options.idempotency_key is not None or getattr(func, "idempotency_key", None) is not None:
        raise LaunchOptionError(
            "idempotency_key",
            "a run of a canvas is always started, for others wait for it: launch this one by itself",
        )
    plan_launch(options, expires=own_expires(func))


def _refuse_limits(func: TaskFunction) -> None:
    for option in ("soft_time_limit", "time_limit"):
        if (value := getattr(func, option, None)) is not None:
            raise LaunchOptionError(
                option, f"{value:g} s hold for one call and a map makes many in one run: use a group"
            )


def _series(parts: list[Step], place: str) -> Step:
    steps = tuple(_flat(Series, parts))
    in_a_row = longest = 0
    for step in steps:
        in_a_row = in_a_row + 1 if isinstance(step, Parallel) else 0
        longest = max(longest, in_a_row)
    if longest > IN_A_ROW:
        raise ConfigurationError(
            f"{_short(place)} has {longest} groups in a row and {IN_A_ROW} is the most: "
            "each is the body of the one before, all in one message"
        )
    return steps[0] if len(steps) == 1 else Series(steps)


def _flat(kind: type[Series | Parallel], parts: list[Step] | Iterator[Step]) -> Iterator[Step]:
    for part in parts:
        if not isinstance(part, kind):
            yield part
        elif isinstance(part, Series):
            yield from part.steps
        elif isinstance(part, Parallel):
            yield from part.members


def _last(step: Step) -> Run | Parallel:
    while isinstance(step, Series):
        step = step.steps[-1]
    return step


def _headers(step: Step, *, collected: bool = False) -> int:
    if isinstance(step, Run):
        return 0
    if isinstance(step, Parallel):
        return collected + max(_headers(each, collected=collected) for each in step.members)

    *before, last = step.steps
    inner = [_headers(each, collected=isinstance(each, Parallel)) for each in before]
    return max([*inner, _headers(last, collected=collected)])


def _root_place(canvas: object) -> str:
    return _kind(canvas).removeprefix(".")


def _kind(canvas: object) -> str:
    return "" if isinstance(canvas, Signature | Map) else f".{type(canvas).__name__.lower()}"


def _short(place: str) -> str:
    return place if len(place) <= 80 else f"{place[:77]}..."


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Have errors name the place they are about; a canvas of one call has none."""
    if not place:
        yield
        return

    try:
        yield
    except PayloadError as error:
        raise PayloadError(f"{place}: {error.where}", error.type_name) from None
    except PayloadSizeError as error:
        raise PayloadSizeError(f"{place}: {error.where}", error.limit) from None
    except LaunchOptionError as error:
        raise LaunchOptionError(error.option, f"in {place}: {error.problem}") from None
    except TypeError as error:
        raise TypeError(f"{place}: {error}") from None
