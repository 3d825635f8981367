"""Shortcuts of a worker's start: the order of its boot steps is found once, not for each worker of a test."""

from __future__ import annotations

from typing import Any

from pytest_taskservice.simulator.celery.shortcuts import Shortcut

__all__ = ["STARTING_SHORTCUTS"]

_MOST = 64

_Steps = tuple[tuple[str, Any], ...]

# By the steps a blueprint begins with: those it ends with, what each requires, its graph and their order.
_orders: dict[tuple[type, _Steps], tuple[_Steps, list[list[Any]], Any, list[Any]]] = {}


def _ordered(original: Any) -> Any:
    def _finalize_steps(blueprint: Any, steps: dict[str, Any]) -> Any:
        known = type(blueprint), tuple(steps.items())
        if blueprint.steps is not steps:
            return original(blueprint, steps)
        found = _orders.get(known)
        if found is not None and found[1] == [list(step.requires) for _, step in found[0]]:
            steps.update(found[0])
            blueprint.graph = found[2]
            return list(found[3])
        order = list(original(blueprint, steps))
        if len(_orders) >= _MOST:
            # Steps of a test's own are not kept for ever.
            _orders.clear()
        requirements = [list(step.requires) for step in steps.values()]
        _orders[known] = tuple(steps.items()), requirements, blueprint.graph, order
        return list(order)

    return _finalize_steps


STARTING_SHORTCUTS = (
    Shortcut(
        place="celery.bootsteps:Blueprint._finalize_steps",
        make=_ordered,
        besides=("celery.bootsteps:Blueprint._firstpass", "celery.bootsteps:Blueprint._find_last"),
        texts=frozenset({"74091d5298f3", "90bdf67b436f"}),
    ),
)
