"""Stand-ins for what Python's own modules offer, while a simulation is open: sleep, clocks, random ids.

Each function of ``time`` and ``uuid`` that a task may call is replaced by one that asks who calls: the
standard library, pytest and event loops go on in real time; everybody else is in the simulation. Names
bound before, by
``from time import sleep``, are found in all modules and replaced too, and given back on leaving.

Leans on ``sys._getframe`` and on ``__defaults__`` of functions. What it replaces is checked to be there.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.errors import SimulationError

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.randomness import Randomness

__all__ = [
    "Patches",
    "Sleeper",
    "note_reading",
    "real_join",
    "real_monotonic",
    "real_sleep",
    "replaced",
    "substitute",
    "unfrozen",
]


class Sleeper(Protocol):
    """Whose time and chance the stand-ins take: a simulation, or a stage of event loops."""

    random: Randomness

    def monotonic(self) -> float:
        """Return the virtual monotonic clock, in seconds."""

    def sleep(self, seconds: float) -> None:
        """Do nothing for ``seconds`` of virtual time; others go on."""

    def read(self) -> None:
        """Somebody is about to read a clock: no two readings need be the same."""


def unfrozen(found: Any) -> Any:
    """Return the function that ``found`` stands for, where freezegun has put it; ``found`` elsewhere."""
    freezegun: Any = sys.modules.get("freezegun.api")
    if freezegun is None or getattr(found, "__module__", None) != freezegun.__name__:
        return found
    return getattr(freezegun, found.__name__.replace("fake_", "real_", 1), found)


real_sleep = time.sleep
real_join: Any = threading.Thread.join
real_monotonic: Callable[[], float] = unfrozen(time.monotonic)
_real_perf_counter: Callable[[], float] = unfrozen(time.perf_counter)
_real_monotonic_ns: Callable[[], int] = unfrozen(time.monotonic_ns)
_real_perf_counter_ns: Callable[[], int] = unfrozen(time.perf_counter_ns)
_real_uuid4 = uuid.uuid4

# They measure and wait for the machine's sake, not for a task's.
_REAL_TIME = frozenset(
    {
        *sys.stdlib_module_names,
        "_pytest", "anyio", "coverage", "debugpy", "execnet", "faulthandler", "freezegun", "greenlet",
        "hypothesis", "pluggy", "pydevd", "pytest", "pytest_asyncio", "pytest_rerunfailures",
        "pytest_taskservice", "pytest_timeout", "sniffio", "time_machine", "trio", "uvicorn", "uvloop",
        "xdist",
    }
)  # fmt: skip
# These call a function that somebody else has handed to them.
_ON_BEHALF = frozenset(
    {
        "anyio._backends._asyncio", "anyio._backends._trio", "concurrent.futures.thread", "contextlib",
        "functools", "pytest_taskservice.drivers.synthetic",
        "pytest_taskservice.drivers.workflow_synthetic", "pytest_taskservice.simulator.loops.flights",
        "pytest_taskservice.simulator.standstill", "threading", "trio._threads", "unittest.mock",
    }
)  # fmt: skip

# It draws an id for the whole process when it is first asked: whoever is first would draw one more than
# others.
_ONCE = frozenset({"kombu.common"})


class _Reader(Enum):
    """Who reads a clock: what has real time, somebody in the simulation, or who acts for somebody."""

    REAL = auto()
    COUNTS = auto()
    AGENT = auto()


_AGENTS = frozenset({"amqp", "billiard", "celery", "fakeredis", "kombu", "redis", "taskservice", "vine"})
_QUICK = "pytest_taskservice.simulator.celery.quick_"
"""Where shortcuts for their functions are."""

_open: Sleeper | None = None
_exempt: dict[str, bool] = {}
_readers: dict[str, _Reader] = {}


def _sleep(seconds: float, /) -> None:
    simulation = _open
    if simulation is None or _caller_is_real():
        return real_sleep(seconds)
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    return simulation.sleep(seconds)


def _monotonic() -> float:
    simulation = _open
    if simulation is None:
        return real_monotonic()
    # As _caller_is_real() finds out; this is asked at every turn.
    frame = sys._getframe(1)  # noqa: SLF001 - as below
    real = _exempt.get(frame.f_globals.get("__name__", ""))
    if real is None:
        real = _caller_is_real()
    if real:
        return real_monotonic()
    _note_own(frame)
    return simulation.monotonic()


def _perf_counter() -> float:
    simulation = _open
    if simulation is None or _caller_is_real():
        return _real_perf_counter()
    _note_own(sys._getframe(1))  # noqa: SLF001 - as below
    return simulation.monotonic()


def _monotonic_ns() -> int:
    simulation = _open
    if simulation is None or _caller_is_real():
        return _real_monotonic_ns()
    _note_own(sys._getframe(1))  # noqa: SLF001 - as below
    return round(simulation.monotonic() * 1e9)


def _perf_counter_ns() -> int:
    simulation = _open
    if simulation is None or _caller_is_real():
        return _real_perf_counter_ns()
    _note_own(sys._getframe(1))  # noqa: SLF001 - as below
    return round(simulation.monotonic() * 1e9)


def _uuid4() -> uuid.UUID:
    simulation = _open
    if simulation is None or _caller_is_real():
        return _real_uuid4()
    return simulation.random.uuid4(sys._getframe(1).f_globals.get("__name__", ""))  # noqa: SLF001 - as below


def _caller_is_real() -> bool:
    name = sys._getframe(2).f_globals.get("__name__", "")  # noqa: SLF001 - the one way to ask who calls
    found = _exempt.get(name)
    if found is None:
        root = name.partition(".")[0]
        found = _exempt[name] = name in _ONCE or (name not in _ON_BEHALF and root in _REAL_TIME)
    return found


def note_reading(frame: FrameType) -> None:
    """Tell the simulation of a reading of the wall clock, if it is one for a test or for what it tests.

    Celery's own are for whoever has called it. None is one of a module that is imported just now, which
    happens once in a process.
    """
    reader: FrameType | None = frame
    while reader is not None:
        # Each task's result is dated, from some ten frames deep.
        name = reader.f_globals.get("__name__", "")
        found = _readers.get(name) or _reader(name)
        if found is not _Reader.AGENT:
            _tell(found, reader)
            return
        reader = reader.f_back


def _note_own(frame: FrameType) -> None:
    """Tell of a reading of a clock that Celery reads all the time, of which its own are not told."""
    name = frame.f_globals.get("__name__", "")
    _tell(_readers.get(name) or _reader(name), frame)


def _tell(found: _Reader, frame: FrameType) -> None:
    if found is _Reader.COUNTS and _open is not None and frame.f_code.co_name != "<module>":
        _open.read()


def _reader(name: str) -> _Reader:
    root = name.partition(".")[0]
    found = _Reader.REAL if root in _REAL_TIME else _Reader.COUNTS
    if root in _AGENTS or name.startswith(_QUICK):
        found = _Reader.AGENT
    _readers[name] = found
    return found


_SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    real_sleep: _sleep,
    real_monotonic: _monotonic,
    _real_perf_counter: _perf_counter,
    _real_monotonic_ns: _monotonic_ns,
    _real_perf_counter_ns: _perf_counter_ns,
    _real_uuid4: _uuid4,
}
_ORIGINALS = {stand_in: original for original, stand_in in _SUBSTITUTES.items()}


def substitute(original: Any) -> Any:
    """Return what stands for ``original`` in a simulation; a stand-in stands for itself."""
    return _SUBSTITUTES[_original(original)]


def _original(found: Any) -> Any:
    """Return what ``found`` stands for, if it is a stand-in of ours or of freezegun's."""
    genuine = unfrozen(found)
    return _ORIGINALS.get(genuine, genuine)


