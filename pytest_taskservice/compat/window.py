"""A window on a worker's state: what tests that expect it embedded find in ``celery.worker.state``.

An embedded worker shares that module with the test, and tests look into it: which runs have succeeded, what
is revoked. While a worker process serves, these collections are looked up in it, and changed in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from pytest_taskservice.drivers.agent import VISIBLE_STATE
from pytest_taskservice.drivers.portable import decode, encode
from pytest_taskservice.errors import HarnessError

__all__ = ["StateWindows"]

Ask = Callable[..., Mapping[str, Any]]


class StateWindows:
    """Shows the state of the worker that started last, of those that still serve."""

    def __init__(self) -> None:
        self._askers: list[Ask] = []
        self._originals: dict[str, Any] = {}

    def open(self, ask: Ask) -> None:
        """Look into the worker that answers ``ask``."""
        self._askers.append(ask)
        self._show()

    def shut(self, ask: Ask) -> None:
        """Look into it no more."""
        self._askers.remove(ask)
        self._show()

    def _show(self) -> None:
        state: Any = import_module("celery.worker.state")
        if not self._originals:
            missing = [name for name in VISIBLE_STATE if not hasattr(state, name)]
            if missing:
                raise HarnessError(
                    f"this Celery's worker.state has no {', '.join(missing)}: taskservice knows 5.5 to 5.7"
                )
            self._originals = {name: getattr(state, name) for name in VISIBLE_STATE}
        for name, original in self._originals.items():
            setattr(state, name, _Window(name, self._askers[-1]) if self._askers else original)


class _Window:
    """One collection of another process; every use of it is a question to that process."""

    def __init__(self, name: str, ask: Ask) -> None:
        self._name = name
        self._ask = ask

    def __contains__(self, item: object) -> bool:
        return bool(self._call("__contains__", item))

    def __len__(self) -> int:
        return int(self._call("__len__"))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._call("__iter__"))

    def __getitem__(self, key: Any) -> Any:
        return self._call("__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._call("__setitem__", key, value)

    def __repr__(self) -> str:
        return f"<{self._name} of a worker process: {list(self)!r}>"

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(method, *args, **kwargs)

        return call

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        answer = self._ask("look", name=self._name, method=method, given=encode([list(args), kwargs]))
        return decode(answer["found"])
