"""Canvas: how several runs hang together, written down before anything runs.

Pure by design: values and the functions that build them, the same for every back end. What they
mean is told by `TaskBackend.launch_canvas`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Unpack

from taskservice.errors import ConfigurationError
from taskservice.submission import AT_ONCE, LaunchOptions

if TYPE_CHECKING:
    from taskservice.submission import LaunchKeywords

__all__ = [
    "Canvas",
    "Chain",
    "Chord",
    "Group",
    "Map",
    "Signature",
    "chain",
    "chord",
    "group",
    "signature",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """One call that is still to be made.

    In a chain or as a chord's body the value that came before goes in front of ``args``; not so if
    it is ``immutable``. Times of ``options`` count from when its turn comes.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    immutable: bool = False
    options: LaunchOptions = AT_ONCE

    def __post_init__(self) -> None:
        _require_function(self.func)
        object.__setattr__(self, "args", tuple(self.args))

    def set(self, **options: Unpack[LaunchKeywords]) -> Signature:
        """Return the same call with these options in place of those it has; see `LaunchOptions`."""
        return replace(self, options=LaunchOptions(**options))


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """One run that calls the function with each of ``items``, one after another; its value is a list.

    With ``star`` an item is a list of positional arguments. It takes no value from what came before,
    and the first item that fails fails it: a retry policy of the function has no effect in here.
    """

    func: Callable[..., Any]
    items: tuple[Any, ...]
    star: bool = False
    options: LaunchOptions = AT_ONCE

    def __post_init__(self) -> None:
        _require_function(self.func)
        object.__setattr__(self, "items", tuple(self.items))

    def set(self, **options: Unpack[LaunchKeywords]) -> Map:
        """See `Signature.set`."""
        return replace(self, options=LaunchOptions(**options))


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps one after another; each gets the value of the one before. `chain` makes it."""

    steps: tuple[Canvas, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", _checked(self.steps, "chain"))


@dataclass(frozen=True, slots=True)
class Group:
    """Members side by side; the value is the list of theirs. `group` makes it."""

    members: tuple[Canvas, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", _checked(self.members, "group"))


@dataclass(frozen=True, slots=True)
class Chord:
    """A group, and a body that gets the list of its values. `chord` makes it."""

    header: Group
    body: Canvas

    def __post_init__(self) -> None:
        if not isinstance(self.header, Group):
            raise ConfigurationError(f"chord.header is {_kind(self.header)}; give a group or a list of steps")

        _checked((self.body,), "chord.body")


Canvas = Signature | Map | Chain | Group | Chord
"""What `TaskService.launch_canvas` takes."""
_KINDS: Final = (Signature, Map, Chain, Group, Chord)


def signature(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Signature:
    """Return the call ``func(*args, **kwargs)``, for Celery tasks and plain functions.

    A `TaskDefinition` has ``.s()`` and ``.si()`` for it.
    """
    return Signature(func=func, args=args, kwargs=kwargs)


def chain(*steps: Canvas | Iterable[Canvas]) -> Chain:
    """Return ``steps``, or one iterable of them, one after another."""
    return Chain(_spread(steps, "chain"))


def group(*members: Canvas | Iterable[Canvas]) -> Group:
    """Return ``members``, or one iterable of them, side by side."""
    return Group(_spread(members, "group"))


def chord(header: Group | Iterable[Canvas], body: Canvas) -> Chord:
    """Return ``body``, to be called with the list of values of ``header``."""
    return Chord(header if isinstance(header, Group) else Group(_spread((header,), "chord.header")), body)


def _spread(given: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    if len(given) != 1 or isinstance(given[0], (*_KINDS, Mapping, str)):
        return given
    if not isinstance(given[0], Iterable):
        return given

    only = given[0]
    found = tuple(only)
    for index, each in enumerate(found):
        if each is only:
            raise ConfigurationError(f"{place}[{index}] is the list it stands in: a cycle never ends")
    return found


def _checked(given: Iterable[Any], place: str) -> tuple[Canvas, ...]:
    found = tuple(given)
    if not found:
        raise ConfigurationError(f"give {place} at least one step; it is empty")

    for index, each in enumerate(found):
        if not isinstance(each, _KINDS):
            where = place if place == "chord.body" else f"{place}[{index}]"
            raise ConfigurationError(f"{where} is {_kind(each)}; {_advice(each)}")
    return _flat(found, Chain if place == "chain" else Group if place == "group" else None)


def _flat(found: tuple[Any, ...], kind: type[Chain | Group] | None) -> tuple[Any, ...]:
    # A chain in a chain, a group in a group: no deeper for it, and the same to everybody.
    if kind is None or not any(isinstance(each, kind) for each in found):
        return found

    inner = fields(kind)[0].name
    return tuple(
        part for each in found for part in (getattr(each, inner) if isinstance(each, kind) else (each,))
    )


def _advice(found: object) -> str:
    if isinstance(found, Mapping):
        return "build all of it with taskservice's chain, group and chord, or all of it with Celery's"
    if isinstance(found, list | tuple | set):
        return "make its steps a chain or a group: a list in a list is neither, and one in itself never ends"
    if callable(found):
        return "give a call of it: .s(...) of a task, or taskservice.signature(func, ...)"
    return "give what .s(), .map(), signature(), chain(), group() or chord() return"


def _require_function(func: object) -> None:
    if not callable(func) or isinstance(func, Mapping):
        raise ConfigurationError(f"a signature of {_kind(func)}: give a task or a function")


def _kind(value: object) -> str:
    named = type(value)
    return named.__name__ if named.__module__ == "builtins" else f"{named.__module__}.{named.__name__}"