class Patches:
    """Changes to objects, undone in reverse."""

    def __init__(self) -> None:
        self._undo: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute that must be there."""
        before = owner.__dict__.get(name, _ABSENT)
        if before is not _ABSENT:
            self._undo.append((setattr, (owner, name, before)))
        elif hasattr(owner, name):
            self._undo.append((delattr, (owner, name)))
        else:
            raise SimulationError(f"{owner!r} has no {name!r}: this version is not one the simulator knows")
        setattr(owner, name, value)

    def methods(self, owner: type, made: Mapping[str, Any]) -> None:
        """Set several attributes of a class, with nothing looked up on it in between.

        CPython 3.13 gives a class a new version whenever it is looked at after a change, and none after a
        thousand: from then on it is slower, for the rest of the process.
        """
        for name, value in made.items():
            self.set(owner, name, value)

    def item(self, owner: dict[Any, Any], key: Any, value: Any) -> None:
        """Set a key of a dict."""
        before = owner.get(key, _ABSENT)
        undo = (owner.pop, (key, None)) if before is _ABSENT else (owner.__setitem__, (key, before))
        self._undo.append(undo)
        owner[key] = value

    def default(self, function: Any, original: Any, value: Any) -> None:
        """Replace ``original`` among the defaults of ``function``, where it must be."""
        # Who was first imported while a simulation was open, or time frozen, has bound a stand-in for ever.
        before = tuple(map(_original, function.__defaults__ or ()))
        original = _original(original)
        if original not in before:
            raise SimulationError(f"{function.__qualname__}: no default {original!r} any more")
        function.__defaults__ = tuple(value if found is original else found for found in before)
        self._undo.append((setattr, (function, "__defaults__", before)))

    def on_undo(self, action: Callable[..., Any], *args: Any) -> None:
        """Do something more on leaving."""
        self._undo.append((action, args))

    def undo(self) -> None:
        """Put everything back."""
        changes = self._undo
        while changes:
            action, args = changes.pop()
            action(*args)


_ABSENT = object()


class _Sites:
    """Where modules hold one of the replaced functions under a name of their own."""

    def __init__(self) -> None:
        # Named, not looked for: who freezes time has other functions there just now.
        self._seen = {"time", "uuid"}
        self._newest: tuple[int, str] | None = None
        self._found: list[tuple[dict[str, Any], str, Any]] = [
            (vars(uuid if original is _real_uuid4 else time), original.__name__, original)
            for original in _SUBSTITUTES
        ]

    def enter(self) -> None:
        self._look()
        for namespace, name, original in self._found:
            if namespace.get(name) is original:
                namespace[name] = _SUBSTITUTES[original]

    def leave(self) -> None:
        # What was imported meanwhile has bound the stand-ins.
        self._look()
        for namespace, name, original in self._found:
            if namespace.get(name) is _SUBSTITUTES[original]:
                namespace[name] = original

    def _look(self) -> None:
        # Twice in every simulation, and nearly always in vain.
        newest = len(sys.modules), next(reversed(sys.modules))
        if newest == self._newest:
            return
        self._newest = newest
        for key in sys.modules.keys() - self._seen:
            self._seen.add(key)
            module = sys.modules.get(key)
            root = key.partition(".")[0]
            if isinstance(module, ModuleType) and root not in _REAL_TIME:
                self._look_into(module)

    def _look_into(self, module: ModuleType) -> None:
        namespace = vars(module)
        for name, value in list(namespace.items()):
            # Hashing somebody's object may run their code: only functions are looked up.
            if type(value) not in _FUNCTIONS:
                continue
            original = _ORIGINALS.get(value, value if value in _SUBSTITUTES else None)
            if original is not None:
                self._found.append((namespace, name, original))


_FUNCTIONS = (type(real_sleep), type(_sleep))
_sites = _Sites()


@contextmanager
def replaced(simulation: Sleeper) -> Iterator[None]:
    """Put the stand-ins of ``simulation`` in place; one simulation at a time."""
    global _open  # noqa: PLW0603 - the functions of a module have no object to ask
    if _open is not None:
        raise SimulationError(
            "a simulation is open already: a test is in one, by taskservice_app and its kin or by Celery's "
            "own fixtures, and not by both"
        )
    chance = random.getstate()
    random.seed(simulation.random.stream("module random").random())
    _sites.enter()
    _open = simulation
    try:
        yield
    finally:
        _open = None
        _sites.leave()
        random.setstate(chance)
