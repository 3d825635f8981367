"""Simulated worlds that are to be broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pytest_taskservice.simulator.faulty import AMQP, REDIS, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.simulator.celery.world import CeleryWorld


@pytest.fixture(params=[REDIS, AMQP], ids=["redis", "amqp"])
def world(request: pytest.FixtureRequest) -> Iterator[CeleryWorld]:
    """A world of one worker with one slot, on either kind of broker."""
    with opened(request.param) as found:
        yield found


@pytest.fixture
def redis_world() -> Iterator[CeleryWorld]:
    """The same on Redis, whose visibility timeout is 600 s."""
    with opened() as found:
        yield found
