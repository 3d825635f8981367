"""One play of a scenario, as reports need it: what was told, where, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_taskservice.scenario.engine import Verdict
    from pytest_taskservice.scenario.model import Scenario

__all__ = ["Play"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Play:
    """A scenario, its verdict in a world, and the command ``replay`` that brings the same again.

    ``options`` are the choices that the play depends on, by the name of their flag. ``lines`` are those of
    the file, to quote from, and ``record`` is where the whole of it is kept; both may be empty.
    """

    scenario: Scenario
    verdict: Verdict
    backend: str
    world: str
    replay: str
    seed: int | None = None
    digest: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    record: str = ""
