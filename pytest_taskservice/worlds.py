"""The worlds that a chosen back end stands for in tests' ids, and the command that runs one test again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_taskservice.errors import UnknownNameError
from pytest_taskservice.options import DEFAULT_START, HarnessOptions, parse_backends

__all__ = [
    "FIXTURE",
    "ONLY_OURS",
    "is_simulated",
    "missed_world",
    "replay_command",
    "replay_in",
    "split_world",
    "unseeded",
    "world_of",
    "worlds_for",
    "worlds_of",
]

FIXTURE = "taskservice_backend"
"""The fixture that has the worlds as its parameters, and puts a test into one of them."""
ONLY_OURS = frozenset({"task_service", "taskservice_clock", "taskservice_driver", "taskservice_sim"})
"""What a test has to be in a world of ours for; any other may be in that of Celery's own fixtures."""
_SIMULATED = "celery-sim"
_SEEDED = f"{_SIMULATED}-seed="
_SEED = "-seed="


def worlds_of(
    backend: str, options: HarnessOptions, *, is_async: bool = False, seeds: tuple[int, ...] = ()
) -> tuple[str, ...]:
    """Return the worlds of ``backend``: event loops, or seeds where the user chose any, or else ``seeds``.

    An async test gets its event loop from AnyIO's plugin; any other is run on both.
    """
    if backend == "anyio" and not is_async:
        return ("anyio-asyncio", "anyio-trio")
    if backend == _SIMULATED and options.seeded:
        seeds = tuple(range(options.seed, options.seed + options.seeds))
    if backend == _SIMULATED and seeds:
        return tuple(f"{_SEEDED}{seed}" for seed in seeds)
    return (backend,)


def worlds_for(node: pytest.Item, options: HarnessOptions, *, is_async: bool = False) -> list[str]:
    """Return the chosen worlds that ``node``, by its markers, is meant for."""
    meant = _meant_for(node)
    return [
        world
        for name in options.backends
        if meant is None or name in meant
        for world in worlds_of(name, options, is_async=is_async)
    ]


def missed_world(node: pytest.Item, options: HarnessOptions) -> tuple[str, str]:
    """Return a world that ``node`` is meant for where none of those is chosen, and that in words."""
    meant = _meant_for(node) or ("",)
    return meant[0], f"meant for {', '.join(meant)}; chosen: {', '.join(options.backends)}"


def _meant_for(node: pytest.Item) -> tuple[str, ...] | None:
    for marker in node.iter_markers("taskservice"):
        if "backend" in marker.kwargs:
            try:
                return parse_backends(marker.kwargs["backend"])
            except (UnknownNameError, ValueError) as error:
                raise pytest.Collector.CollectError(
                    f"@pytest.mark.taskservice of {node.nodeid}: {error}"
                ) from None
    return None


def split_world(world: str, options: HarnessOptions) -> tuple[str, int]:
    """Return the world's driver and its seed."""
    if not world.startswith(_SEEDED):
        return world, options.seed
    return _SIMULATED, int(world.removeprefix(_SEEDED))


def world_of(item: pytest.Item) -> str:
    """Return the world that ``item`` names, by its parameter or as its own; empty if it names none."""
    call: Any = getattr(item, "callspec", None)
    return str(getattr(item, "world", "") if call is None else call.params.get(FIXTURE, ""))


def is_simulated(item: pytest.Item) -> bool:
    """Return whether the world that ``item`` names is a simulation."""
    return unseeded(world_of(item)) == _SIMULATED


def unseeded(world: str) -> str:
    """Return ``world`` as it is called whatever its seed."""
    return world.partition(_SEED)[0]


def replay_command(item: pytest.Item, options: HarnessOptions, *, seed: int, path: str = "") -> str:
    """Return the command that runs ``item``, or all of ``path``, again in a simulation with ``seed``."""
    nodeid, choices = path or item.nodeid, [f"--taskservice-backend={_SIMULATED}"]
    if nodeid.endswith((f"[{_SIMULATED}]", f"[{_SEEDED}{seed}]")):
        nodeid = nodeid[: nodeid.rindex("[")]
        choices.append(f"--taskservice-seed={seed}")
    elif options.seeded or path:
        # The id names the seed, among other things.
        choices.append(f"--taskservice-seed={seed}")
    return _command(item, nodeid, [*choices, *_times(options)], ("app", "concurrency", "allow-sockets"))


def replay_in(item: pytest.Item, options: HarnessOptions, *, backend: str) -> str:
    """Return the command that runs ``item`` again in a world without seeds."""
    choices = [f"--taskservice-backend={backend}", *(_times(options) if backend == "anyio" else ())]
    return _command(
        item, item.nodeid, choices, ("app", "concurrency", "pool") if backend == "celery" else ("app",)
    )


def _times(options: HarnessOptions) -> Iterator[str]:
    if options.start != DEFAULT_START:
        yield f"--taskservice-start={options.start.isoformat()}"
    if options.events != HarnessOptions().events:
        yield f"--taskservice-events={options.events}"


def _command(item: pytest.Item, nodeid: str, choices: list[str], names: tuple[str, ...]) -> str:
    # What stands in the ini file is found again there.
    for name in names:
        given = item.config.getoption(f"--taskservice-{name}", default=None)
        choices += [] if given is None else [f"--taskservice-{name}={shlex.quote(str(given))}"]
    # What puts a test into its world may be given so.
    choices += [f"-o {shlex.quote(entry)}" for entry in item.config.getoption("override_ini", None) or ()]
    quoted = shlex.quote(nodeid)
    return " ".join(["pytest", quoted if quoted != nodeid else f"'{nodeid}'", *choices])
