"""What tasks change in the memory of their own process, which a real worker's test does not see.

Reads the source of a task's function, and of those of its module that it calls. What a library does for it
is not heard of.
"""

from __future__ import annotations

import ast
import inspect
import os
import queue
import textwrap
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["changed_by"]

_CHANGES: tuple[tuple[tuple[type, ...], frozenset[str]], ...] = (
    ((list, deque, bytearray), frozenset({"append", "appendleft", "clear", "extend", "insert", "pop"})),
    ((dict, type(os.environ)), frozenset({"clear", "pop", "popitem", "setdefault", "update"})),
    ((set,), frozenset({"add", "clear", "discard", "pop", "remove", "update"})),
    ((threading.Event,), frozenset({"clear", "set"})),
    ((queue.Queue, queue.SimpleQueue), frozenset({"put", "put_nowait"})),
)
_CONTAINERS = (list, deque, bytearray, dict, type(os.environ))
_NOTHING = object()


def changed_by(task: Any) -> list[str]:
    """Return the names of what ``task`` changes that outlives its run: globals, and what it closes over."""
    # Retries are wrapped around a bound method.
    first = _function(inspect.unwrap(_function(task.run)))
    waiting, seen, found = [first], set(), dict[str, None]()
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        body = _Body(function)
        found |= dict.fromkeys(body.changes())
        waiting += [one for one in body.calls() if getattr(one, "__module__", None) == first.__module__]
    return list(found)


class _Body:
    """One function's source, and what the names in it stand for."""

    def __init__(self, function: FunctionType) -> None:
        code = function.__code__
        self._module = function.__module__
        self._own = {*code.co_varnames, *code.co_cellvars}
        self._globals: Mapping[str, Any] = function.__globals__
        self._closed: Mapping[str, Any] = inspect.getclosurevars(function).nonlocals
        try:
            self._tree: ast.AST = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, SyntaxError, TypeError):
            self._tree = ast.Module([], [])

    def changes(self) -> Iterator[str]:
        """Yield the name of each thing that is changed."""
        declared = {
            name for node in ast.walk(self._tree) if isinstance(node, ast.Global) for name in node.names
        }
        for node in ast.walk(self._tree):
            context = getattr(node, "ctx", None)
            is_set = isinstance(context, ast.Store | ast.Del)
            if isinstance(node, ast.Name) and is_set and node.id in declared:
                yield f"{self._module}.{node.id}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found = self._value(node.func.value)
                if any(isinstance(found, kinds) and node.func.attr in names for kinds, names in _CHANGES):
                    yield self._name(node.func.value)
            elif isinstance(node, ast.Subscript) and is_set:
                if isinstance(self._value(node.value), _CONTAINERS):
                    yield self._name(node.value)
            elif isinstance(node, ast.Attribute) and is_set and _keeps(self._value(node.value)):
                yield self._name(node)

    def calls(self) -> Iterator[Any]:
        """Yield what is called by its name."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                yield self._value(node.func)

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            if node.id in self._own:
                return _NOTHING
            return self._closed.get(node.id, self._globals.get(node.id, _NOTHING))
        if isinstance(node, ast.Attribute):
            # Of modules and classes alone: to ask anything else may do something.
            holder = self._value(node.value)
            return (
                vars(holder).get(node.attr, _NOTHING) if isinstance(holder, ModuleType | type) else _NOTHING
            )
        return _NOTHING

    def _name(self, node: ast.expr) -> str:
        text = ast.unparse(node)
        root = text.partition(".")[0]
        if root in self._closed:
            return f"{text}, which it closes over"
        held = self._globals.get(root)
        return text if isinstance(held, ModuleType) else f"{self._module}.{text}"


def _function(found: Any) -> Any:
    return getattr(found, "__func__", found)


def _keeps(value: Any) -> bool:
    """Say whether an attribute that is set stays in this process: an object may send it elsewhere."""
    setter: Any = type(value).__setattr__
    return value is not _NOTHING and (isinstance(value, ModuleType | type) or setter is object.__setattr__)
