"""Faults of a story in a simulation: what a file asks for, in the simulator's own words."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.base import Capability, CapabilityError
from pytest_taskservice.scenario.acts import CONNECTION_FAULTS, DELIVERY_FAULTS, FaultCall
from pytest_taskservice.simulator.celery.fault_values import WAYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.simulator.celery.faults import Injected
    from pytest_taskservice.simulator.celery.world import CeleryWorld

__all__ = ["SimulatedFaults", "kind_of"]

_UP_WITHIN = 600.0
# What a file calls it, and the simulator.
_WORDS = {"when": "at", "lasts": "for_"}
_DEFAULTS = {field.name: field.default for field in fields(FaultCall)}


def kind_of(fault: FaultCall) -> Capability:
    """Return what a world must be able to break for ``fault``."""
    if fault.kind in CONNECTION_FAULTS:
        return Capability.CONNECTION_FAULTS
    return Capability.DELIVERY_FAULTS if fault.kind in DELIVERY_FAULTS else Capability.PROCESS_FAULTS


class SimulatedInjection:
    """A fault of a story; what strikes is the simulator's own."""

    def __init__(self, injected: Injected) -> None:
        self._injected = injected

    @property
    def struck(self) -> int:
        """How often it has struck."""
        return self._injected.times

    @property
    def struck_at(self) -> tuple[float, ...]:
        """When it has struck, each time."""
        return tuple(self._injected.moments)

    def heal(self) -> None:
        """End it."""
        self._injected.heal()


class SimulatedFaults:
    """Breaking one simulated world."""

    def __init__(self, world: CeleryWorld, refuse: Callable[[CapabilityError], CapabilityError]) -> None:
        self._world = world
        self._refuse = refuse

    def inject(self, call: FaultCall) -> SimulatedInjection:
        """Begin one fault."""
        kind, options = self._translated(call)
        return SimulatedInjection(self._world.faults.inject(kind, **options))

    def heal(self) -> None:
        """End all of them, and wait until whoever was to come back has."""
        world = self._world
        world.faults.heal()

        def up() -> bool:
            coming = world.simulation.arguments_of(world.replace)
            return not coming and all(worker.ready for worker in world.living())

        world.simulation.wait(up, timeout=_UP_WITHIN, what="workers to be up again")

    def _translated(self, call: FaultCall) -> tuple[str, dict[str, Any]]:
        said = {
            _WORDS.get(name, name): value
            for name in _DEFAULTS
            if name not in ("kind", "target") and (value := getattr(call, name)) != _DEFAULTS[name]
        }
        if call.target == "redis":
            return self._of_redis(call, said)
        if call.target == "beat":
            return self._of_beat(call, said)
        return call.kind, said

    def _of_beat(self, call: FaultCall, said: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what stands for an end of the beat: it has nothing to bring to an end first."""
        if call.kind in ("kill", "term", "restart"):
            return "kill", {**said, "target": "beat"}
        if call.kind == "pause" or call.kind in WAYS:
            return call.kind, {**said, "target": "beat"}
        raise self._error(call, "the simulated beat has no connection of its own")

    def _of_redis(self, call: FaultCall, said: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what stands for an end of the server: nobody is let in until it is up again."""
        match call.kind:
            case "kill" | "term" | "restart" if call.restart is None:
                return "down", {}
            case "kill" | "term" | "restart":
                return "down", {"for_": call.restart}
            case "reset_peer":
                # All that are open break; who comes then is let in, unless it lasts.
                return "down", {"for_": 0.0, **said}
            case "pause":
                return "pause", {**said, "target": "broker"}
        return call.kind, said

    def _error(self, call: FaultCall, why: str) -> CapabilityError:
        what = kind_of(call)
        return self._refuse(CapabilityError("celery-sim", f"{what}: {call.kind}", why))
